"""The options, and both sides of every workload, measured in turn."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax

from experiments.benchmark import programs
from experiments.benchmark.output import about_machine, line_of, peak_bytes, print_table
from experiments.benchmark.programs import PROGRAMS, Sizes, Work
from experiments.options import check_least
from mcjax import InputError, data, models
from mcjax.runtime.mapping import convolutions_are_sequential
from mcjax.runtime.target import target

NAMES = {
    "endpoint": "endpoint epoch",
    "curve": "curve-fit epoch",
    "permutation": "permutation epoch (PAM)",
    "match": "matching activations",
    "path": "path",
    "plane": "plane",
}
FULL = Sizes(batch=128, steps=100, points=61, plane_points=21, images=500)
ON_CPU = {
    "mlp": Sizes(128, 50, 61, 21, 200),
    "tinyten": Sizes(128, 20, 61, 21, 128),
    "resnet32": Sizes(128, 4, 11, 9, 128),
    "vgg16": Sizes(32, 2, 5, 3, 32),
}
ModelName = Literal["mlp", "tinyten", "resnet32", "vgg16"]
Workload = Literal["endpoint", "curve", "permutation", "match", "path", "plane"]


@dataclass(frozen=True)
class Benchmark:
    """The models, workloads and sizes to measure."""

    data: str = "cifar10"
    """A data set, as `mcjax train` takes it; VGG16 wants images of 32 pixels or more."""
    models: tuple[ModelName, ...] = ("mlp", "tinyten", "resnet32", "vgg16")
    """The networks."""
    widths: tuple[int, ...] | None = None
    """Units of each hidden layer of the MLP (None: 256 256)."""
    pairs: tuple[int, ...] = (1, 6)
    """Numbers of pairs at once."""
    workloads: tuple[Workload, ...] = ("endpoint", "curve", "permutation", "match", "path", "plane")
    """The workloads."""
    rounds: int = 3
    """Rounds in which everything is measured, after a first one that compiles."""
    batch: int | None = None
    """Images of a batch of an epoch, and of matching (this and the next four, None: by model and platform)."""
    steps: int | None = None
    """Batches of an epoch."""
    points: int | None = None
    """Points of a path."""
    plane_points: int | None = None
    """Points along each axis of a plane."""
    images: int | None = None
    """Train images to match and to calibrate on, and train and test images to evaluate on."""
    augmented: bool = False
    """Measure the epochs of mcjax with its augmentation too; PyTorch stays without."""
    other_way: tuple[Workload, ...] = ("curve",)
    """Workloads to run also in the way that mcjax does not choose, for several pairs of convolutional networks."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward and backward passes of the epochs; in PyTorch by autocast."""
    precision: Literal["tf32", "float32"] = "tf32"
    """Precision of products of float32 on NVIDIA GPUs, on both sides."""
    out: Path | None = None
    """The JSON file to write the numbers to (None: none)."""

    def sizes(self, model: str) -> Sizes:
        """The sizes for a model on this platform."""
        chosen = ON_CPU[model] if target() == "cpu" else FULL
        given = {name: getattr(self, name) for name in Sizes._fields}
        return chosen._replace(**{name: value for name, value in given.items() if value is not None})

    def check(self) -> None:
        """Raise InputError for numbers that cannot be."""
        check_least(self, batch=1, steps=1, points=2, plane_points=2, images=1, rounds=1)
        if not self.pairs or min(self.pairs) < 1:
            raise InputError(f"got pairs={self.pairs}, expected whole numbers of at least 1.")
        if self.widths is not None and "mlp" not in self.models:
            raise InputError(f"got widths={self.widths} without mlp: expected none, other networks have their own.")
        if self.out and (self.out.is_dir() or not self.out.parent.is_dir()):
            raise InputError(f"got out={self.out}, expected a file in a folder that exists.")
        if find_spec("torch") is None:
            raise InputError("PyTorch is not installed: pip install -e '.[bench]'.")


@dataclass
class Runner:
    """One side of a workload, and its measurements.

    Attributes:
        make: makes the workload.
        run: the workload, once it is made.
        first: seconds of the first call, which compiles.
        seconds: seconds of the rounds.
        memory: bytes of its largest program, where they are known.
        error: the message of a failure, after which it is not run again.
    """

    make: Callable[[], Callable[[], Any]]
    run: Callable[[], Any] | None = None
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None
    error: str | None = None

    def measure(self, started: bool) -> None:
        """Run once; a failure is noted."""
        if self.error is not None:
            return
        try:
            self.run = self.run or self.make()
            began = time.perf_counter()
            with programs.noting_programs() as called:
                jax.block_until_ready(self.run())
            took = time.perf_counter() - began
            if started:
                self.seconds.append(took)
            else:
                self.first = took
                self.memory = programs.memory(called)
        except Exception as error:  # whatever it is, the other workloads go on
            self.error = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:150]
            self.run = None

    def results(self) -> dict[str, Any]:
        """Numbers for the JSON."""
        median = statistics.median(self.seconds) if self.seconds else None
        compiled = None if median is None else max(0.0, self.first - median)
        numbers = {"seconds": self.seconds, "median": median, "compile": compiled, "memory_bytes": self.memory}
        return {**numbers, "error": self.error}


def main(config: Benchmark) -> None:
    """Measure, print a table, and write the numbers."""
    config.check()
    # Beside PyTorch, JAX must not take three quarters of the GPU for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    if os.getloadavg()[0] > 1 and "OMP_WAIT_POLICY" not in os.environ:
        print("benchmark: other jobs are running; set OMP_WAIT_POLICY=passive to be fair to PyTorch", file=sys.stderr)
    from experiments.benchmark.torch_peer import Peer, reset_memory, set_precision

    set_precision(config.precision)
    if config.precision == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    dataset = data.load(config.data)
    made = {}
    for name in config.models:
        options: dict[str, Any] = {"widths": list(config.widths)} if config.widths and name == "mlp" else {}
        made[name] = models.create(name, dataset.num_classes, dataset.image_shape, **options)
        sizes = config.sizes(name)
        dataset.take(max(sizes.steps * sizes.batch, sizes.images), sizes.images)
    about = about_machine()
    about |= {name: getattr(config, name) for name in ("data", "widths", "rounds", "compute_dtype")}
    about["precision"] = "float32" if target() == "cpu" else config.precision
    rows: list[dict[str, Any]] = []
    for name, model in made.items():
        for pairs in config.pairs:
            work = programs.work_for(model, dataset, pairs, config.sizes(name), config.compute_dtype)
            peer = cache(partial(Peer, work))
            for workload in config.workloads:
                if workload == "plane" and pairs > 1 and 1 in config.pairs:
                    continue
                reset_memory()
                new = measured(config, work, peer, workload, about["peak_flops"])
                print(*map(line_of, new), sep="\n", file=sys.stderr, flush=True)
                rows += new
                if config.out:
                    config.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1))
            del work, peer
            jax.clear_caches()
    print_table(about, rows)


def measured(
    config: Benchmark, work: Work, peer: Callable[[], Any], workload: Workload, peak: float
) -> list[dict[str, Any]]:
    """The rows of one workload: mcjax as it is, and its variants, each beside PyTorch.

    Args:
        config: the options.
        work: the networks and images.
        peer: the other side, made when it is first needed.
        workload: the workload.
        peak: floating-point operations a second of the largest matrix product.
    """
    runners = {"": Runner(lambda: PROGRAMS[workload](work))}
    if config.augmented and workload in ("endpoint", "curve"):
        of_images = programs.endpoint if workload == "endpoint" else programs.curve
        runners[", augmented"] = Runner(lambda: of_images(work, augmented=True))
    if work.pairs > 1 and workload in config.other_way and workload != "plane" and programs.is_convolutional(work):
        way = "vmap" if convolutions_are_sequential() else "one after another"
        runners[f", the other way: {way}"] = Runner(lambda: programs.other_way(work, workload))
    from experiments.benchmark.torch_peer import peak_memory

    torch_runner = Runner(lambda: partial(peer().run, workload))
    for number in range(config.rounds + 1):
        for runner in (*runners.values(), torch_runner):
            runner.measure(started=number > 0)
    torch_runner.memory = peak_memory()
    operations = programs.operations(work, workload)
    rows = []
    for variant, runner in runners.items():
        here, there = runner.results(), torch_runner.results()
        ratios = [b / a for a, b in zip(runner.seconds, torch_runner.seconds, strict=False)]
        row = {"model": work.model.name, "pairs": work.pairs, "workload": NAMES[workload] + variant}
        row |= {"sizes": work.sizes.of(workload), **work.sizes._asdict(), "mcjax": here, "pytorch": there}
        row |= {"ratios": ratios, "ratio": statistics.median(ratios) if ratios else None}
        row |= {"operations": operations, "peak_bytes_so_far": peak_bytes()}
        for side in (here, there):
            side["flops"] = operations / side["median"] if side["median"] else None
            side["share_of_peak"] = side["flops"] / peak if side["flops"] else None
        rows.append(row)
    return rows
