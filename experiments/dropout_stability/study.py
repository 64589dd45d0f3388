"""The parts of the study, in order."""

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import jax

from experiments.display import Display
from experiments.dropout_stability import measures, wide_gaps
from experiments.dropout_stability.costs import planned
from experiments.dropout_stability.measures import Cell
from experiments.dropout_stability.output import draw, page, tables
from experiments.dropout_stability.tasks import Sources, Task, make
from experiments.kept import Kept
from mcjax import trees
from mcjax.commands.options import open_run, seed_key
from mcjax.constructions import chain_of
from mcjax.errors import InputError
from mcjax.runs.tables import table
from mcjax.training.loop import steps_per_epoch

TASKS = ("mnist", "cifar10", "wide")


@dataclass(frozen=True)
class Study:
    """Which tasks, and how much of them."""

    tasks: tuple[Literal["mnist", "cifar10", "wide"], ...] = ("mnist", "cifar10", "wide")
    """What is done."""
    preset: Literal["small", "paper"] = "small"
    """How much of it; what is given below takes precedence."""
    sources: Sources = field(default_factory=Sources)
    width: float | None = None
    """Multiplier of the widths."""
    train_images: int | None = None
    """Use the first so many training images."""
    test_images: int | None = None
    """Use the first so many test images."""
    epochs: int | None = None
    """Epochs of a network."""
    curve_epochs: int | None = None
    """Epochs of a curve."""
    draws: int | None = None
    """Random subsets of units that are compared."""
    measured: int | None = None
    """Training images that paths and epsilon are measured on."""
    search_images: int | None = None
    """Training images by which subsets are compared."""
    stability_images: int | None = None
    """Training images whose cushions and smoothness are measured."""
    string_beads: int | None = None
    """The most beads of a string."""
    shares: tuple[float, ...] | None = None
    """Shares of units dropped that are compared."""
    narrow_widths: tuple[int, ...] | None = None
    """Filters of the narrow networks that are compared."""
    units: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Hidden units of the networks of wide."""
    pairs: int = 3
    """Pairs of them of every width."""
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/dropout_stability-HASH)."""


def main(study: Study) -> None:
    """Do the study, or go on with it, or report what was found."""
    key = seed_key(study.seed)
    if not study.tasks or len(set(study.tasks)) < len(study.tasks):
        raise InputError(
            f"got tasks {', '.join(study.tasks) or 'none'}, expected some of {', '.join(TASKS)}, each once."
        )
    _check(study)
    tasks = {name: _task(study, name) for name in study.tasks if name != "wide"}
    config = {**asdict(study), "out": None}
    config["planned"] = {
        name: {
            "size": asdict(task.size),
            "networks": asdict(task.networks),
            "curve": asdict(task.curve),
            "string": asdict(task.string),
            "data": trees.fingerprint([task.data.train_images, task.data.train_labels, task.data.test_images]),
        }
        for name, task in tasks.items()
    }
    run = open_run("dropout_stability", study.out, config)
    if run.results is None:
        costs = wide_gaps.costs(study.units) if "wide" in study.tasks else {}
        for task in tasks.values():
            costs |= planned(task)
        display = Display(costs)
        kept = Kept(run, display)
        found: dict[str, Any] = {}
        figures = []
        try:
            for name in study.tasks:
                here = jax.random.fold_in(key, TASKS.index(name))
                if name == "wide":
                    found[name] = wide_gaps.gaps(kept, here, study.units, study.pairs)
                else:
                    found[name] = _results(Cell(tasks[name], here, kept))
                figures += draw(run, name, found[name])
        finally:
            display.close()
        run.finish({"tasks": found, "page": page(found, figures)})
    for each in tables((run.results or {})["tasks"]):
        print(f"\n{each['title']}\n{table(each['head'], each['rows'])}")
    print(f"\nWritten to {run.path}; `mcjax report {run.path}` makes a page of it.")


SIZES = (
    "width", "train_images", "test_images", "epochs", "curve_epochs", "draws", "measured", "search_images",
    "stability_images", "string_beads", "shares", "narrow_widths",
)  # fmt: skip


def _check(study: Study) -> None:
    for what in (*SIZES, "units", "pairs"):
        values = getattr(study, what)
        several = isinstance(values, tuple)
        if several and (not values or any(b <= a for a, b in pairwise(values))):
            raise InputError(f"got {what}={values}, expected at least one, increasing.")
        for value in values if several else (values,):
            if value is not None and not value > 0:
                raise InputError(f"got {what}={value}, expected a positive number.")
    if study.shares and study.shares[-1] >= 1:
        raise InputError(f"got shares={study.shares}, expected all of them below 1.")


def _task(study: Study, name: str) -> Task:
    task = make(name, study.preset, study.sources, {what: getattr(study, what) for what in SIZES})
    filters, widths = chain_of(task.model).sizes[0], task.size.narrow_widths
    if name == "mnist" and widths[0] > filters:
        raise InputError(f"got narrow_widths={widths}, expected one of at most the {filters} filters of the network.")
    steps_per_epoch(task.networks, task.data)
    return task


def _results(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": cell.task.title,
        "parameters": trees.parameter_count(cell.end(0)),
        "networks": measures.networks(cell),
    }
    if cell.task.name == "mnist":
        found["shares"] = measures.against_share(cell)
        found["interpolation"] = measures.interpolation(cell)
        found["narrow"] = measures.narrow_widths(cell)
    else:
        found["stability"] = measures.stability(cell)
    found["paths"] = measures.paths(cell)
    return found
