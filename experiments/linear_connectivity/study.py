"""The parts of the study, in order."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax

from experiments.display import Display
from experiments.kept import Kept
from experiments.linear_connectivity import tractable
from experiments.linear_connectivity.costs import planned
from experiments.linear_connectivity.figures import draw
from experiments.linear_connectivity.measures import Cell, conjecture, spawning
from experiments.linear_connectivity.merging import merging
from experiments.linear_connectivity.output import page, tables
from experiments.linear_connectivity.tasks import TRAINING, Sources, Task, make
from mcjax import trees
from mcjax.commands.options import open_run, seed_key
from mcjax.errors import InputError
from mcjax.runs.tables import table
from mcjax.training.loop import steps_per_epoch

TASKS = {"spawning": spawning, "conjecture": conjecture, "merging": merging}
DATA = ("mnist", "cifar10")


@dataclass(frozen=True)
class Study:
    """Which tasks, on which data, and how much of them."""

    tasks: tuple[Literal["spawning", "conjecture", "merging", "tractable"], ...] = (
        "spawning", "conjecture", "merging", "tractable",
    )  # fmt: skip
    """What is done."""
    data: tuple[Literal["mnist", "cifar10"], ...] = ("mnist", "cifar10")
    """On what all but tractable is done."""
    preset: Literal["small", "paper"] = "small"
    """How much of it; what is given below takes precedence."""
    sources: Sources = field(default_factory=Sources)
    seeds: int | None = None
    """Networks that are spawned from, and pairs that are matched."""
    steps: int | None = None
    """Steps of SGD of every network."""
    spawn_steps: tuple[int, ...] | None = None
    """After which of them networks are spawned."""
    snapshot_steps: tuple[int, ...] | None = None
    """After which of them pairs are matched."""
    width: float | None = None
    """Multiplier of the widths."""
    widths: tuple[float, ...] | None = None
    """Multipliers that are compared."""
    train_images: int | None = None
    """Use the first so many training images."""
    test_images: int | None = None
    """Use the first so many test images."""
    matching_steps: int | None = None
    """Steps of straight-through matching, and of PAM's permutation."""
    measured: int | None = None
    """Training images that lines are measured on."""
    tested: int | None = None
    """Test images that lines are measured on."""
    points: int | None = None
    """Points of a line."""
    methods: tuple[Literal["activations", "weights", "straight-through", "PAM"], ...] | None = None
    """Ways to match that are compared."""
    fineness: tractable.Fineness = field(default_factory=tractable.Fineness)
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/linear_connectivity-HASH)."""


def main(study: Study) -> None:
    """Do the study, or go on with it, or report what was found."""
    key = seed_key(study.seed)
    for name, got, choices in (("tasks", study.tasks, (*TASKS, "tractable")), ("data", study.data, DATA)):
        if not got or len(set(got)) < len(got):
            raise InputError(
                f"got {name} {', '.join(got) or 'none'}, expected some of {', '.join(choices)}, each once."
            )
    trained = [name for name in study.tasks if name != "tractable"]
    tasks = {name: _task(study, name) for name in study.data} if trained else {}
    config = {**asdict(study), "out": None}
    config["planned"] = {
        name: {
            "size": asdict(task.size),
            "model": [task.architecture, task.options],
            "training": TRAINING[name],
            "data": trees.fingerprint([task.data.train_images, task.data.train_labels, task.data.test_images]),
        }
        for name, task in tasks.items()
    }
    run = open_run("linear_connectivity", study.out, config)
    if run.results is None:
        costs = tractable.costs() if "tractable" in study.tasks else {}
        for task in tasks.values():
            costs |= planned(task, trained)
        display = Display(costs)
        kept = Kept(run, display)
        found: dict[str, Any] = {"data": {}}
        try:
            for name, task in tasks.items():
                cell = Cell(task, jax.random.fold_in(key, DATA.index(name)), kept)
                found["data"][name] = {"title": task.data.name} | {each: TASKS[each](cell) for each in trained}
            if "tractable" in study.tasks:
                found["tractable"] = tractable.tractable(kept, jax.random.fold_in(key, len(DATA)), study.fineness)
        finally:
            display.close()
        figures = draw(run, found)
        run.finish({"found": found, "page": page(found, figures)})
    for each in tables((run.results or {})["found"]):
        print(f"\n{each['title']}\n{table(each['head'], each['rows'])}")
    print(f"\nWritten to {run.path}; `mcjax report {run.path}` makes a page of it.")


def _task(study: Study, name: str) -> Task:
    names = (
        "seeds", "steps", "spawn_steps", "snapshot_steps", "width", "widths", "train_images", "test_images",
        "matching_steps", "measured", "tested", "points", "methods",
    )  # fmt: skip
    task = make(name, study.preset, study.sources, {what: getattr(study, what) for what in names})
    steps_per_epoch(task.training(task.size.steps)[0], task.data)
    return task
