"""The study: its options, its parts in order, and what is found from them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax

from experiments.options import changes_of, check_choices, fingerprint
from experiments.permutation_points import paths, spectra, toy
from experiments.permutation_points.counts import counts
from experiments.permutation_points.figures import draw
from experiments.permutation_points.tables import tables
from experiments.permutation_points.tasks import Size, make, sized
from experiments.study import Findings, Parts, Study, run
from mcjax import data
from mcjax.commands.options import seed_key

TASKS = ("toy", "mnist", "spectrum", "count", "merged")


@dataclass(frozen=True)
class Config:
    """The tasks, and how much of them is done."""

    tasks: tuple[Literal["toy", "mnist", "spectrum", "count", "merged"], ...] = (
        "toy", "mnist", "spectrum", "count", "merged",
    )  # fmt: skip
    """The tasks to do."""
    preset: Literal["small", "paper"] = "small"
    """Amount of work; the options of the size take precedence."""
    mnist: str = "mnist"
    """MNIST: a TFDS name or the path of an .npz."""
    data_dir: str | None = None
    """Folder of the TFDS data sets (None: TFDS's own default)."""
    activation: str = "relu"
    """Activation of the networks of MNIST."""
    size: Size = field(default_factory=lambda: changes_of(Size))
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/permutation_points-HASH)."""


def main(config: Config) -> None:
    """Run the study, resume it, or report what it found."""
    key = seed_key(config.seed)
    check_choices("tasks", config.tasks, TASKS)
    size, problem = sized(config.preset, config.size), None
    if {"mnist", "spectrum"} & set(config.tasks):
        problem = make(data.load(config.mnist, config.data_dir), config.activation, config.preset, config.size)
        size = problem.size
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(TASKS)}

    def find(parts: Parts) -> Findings:
        # The networks of `spectrum` are those of `mnist`.
        networks = paths.Networks(problem, keys["mnist"], parts) if problem else None
        found: dict[str, Any] = {}
        for name in config.tasks:
            if name == "toy":
                found[name] = toy.toys(parts, keys[name], size)
            elif name == "count":
                found[name] = counts(size.widths)
            elif name == "merged":
                found[name] = spectra.merged_spectra(parts, keys[name], size)
            elif networks and name == "mnist":
                found[name] = paths.mnist(networks)
            elif networks:
                toys = spectra.toy_spectra(parts, keys[name], size)
                found[name] = {"toy": toys, "mnist": spectra.mnist_spectra(networks)}
        return Findings({"tasks": found}, draw(found))

    study = Study(
        name="permutation_points",
        title="Permutation points: where two units of a network are one",
        text=[
            "A network and its copy with two units exchanged are joined by a path on which the units come together, "
            "become one, and part again. Where they are one, the units of the layer can be put into any order at "
            "constant loss."
        ],
        parts=_parts(config.tasks, size),
        find=find,
        tables=lambda results: tables(results["tasks"]),
    )
    images = fingerprint(problem.data) if problem else None
    run(study, {**asdict(config), "settings": asdict(size), "images": images}, config.out)


def _parts(tasks: tuple[str, ...], size: Size) -> list[str]:
    """The parts of the tasks; `count` has none."""
    names = toy.parts_of(size) if "toy" in tasks else []
    if "mnist" in tasks:
        names += paths.parts_of(size.widths, size.seeds)
    if "spectrum" in tasks:
        names += spectra.parts_of(size)
        if "mnist" not in tasks:
            names += paths.parts_of(size.widths[:1], 1)
    if "merged" in tasks:
        names += spectra.merged_parts(size)
    return names
