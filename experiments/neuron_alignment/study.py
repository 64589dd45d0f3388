"""The study: its options, its parts in order, and what is found from them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax

from experiments.neuron_alignment.cell import Cell, Settings
from experiments.neuron_alignment.figures import draw, draw_together
from experiments.neuron_alignment.measures import PLANES, results
from experiments.neuron_alignment.page import described, paths, plane
from experiments.neuron_alignment.tables import tables
from experiments.options import check_least
from experiments.study import Findings, Parts, Study, run
from mcjax import SGD, Dataset, FitConfig, Model, PamConfig, Task, TrainConfig, models, supervised
from mcjax.commands.devices import DeviceOptions
from mcjax.commands.options import DataOptions, seed_key
from mcjax.curves import PermutationFitConfig
from mcjax.errors import InputError
from mcjax.training.fit import ComputeDtype
from mcjax.training.loop import epoch_plan
from mcjax.training.task import examples

PRESETS = {"fast": (30, 32, 4), "paper": (250, 200, 20)}
"""Epochs of a network, of a curve, and of one permutation half-step of PAM."""


@dataclass(frozen=True)
class Config:
    """The networks and images, the length of training, and the fineness of measurement."""

    data: tuple[str, ...] = ("cifar10",)
    """Data sets: TFDS names, digits, or paths of .npz files."""
    models: tuple[str, ...] = ("tinysix", "tinyten", "resnet32", "vgg16")
    """Architectures, as `mcjax train` takes them."""
    data_dir: str | None = None
    """Folder of the TFDS data sets (None: TFDS's own default)."""
    train_images: int | None = None
    """Use the first so many training images (None: all)."""
    test_images: int | None = None
    """Use the first so many test images (None: all)."""
    width: float = 1.0
    """Multiplier of every width."""
    widths: tuple[int, ...] | None = None
    """Units of each hidden layer, for mlp alone (None: 256 256)."""
    pairs: int | None = None
    """Pairs of networks (None: 6 on cifar10 and the digits, 3 on others)."""
    preset: Literal["fast", "paper"] = "fast"
    """Length of training; the numbers of epochs take precedence."""
    epochs: int | None = None
    """Epochs of a network."""
    curve_epochs: int | None = None
    """Epochs of a curve."""
    permutation_epochs: int | None = None
    """Epochs of one permutation half-step of PAM; a curve half-step has twice as many, and there are four."""
    batch_size: int = TrainConfig.batch_size
    """Images a step."""
    pam: Literal["auto", "on", "off"] = "auto"
    """Whether to fit PAM's curves (auto: for all but VGG16, as in the paper)."""
    compute_dtype: ComputeDtype = "float32"
    """Precision of the forward and the backward pass while training and fitting."""
    points: int = 61
    """Values of t to measure at."""
    calibration_images: int | None = None
    """Training images to re-estimate batch statistics on at every point of curves and planes (None: all)."""
    plane_points: int = 21
    """Points of a plane along each axis."""
    plane_images: int | None = None
    """Test images to measure planes on (None: all)."""
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/neuron_alignment-HASH)."""

    def settings(self, model: str, data: Dataset) -> Settings:
        """The settings of one architecture on one data set."""
        preset = PRESETS[self.preset]
        given = (self.epochs, self.curve_epochs, self.permutation_epochs)
        epochs, curve, permutation = (own if g is None else g for own, g in zip(preset, given, strict=True))
        shared: dict[str, Any] = {
            "optimizer": SGD(schedule="halving" if self.preset == "paper" else "one_cycle"),
            "compute_dtype": self.compute_dtype,
            "batch_size": self.batch_size,
        }
        pam = PamConfig(
            curve=FitConfig(epochs=2 * permutation, **shared), permutation=PermutationFitConfig(epochs=permutation)
        )
        with_pam = self.pam == "on" or (self.pam == "auto" and not model.startswith("vgg"))
        pairs = (6 if data.name in ("cifar10", "digits") else 3) if self.pairs is None else self.pairs
        return Settings(
            networks=TrainConfig(epochs=epochs, **shared),
            curve=FitConfig(epochs=curve, **shared),
            pam=pam if with_pam else None,
            pairs=pairs,
            points=self.points,
            calibration_images=self.calibration_images,
            plane_points=self.plane_points,
            plane_images=self.plane_images,
        )

    def model(self, name: str, data: Dataset) -> Model:
        """One architecture for one data set."""
        options: dict[str, Any] = {"width": self.width}
        if self.widths is not None and name == "mlp":
            options["widths"] = list(self.widths)
        return models.create(name, data.num_classes, data.image_shape, **options)


def main(config: Config) -> None:
    """Run the study, resume it, or report what it found."""
    mesh, key = config.devices.start(config.batch_size), seed_key(config.seed)
    if config.widths is not None and "mlp" not in config.models:
        raise InputError(f"got widths={config.widths} without mlp: expected none, since other networks have their own.")
    chosen: dict[str, tuple[str, Task, Settings]] = {}
    images = {}
    for name in config.data:
        data, images[name] = DataOptions(name, config.data_dir, config.train_images, config.test_images).load()
        for architecture in config.models:
            settings, task = config.settings(architecture, data), supervised(config.model(architecture, data), data)
            _check(task, settings)
            chosen[f"{architecture}_{data.name}"] = (data.name, task, settings)
    if len(chosen) < len(config.data) * len(config.models):
        raise InputError(f"got {', '.join(config.data)} and {', '.join(config.models)}: expected every one once.")

    def find(parts: Parts) -> Findings:
        cells = [
            Cell(name, *made, jax.random.fold_in(key, number), parts.under(name), mesh)
            for number, (name, made) in enumerate(chosen.items())
        ]
        found = {cell.name: results(cell) for cell in cells}
        figures = (each for drawn in (*map(draw, cells), draw_together(cells)) for each in drawn)
        planes = [plane(cell, name) for cell in cells for name in PLANES]
        return Findings({"cells": found}, figures, [paths(cell) for cell in cells], planes)

    study = Study(
        name="neuron_alignment",
        title="Neuron alignment: curves between networks, with and without the permutation symmetry",
        text=[
            *(described(name, task, settings) for name, (_, task, settings) in chosen.items()),
            "Numbers are means and standard deviations over pairs. Planes are those of the first pair, in the units of "
            "the weights, measured on test images.",
        ],
        parts=[
            f"{name}_{part}".replace(" ", "_") for name, (*_, settings) in chosen.items() for part in settings.parts
        ],
        find=find,
        tables=lambda results: tables(results["cells"]),
    )
    settings_of = {name: asdict(settings) for name, (*_, settings) in chosen.items()}
    run(study, {**asdict(config), "images": images, "settings": settings_of}, config.out)


def _check(task: Task, settings: Settings) -> None:
    """Raise InputError for what would otherwise be found out hours later."""
    check_least(settings, pairs=1, points=3, plane_points=2)
    there_are = {"calibration_images": examples(task.train), "plane_images": examples(task.test)}
    for name, there in there_are.items():
        given = getattr(settings, name)
        if given is not None and not 1 <= given <= there:
            raise InputError(f"got {name}={given}, expected 1 to the {there} of {task.name}.")
    epoch_plan(task, settings.networks.batch_size, None)
