"""The parts of the study, in order."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax

from experiments.display import Display
from experiments.kept import Kept
from experiments.permutation_points import mnist as permutation_mnist
from experiments.permutation_points import spectra as permutation_spectra
from experiments.permutation_points import toy as permutation_toy
from experiments.permutation_points.counts import counts
from experiments.permutation_points.figures import draw
from experiments.permutation_points.mnist import Networks, mnist
from experiments.permutation_points.output import page, tables
from experiments.permutation_points.spectra import mnist_spectra, toy_spectra
from experiments.permutation_points.tasks import Size, Sources, Task, make, sized
from experiments.permutation_points.toy import toys
from mcjax import trees
from mcjax.commands.options import open_run, seed_key
from mcjax.errors import InputError
from mcjax.permutation_points.config import Precision
from mcjax.runs.tables import table
from mcjax.training.loop import steps_per_epoch

TASKS = ("toy", "mnist", "spectrum", "count")


@dataclass(frozen=True)
class Study:
    """Which tasks, and how much of them."""

    tasks: tuple[Literal["toy", "mnist", "spectrum", "count"], ...] = ("toy", "mnist", "spectrum", "count")
    """What is done."""
    preset: Literal["small", "paper"] = "small"
    """How much of it; what is given below takes precedence."""
    sources: Sources = field(default_factory=Sources)
    activation: str = "relu"
    """Of the networks of MNIST."""
    toys: tuple[Literal["relu", "tanh"], ...] | None = None
    """Activations of the toy."""
    toy_steps: int | None = None
    """Distances of a path of the toy."""
    toy_samples: int | None = None
    """Points that the toy is trained on."""
    toy_tolerance: float | None = None
    """Of the gradient's norm on the way, of the toy."""
    toy_iterations: int | None = None
    """Newton steps of the toy at a distance, at most."""
    toy_knots: int | None = None
    """Points of a path of the toy that there is room for."""
    toy_bump: float | None = None
    """Walk a path of the toy again where it rises above its minima by more than this share of their height."""
    toy_networks: int | None = None
    """Toys whose spectra are computed, of every number of outputs."""
    toy_outputs: tuple[int, ...] | None = None
    """These numbers of outputs."""
    pool: int | None = None
    """Average the images of MNIST over squares of so many pixels."""
    train_images: int | None = None
    """Use the first so many training images."""
    widths: tuple[int, ...] | None = None
    """H, units of both hidden layers."""
    seeds: int | None = None
    """Teachers of every width."""
    epochs: int | None = None
    """Epochs of a teacher."""
    steps: int | None = None
    """Distances of a path of MNIST."""
    tolerance: float | None = None
    """Of the gradient's norm on the way."""
    point_tolerance: float | None = None
    """Of the gradient's norm at the permutation point."""
    iterations: int | None = None
    """Newton steps at a distance, at most."""
    products: int | None = None
    """Products of the Hessian a Newton step, at most."""
    knots: int | None = None
    """Points of a path that there is room for."""
    precision: Precision | None = None
    """Of MNIST's paths."""
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/permutation_points-HASH)."""


def main(study: Study) -> None:
    """Do the study, or go on with it, or report what was found."""
    key = seed_key(study.seed)
    if not study.tasks or len(set(study.tasks)) < len(study.tasks):
        raise InputError(
            f"got tasks {', '.join(study.tasks) or 'none'}, expected some of {', '.join(TASKS)}, each once."
        )
    changes = {
        name: getattr(study, name)
        for name in (
            "toys", "toy_steps", "toy_samples", "toy_tolerance", "toy_iterations", "toy_knots", "toy_bump",
            "toy_networks", "toy_outputs", "pool", "train_images", "widths", "seeds", "epochs", "steps", "tolerance",
            "point_tolerance", "iterations", "products", "knots", "precision",
        )
    }  # fmt: skip
    size, task = sized(study.preset, changes), None
    config = {**asdict(study), "out": None}
    if {"mnist", "spectrum"} & set(study.tasks):
        task = make(study.preset, study.sources, study.activation, changes)
        steps_per_epoch(task.training, task.data)
        size = task.size
        config["data"] = trees.fingerprint([task.data.train_images, task.data.train_labels])
    config["planned"] = asdict(size)
    run = open_run("permutation_points", study.out, config)
    if run.results is None:
        display = Display(planned(study.tasks, size, task))
        kept = Kept(run, display)
        try:
            found: dict[str, Any] = {name: _found(name, size, task, key, kept) for name in study.tasks}
        finally:
            display.close()
        figures = draw(run, found)
        run.finish({"tasks": found, "page": page(found, figures)})
    for each in tables((run.results or {})["tasks"]):
        print(f"\n{each['title']}\n{table(each['head'], each['rows'])}")
    print(f"\nWritten to {run.path}; `mcjax report {run.path}` makes a page of it.")


def _found(name: str, size: Size, task: Task | None, key: jax.Array, kept: Kept) -> Any:
    here = jax.random.fold_in(key, TASKS.index(name))
    if name == "toy":
        return toys(kept, here, size)
    if name == "count":
        return counts(size.widths)
    assert task is not None
    # The networks of `spectrum` are those of `mnist`.
    networks = Networks(task, jax.random.fold_in(key, TASKS.index("mnist")), kept)
    if name == "mnist":
        return mnist(networks)
    return {"toy": toy_spectra(kept, here, size), "mnist": mnist_spectra(networks)}


def planned(tasks: tuple[str, ...], size: Size, task: Task | None) -> dict[str, tuple[float, int]]:
    """Of every stage what it costs, roughly, and its epochs, by its name."""
    stages: dict[str, tuple[float, int]] = {}
    if "toy" in tasks:
        stages |= permutation_toy.costs(size)
    if task is not None:
        images = len(task.data.train_labels)
        if "spectrum" in tasks:
            stages |= permutation_mnist.costs(task, size.widths[:1], 1)
            stages |= permutation_spectra.costs(images, size)
        if "mnist" in tasks:
            stages |= permutation_mnist.costs(task, size.widths, size.seeds)
    return stages
