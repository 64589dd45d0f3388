"""The study: its options, its parts in order, and what is found from them."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import jax

from experiments.neuron_alignment.cell import Cell, Settings
from experiments.neuron_alignment.figures import draw, draw_together
from experiments.neuron_alignment.measures import PLANES, results
from experiments.neuron_alignment.page import described, paths, plane
from experiments.neuron_alignment.paper import SETS
from experiments.neuron_alignment.tables import tables
from experiments.options import check_choices, check_least
from experiments.study import Findings, Parts, Study, run
from mcjax import Dataset, FitConfig, Model, PamConfig, Task, TrainConfig, models, supervised
from mcjax.commands.devices import DeviceOptions
from mcjax.commands.options import AugmentOptions, DataOptions, TrainOptions, seed_key
from mcjax.commands.pam import PamOptions
from mcjax.data import PgdAttack
from mcjax.errors import InputError
from mcjax.training.fit import ComputeDtype
from mcjax.training.loop import epoch_plan
from mcjax.training.task import examples

CURVE_EPOCHS = {"fast": 32, "paper": 200}
"""Epochs of a curve; PAM's presets have 4 x 8 and 4 x 40."""
MOST_EXCHANGES = 10_000
"""Exchanges of two units that are tried unless that is asked for."""
Scheme = Literal["descent", "published"]


@dataclass(frozen=True)
class Config:
    """The networks and images, the length of training, and the fineness of measurement."""

    data: tuple[str, ...] = ("cifar10",)
    """Data sets: TFDS names, digits, or paths of .npz files."""
    known_as: tuple[Literal["cifar10", "cifar100", "stl10", "tiny_imagenet", "none"], ...] | None = None
    """Name of each of them in the paper, whose numbers are shown beside ours (None: TFDS names are its own, files have
    none)."""
    models: tuple[str, ...] = ("tinysix", "tinyten", "resnet32", "vgg16")
    """Architectures, as `mcjax train` takes them; vgg16 averages its last feature map."""
    data_dir: str | None = None
    """Folder of the TFDS data sets (None: TFDS's own default)."""
    train_images: int | None = None
    """Use the first so many training images (None: all)."""
    test_images: int | None = None
    """Use the first so many test images (None: all)."""
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    attack_steps: int = 0
    """Steps of the attack on every batch of training and measurement, for robust networks and curves (0: no attack)."""
    attack_epsilon: float | None = None
    """Radius of the attack, in pixels from 0 to 1; a step is a quarter of it (None: 8 / 255)."""
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
    """Epochs of a curve, also of PAM's, which shares them out among its iterations."""
    batch_size: int | None = None
    """Images a step (None: 128; with paper on cifar10, 64)."""
    decay: float | None = None
    """Factor of learning rates from one epoch to the next, beside the schedule (None: 1; with paper, 0.9996)."""
    pam: Literal["auto", "on", "off"] = "auto"
    """Whether to fit PAM's curves (auto: for all but VGG16, as in the paper)."""
    schemes: tuple[Scheme, ...] | None = None
    """Schemes of PAM: descent refuses half-steps that do not decrease the objective, published is the paper's (None:
    descent; with paper or --published, published)."""
    alternation: PamOptions = field(default_factory=PamOptions)
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
    exchanges: Literal["auto", "on", "off"] = "auto"
    """Whether all exchanges of two units are tried, before and after a curve is fitted (auto: up to 10,000)."""
    exchange_images: int | None = None
    """Training images in the objective of exchanges (None: 200, or all of fewer)."""
    exchange_points: int = 3
    """Values of t in the objective of exchanges."""
    two_seeds: bool = False
    """Fit the unaligned and the aligned curve once more, with one seed for all pairs, and compare the two."""
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/neuron_alignment-HASH)."""

    def names(self) -> dict[str, str]:
        """The data sets, and what the paper calls each of them, or ""."""
        if self.known_as is None:
            return {name: name if name in SETS else "" for name in self.data}
        if len(self.known_as) != len(self.data):
            raise InputError(
                f"got {len(self.known_as)} names in known_as for {len(self.data)} data sets, expected one for each."
            )
        return {name: "" if known == "none" else known for name, known in zip(self.data, self.known_as, strict=True)}

    def settings(self, model: Model, data: Dataset, known_as: str) -> Settings:
        """The settings of one architecture on one data set, which the paper calls `known_as`."""
        paper = self.preset == "paper"
        batch_size = 64 if self.batch_size is None and paper and known_as == "cifar10" else self.batch_size
        training = TrainOptions(
            preset=self.preset,
            batch_size=batch_size,
            decay=0.9996 if self.decay is None and paper else self.decay,
            compute_dtype=self.compute_dtype,
        )
        networks = replace(training, epochs=self.epochs).change(TrainConfig.preset(self.preset))
        curve_epochs = CURVE_EPOCHS[self.preset] if self.curve_epochs is None else self.curve_epochs
        curve = replace(training, epochs=curve_epochs).change(FitConfig.preset(self.preset))
        if self.exchanges == "off" and (self.exchange_images, self.exchange_points) != (None, Config.exchange_points):
            raise InputError("got --exchange-images or --exchange-points with --exchanges off: expected none of them.")
        sizes = model.spec.group_sizes(jax.eval_shape(model.init, jax.random.key(0)))
        exchanges = sum(n * (n - 1) // 2 for n in sizes.values())
        return Settings(
            networks=networks,
            curve=curve,
            pams=self._pams(model, training),
            pairs=(6 if known_as == "cifar10" or data.name == "digits" else 3) if self.pairs is None else self.pairs,
            points=self.points,
            calibration_images=self.calibration_images,
            plane_points=self.plane_points,
            plane_images=self.plane_images,
            exchanges=self.exchanges == "on" or (self.exchanges == "auto" and exchanges <= MOST_EXCHANGES),
            exchange_images=min(200, len(data.train_images)) if self.exchange_images is None else self.exchange_images,
            exchange_points=self.exchange_points,
            two_seeds=self.two_seeds,
        )

    def _pams(self, model: Model, training: TrainOptions) -> dict[str, PamConfig]:
        """The settings of PAM by scheme. They have as many epochs as other curves, if their number is given."""
        if self.pam == "off":
            if self.schemes is not None:
                raise InputError(f"got schemes={self.schemes} with pam='off', expected no schemes.")
            if self.alternation != PamOptions():
                raise InputError("got options of PAM, such as --iterations or --slopes, with --pam off: expected none.")
            return {}
        if self.pam == "auto" and model.name.startswith("vgg"):
            return {}
        iterations = self.alternation.iterations
        if self.curve_epochs is not None and self.curve_epochs % max(1, iterations):
            raise InputError(
                f"got curve_epochs={self.curve_epochs}, expected a multiple of the {iterations} iterations of PAM, so "
                "that all curves are trained for as long; or --pam off."
            )
        published = self.alternation.published or self.preset == "paper"
        schemes = ("published" if published else "descent",) if self.schemes is None else self.schemes
        check_choices("schemes", schemes, get_args(Scheme))
        if self.alternation.published and schemes != ("published",):
            raise InputError(f"got published with schemes={schemes}, expected one of the two options.")
        training = replace(training, epochs=self.curve_epochs)
        return {
            scheme: replace(self.alternation, published=scheme == "published").config(training) for scheme in schemes
        }

    def attack(self) -> PgdAttack | None:
        """The attack, if there is one."""
        if self.attack_steps == 0:
            if self.attack_epsilon is not None:
                raise InputError(f"got attack_epsilon={self.attack_epsilon} without attack_steps: expected both.")
            return None
        epsilon = 8 / 255 if self.attack_epsilon is None else self.attack_epsilon
        return PgdAttack(epsilon, epsilon / 4, self.attack_steps)

    def model(self, name: str, data: Dataset) -> Model:
        """One architecture for one data set."""
        options: dict[str, Any] = {"width": self.width}
        if self.widths is not None and name == "mlp":
            options["widths"] = list(self.widths)
        return models.create(name, data.num_classes, data.image_shape, **options)


def main(config: Config) -> None:
    """Run the study, resume it, or report what it found."""
    mesh, key = config.devices.start(config.batch_size or 64), seed_key(config.seed)
    if config.widths is not None and "mlp" not in config.models:
        raise InputError(f"got widths={config.widths} without mlp: expected none, since other networks have their own.")
    chosen: dict[str, tuple[str, str, Task, Settings]] = {}
    images = {}
    for name, known_as in config.names().items():
        data, images[name] = DataOptions(name, config.data_dir, config.train_images, config.test_images).load()
        for architecture in config.models:
            model = config.model(architecture, data)
            settings = config.settings(model, data, known_as)
            task = supervised(model, data, augmentation=config.augment.augmentation(data), attack=config.attack())
            _check(task, settings)
            chosen[f"{architecture}_{data.name}"] = (data.name, known_as, task, settings)
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
            *(described(name, task, settings) for name, (*_, task, settings) in chosen.items()),
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
    check_least(settings, pairs=1, points=3, plane_points=2, exchange_points=1)
    there_are = {
        "calibration_images": examples(task.train),
        "plane_images": examples(task.test),
        "exchange_images": examples(task.train),
    }
    for name, there in there_are.items():
        given = getattr(settings, name)
        if given is not None and not 1 <= given <= there:
            raise InputError(f"got {name}={given}, expected 1 to the {there} of {task.name}.")
    epoch_plan(task, settings.networks.batch_size, None)
