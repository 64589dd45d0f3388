"""The parts of the study, in order."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from experiments.display import Display
from experiments.kept import Kept
from experiments.neuron_alignment import measures
from experiments.neuron_alignment.cell import LINES, Cell, Settings
from experiments.neuron_alignment.costs import planned_costs
from experiments.neuron_alignment.figures import draw, draw_together
from experiments.neuron_alignment.page import page
from experiments.neuron_alignment.tables import summary, tables
from mcjax import Dataset, FitConfig, PamConfig, TrainConfig, models, trees
from mcjax.commands.devices import DeviceOptions
from mcjax.commands.options import DataOptions, open_run, seed_key
from mcjax.commands.quickstart import summarized
from mcjax.errors import InputError
from mcjax.runs.tables import mean_and_std, table
from mcjax.runtime.processes import is_first_process
from mcjax.training.config import ComputeDtype
from mcjax.training.loop import steps_per_epoch

PRESETS = {"fast": (30, 32, 4), "paper": (250, 200, 20)}
"""Epochs of a network, of a curve, and of one permutation half-step of PAM."""


@dataclass(frozen=True)
class Study:
    """Which networks on which images, how long, and how finely it is measured."""

    data: tuple[str, ...] = ("cifar10",)
    """Data sets: TFDS names, digits, or paths of .npz files."""
    models: tuple[str, ...] = ("tinysix", "tinyten", "resnet32", "vgg16")
    """Architectures, as `mcjax train` takes them."""
    data_dir: str | None = None
    """Where TFDS keeps its sets (None: TFDS's own default)."""
    train_images: int | None = None
    """Use the first so many training images (None: all)."""
    test_images: int | None = None
    """Use the first so many test images (None: all)."""
    width: float = 1.0
    """Multiplier of every width."""
    widths: tuple[int, ...] | None = None
    """Units of each hidden layer, for mlp alone (None: 256 256)."""
    pairs: int | None = None
    """How many pairs of networks (None: 6 on cifar10 and the digits, 3 on others)."""
    preset: Literal["fast", "paper"] = "fast"
    """How long to train; what is given below takes precedence."""
    epochs: int | None = None
    """Epochs of a network."""
    curve_epochs: int | None = None
    """Epochs of a curve."""
    permutation_epochs: int | None = None
    """Epochs of one permutation half-step of PAM; a curve half-step has twice as many, and there are four."""
    batch_size: int = TrainConfig.batch_size
    """Images per step."""
    pam: Literal["auto", "on", "off"] = "auto"
    """Whether to fit PAM's curves (auto: for all but VGG16, as in the paper)."""
    compute_dtype: ComputeDtype = "float32"
    """Of the forward and the backward pass while training and fitting."""
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
        """How one architecture is treated on one data set."""
        preset = PRESETS[self.preset]
        given = (self.epochs, self.curve_epochs, self.permutation_epochs)
        epochs, curve, permutation = (own if g is None else g for own, g in zip(preset, given, strict=True))
        shared: dict[str, Any] = {
            "schedule": "halving" if self.preset == "paper" else "one_cycle",
            "augmentation": data.default_augmentation(),
            "compute_dtype": self.compute_dtype,
            "batch_size": self.batch_size,
        }
        with_pam = self.pam == "on" or (self.pam == "auto" and not model.startswith("vgg"))
        pairs = (6 if data.name in ("cifar10", "digits") else 3) if self.pairs is None else self.pairs
        return Settings(
            networks=TrainConfig(epochs=epochs, **shared),
            curve=FitConfig(epochs=curve, **shared),
            pam=PamConfig(epochs=2 * permutation, permutation_epochs=permutation, **shared) if with_pam else None,
            pairs=pairs,
            points=self.points,
            calibration_images=self.calibration_images,
            plane_points=self.plane_points,
            plane_images=self.plane_images,
        )


def main(study: Study) -> None:
    """Do the study, or go on with it, or report what was found."""
    mesh = study.devices.start(study.batch_size)
    key, described, planned = seed_key(study.seed), {}, {}
    if study.widths is not None and "mlp" not in study.models:
        raise InputError(f"got widths={study.widths} without mlp: expected none, since other networks have their own.")
    for name in study.data:
        options = DataOptions(name, study.data_dir, study.train_images, study.test_images)
        data, described[name] = options.load()
        for architecture in study.models:
            settings = study.settings(architecture, data)
            _check(data, settings)
            planned[f"{architecture}_{data.name}"] = (_model(study, architecture, data), data, settings)
    if len(planned) < len(study.data) * len(study.models):
        raise InputError(f"got {', '.join(study.data)} and {', '.join(study.models)}: expected every one once.")
    config = {**asdict(study), "images": described, "out": None}
    config["settings"] = {name: asdict(settings) for name, (_, _, settings) in planned.items()}
    run = open_run("neuron_alignment", study.out, config)
    if run.results is None:
        costs: dict[str, tuple[float, int]] = {}
        for name, parts in planned.items():
            costs |= planned_costs(name, *parts)
        display = Display(costs)
        kept = Kept(run, display)
        cells = {
            name: Cell(name, *parts, jax.random.fold_in(key, number), kept, mesh)
            for number, (name, parts) in enumerate(planned.items())
        }
        try:
            found = {name: results(cell) for name, cell in cells.items()}
        finally:
            display.close()
        figures = [each for cell in cells.values() for each in draw(run, cell)] + draw_together(run, cells.values())
        run.finish({"cells": found, "page": page(cells, tables(found), figures)})
    if not is_first_process():
        return
    for each in tables((run.results or {})["cells"]):
        print(f"\n{each['title']}\n{table(each['head'], each['rows'])}")
    print(f"\nWritten to {run.path}; `mcjax report {run.path}` makes a page of it.")


def _check(data: Dataset, settings: Settings) -> None:
    """Raise InputError for what would otherwise be found out hours later."""
    for name, value, least in (
        ("pairs", settings.pairs, 1),
        ("points", settings.points, 3),
        ("plane_points", settings.plane_points, 2),
    ):
        if value < least:
            raise InputError(f"got {name}={value}, expected at least {least}.")
    for name, given, there in (
        ("calibration_images", settings.calibration_images, len(data.train_labels)),
        ("plane_images", settings.plane_images, len(data.test_labels)),
    ):
        if given is not None and not 1 <= given <= there:
            raise InputError(f"got {name}={given}, expected 1 to the {there} that {data.name} has.")
    steps_per_epoch(settings.networks, data)


def _model(study: Study, architecture: str, data: Dataset) -> models.Model:
    options: dict[str, Any] = {"width": study.width}
    if study.widths is not None and architecture == "mlp":
        options["widths"] = list(study.widths)
    return models.create(architecture, data.num_classes, data.image_shape, **options)


def results(cell: Cell) -> dict[str, Any]:
    """Everything that is measured of a cell, as results.json holds it."""
    networks, match, classes, pam = measures.networks(cell), cell.match, {}, {}
    for name in cell.settings.classes:
        fit = cell.fit(name)
        last = mean_and_std(np.asarray(fit["history"]["loss"])[:, -1].tolist())
        classes[name] = {**summarized(cell.along(name)), "last_train_loss": last}
        if "report" in fit:
            pam[name] = {key: np.asarray(value).tolist() for key, value in fit["report"].items()}
    ensembles = {
        name: summary({of: [each[of] for each in values] for of in values[0]})
        for name, values in measures.ensembles(cell).items()
    }
    measures.planes(cell)
    return {
        "data": cell.data.name,
        "model": cell.model.name,
        "parameters": trees.parameter_count(trees.index(cell.ends[0], 0)),
        "networks": summary(networks),
        "match": {
            group: summary({"before": match["before"][group], "after": match["after"][group]}) for group in match["P"]
        },
        "lines": {name: summarized(cell.along(name)) for name in LINES},
        "classes": classes,
        "pam": pam,
        "ensembles": ensembles,
        "signatures": measures.signatures(cell),
    }
