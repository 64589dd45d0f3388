"""The parts of the study, in order."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from experiments.string_sampling.figures import draw, draw_all
from experiments.string_sampling.results import gather, page, tables
from experiments.string_sampling.tasks import SIZES, Sources, Task, make, permuting
from experiments.times import timed
from mcjax import Recorder, match_activations, match_straight_through, match_weights, permute, train_endpoints, trees
from mcjax.commands.options import open_run, seed_key
from mcjax.errors import InputError
from mcjax.runs.folder import RunFolder
from mcjax.runs.tables import table
from mcjax.strings import String, sample_strings

TASKS = (*SIZES, "permutation")
VARIANTS = ("unmatched", "matched")


@dataclass(frozen=True)
class Study:
    """Which tasks, how many pairs, at which thresholds."""

    tasks: tuple[Literal["quadratic", "cubic", "mnist", "cifar10", "ptb", "permutation"], ...] = (
        "quadratic",
        "cubic",
        "permutation",
    )
    """What the networks have learnt."""
    preset: Literal["small", "paper"] = "small"
    """How much of it; what is given below takes precedence."""
    sources: Sources = field(default_factory=Sources)
    thresholds: tuple[float, ...] | None = None
    """To be used instead of the preset's, for one task."""
    pairs: int | None = None
    """Pairs of networks at every threshold."""
    width: float | None = None
    """Multiplier of the widths of mnist, cifar10 and ptb."""
    train_images: int | None = None
    """Use the first so many training images (or sequences)."""
    images: int | None = None
    """Measure thresholds on the first so many images (or sequences) of the split."""
    split: Literal["train", "validation", "test"] | None = None
    """The split that thresholds are of (None: train)."""
    hold_out: int | None = None
    """Take so many training images as the validation split, where there is none."""
    matching: Literal["activations", "weights", "straight_through"] = "activations"
    """How units are matched."""
    alpha: float | None = None
    """Beads are trained to alpha times the threshold."""
    tolerance: float | None = None
    """Segments may rise to 1 + tolerance times the threshold."""
    insert: Literal["maximum", "middle"] | None = None
    """Where a new bead starts on its segment."""
    zeta: float | None = None
    """Springs between neighbours."""
    kappa: float | None = None
    """Stiffness of the hyperplane between neighbours; inf holds beads in it."""
    epochs: int | None = None
    """The most epochs of a bead."""
    beads: int | None = None
    """The most beads of a string."""
    depth: int | None = None
    """The most rounds of insertion."""
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/string_sampling-HASH)."""


def main(study: Study) -> None:
    """Do the study, or go on with it, or report what was found."""
    key = seed_key(study.seed)
    if not study.tasks:
        raise InputError(f"got no tasks, expected some of {', '.join(TASKS)}.")
    larger = {"mnist", "cifar10", "ptb"} & set(study.tasks)
    for what in ("width", "train_images", "images", "hold_out"):
        if getattr(study, what) is not None and not larger:
            raise InputError(f"got {what}={getattr(study, what)}, which is of mnist, cifar10 and ptb: expected none.")
    tasks = [_task(study, name) for name in study.tasks]
    if len(set(study.tasks)) < len(tasks):
        raise InputError(f"got tasks {', '.join(study.tasks)}: expected every one once.")
    config = {**asdict(study), "out": None}
    config["planned"] = {
        task.name: {
            "thresholds": task.thresholds,
            "pairs": task.pairs,
            "ends": asdict(task.ends),
            # JSON has no infinity.
            "string": {name: str(v) if v == np.inf else v for name, v in asdict(task.config).items()},
            "data": trees.fingerprint([task.data.train_images, task.data.train_labels, task.data.test_images]),
        }
        for task in tasks
    }
    run = open_run("string_sampling", study.out, config)
    if run.results is None:
        found, figures = {}, []
        for task in tasks:
            strings, reached = sample(run, task, jax.random.fold_in(key, TASKS.index(task.name)), study.matching)
            found[task.name] = gather(task, strings, reached)
            with timed(run, f"{task.name} figures"):
                figures += draw(run, task, strings)
        figures = draw_all(run, found) + figures
        run.finish({"tasks": found, "page": page(found, figures)})
    for each in tables((run.results or {})["tasks"]):
        print(f"\n{each['title']}\n{table(each['head'], each['rows'])}")
    print(f"\nWritten to {run.path}; `mcjax report {run.path}` makes a page of it.")


def _task(study: Study, name: str) -> Task:
    changes = {what: getattr(study, what) for what in ("thresholds", "pairs", "width", "train_images", "images")}
    wrong = study.thresholds is not None and not all(0 < level < np.inf for level in study.thresholds)
    if study.thresholds is not None and (len(study.tasks) > 1 or not study.thresholds or wrong):
        raise InputError(
            f"got thresholds {study.thresholds} for {', '.join(study.tasks)}: expected positive ones, and one task."
        )
    if study.pairs is not None and study.pairs < 1:
        raise InputError(f"got pairs={study.pairs}, expected at least 1.")
    string = {
        what: getattr(study, what)
        for what in ("split", "alpha", "tolerance", "insert", "zeta", "kappa", "epochs", "beads", "depth")
    }
    task = (
        permuting(study.thresholds, study.pairs, string)
        if name == "permutation"
        else make(name, study.preset, study.sources, changes, study.hold_out, string)
    )
    task.config.criterion.check(task.data)
    return task


def sample(run: RunFolder, task: Task, key: jax.Array, matching: str) -> tuple[dict[str, list[String]], list[bool]]:
    """The strings of every pair of networks that reached its threshold, unmatched and matched; which pairs did."""
    ends_key, match_key, string_key = jax.random.split(key, 3)
    first, second, reached = _ends(run, task, ends_key)
    thresholds = np.repeat(task.thresholds, task.pairs)[reached]
    strings: dict[str, list[String]] = {name: [] for name in VARIANTS}
    if not any(reached):
        return strings, reached
    for name in VARIANTS:
        P = None if name == "unmatched" else _match(matching, match_key, task, first, second)
        recorder = Recorder(f"{task.name}, {name}", run, f"{task.name}_{name}")
        with timed(run, f"{task.name} {name}"):
            strings[name] = sample_strings(
                string_key, task.model, first, second, task.data, thresholds, P, task.config, recorder=recorder
            )
    return strings, reached


def _ends(run: RunFolder, task: Task, key: jax.Array) -> tuple[trees.Tree, trees.Tree, list[bool]]:
    """Networks trained to the thresholds, two of each pair, of those pairs whose networks got there; which did."""
    permuted = task.name == "permutation"
    each = 1 if permuted else 2
    targets = np.repeat(task.thresholds, each * task.pairs)
    with timed(run, f"{task.name} networks"):
        ends = train_endpoints(
            jax.random.split(key, len(targets)),
            task.model,
            task.data,
            task.ends,
            target=targets,
            criterion=task.config.criterion,
            recorder=Recorder(f"{task.name}, networks", run, f"{task.name}_networks"),
        )
    assert ends.criterion is not None
    there = np.all((ends.criterion <= targets).reshape(-1, each), axis=1)
    first, second = (trees.index(ends.theta, slice(side, None, each)) for side in (0, each - 1))
    first, second = trees.index(first, there), trees.index(second, there)
    if permuted:
        swap = {"dense_0": np.array([1, 0, 2], np.int32)}
        second = jax.vmap(lambda theta: permute(task.model.spec, swap, theta))(first)
    return first, second, there.tolist()


def _match(how: str, key: jax.Array, task: Task, first: trees.Tree, second: trees.Tree) -> Any:
    if how == "weights" or task.name == "permutation":  # three points are too few to tell units apart by
        return match_weights(key, task.model.spec, first, second).P
    if how == "activations":
        return match_activations(task.model, first, second, task.data).P
    return match_straight_through(key, task.model, first, second, task.data).P
