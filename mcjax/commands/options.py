"""Options that commands share: data, model, augmentation, training, and the run folder."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax
import numpy as np
import tyro

from mcjax import models, trees
from mcjax.curves import FitConfig
from mcjax.data import Augmentation, Dataset, load
from mcjax.data.loading import runs_no_code
from mcjax.errors import InputError
from mcjax.runs.folder import RunFolder
from mcjax.training import SGD, TrainConfig
from mcjax.training.fit import ComputeDtype

Settings = TypeVar("Settings", TrainConfig, FitConfig)


@dataclass(frozen=True)
class DataOptions:
    """The data set."""

    data: str | None = None
    """digits, cifar10, cifar100, stl10, mnist, fashion_mnist or any other TFDS image-classification set, the path of
    an .npz, or a folder of train, valid and test texts (None: that of the networks' training)."""
    data_dir: str | None = None
    """Folder of TFDS data sets (None: the default of TFDS)."""
    train_images: int | None = None
    """Number of training images to use, the first ones (None: all)."""
    test_images: int | None = None
    """Number of test images to use, the first ones (None: all)."""

    def load(self, recorded: Mapping[str, Any] | None = None) -> tuple[Dataset, dict[str, Any]]:
        """Load the data set.

        Args:
            recorded: The description in a checkpoint, for the options that are not given.

        Returns:
            The data set, and its description for a checkpoint, which holds a hash of the images.

        Raises:
            InputError: No data set is named, or the recorded one has changed.
        """
        options = asdict(self)
        if self.data is None:
            if not recorded:
                raise InputError("these checkpoints do not name the data that they were trained on: give --data.")
            options = {**options, **recorded, **{key: value for key, value in options.items() if value is not None}}
            if not runs_no_code(str(options.get("data"))):
                raise InputError(
                    f"these checkpoints name the data {options.get('data')!r}, which are none of TFDS's own and can "
                    f"bring code: give --data {options.get('data')} to read them."
                )
        dataset = load(options["data"], options["data_dir"]).take(options["train_images"], options["test_images"])
        # Make the path of an .npz or of a folder of texts (whose tokens are not uint8) absolute.
        if options["data"].endswith(".npz") or dataset.train_images.dtype != np.uint8:
            options["data"] = str(Path(options["data"]).resolve())
        arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
        mark = trees.fingerprint(arrays)
        if recorded and "sha256" in recorded and self == type(self)() and recorded["sha256"] != mark:
            raise InputError(
                f"{options['data']} is not what the networks were trained on: it has changed since. "
                f"Give --data {options['data']} to use it nevertheless."
            )
        return dataset, {**options, "sha256": mark}


@dataclass(frozen=True)
class ModelOptions:
    """The architecture of the networks."""

    model: str | None = None
    """mlp, tinysix, tinyten, resnet20, resnet32, vgg11, vgg16, googlenet, mnist_convnet, cifar_convnet,
    filters_convnet, or lstm for texts (None: that of the checkpoints)."""
    module: str | None = None
    """A Flax module of your own instead, package.module:Class; also for checkpoints that name one, whose code runs only
    if it is named here (None: no module)."""
    width: float = 1.0
    """Multiplier of all widths."""
    activation: str = "relu"
    """relu, gelu, silu, softplus, tanh, sigmoid, leaky_relu, huberized_relu (or huberized_relu(0.05)) or linear."""
    widths: tuple[int, ...] | None = None
    """Units of each hidden layer, for mlp alone (None: 256 256)."""

    def describe(self, dataset: Dataset) -> dict[str, Any]:
        """The arguments of `models.create`, or of `own_model`, for this data set, as JSON."""
        if self.module is not None:
            if replace(self, module=None) != type(self)():
                raise InputError(
                    "--model, --width, --activation and --widths are for mcjax's models: got --module too."
                )
            return {"module": self.module, "num_classes": dataset.num_classes, "input_shape": list(dataset.image_shape)}
        assert self.model is not None
        options: dict[str, Any] = {"width": self.width}
        if self.activation != type(self).activation or "activation" in models.options_of(self.model):
            options["activation"] = self.activation
        if self.widths is not None:
            options["widths"] = list(self.widths)
        shape = list(dataset.image_shape)
        return {"name": self.model, "num_classes": dataset.num_classes, "input_shape": shape, **options}


@dataclass(frozen=True)
class AugmentOptions:
    """Augmentation of training images."""

    flip: Literal["auto", "on", "off"] = "auto"
    """Mirror each image with probability 1/2 (auto: on for colour images)."""
    crop: int | None = None
    """Shift images by up to this many pixels; 0 is off (None: 4 for colour images, also for larger ones than 32 pixels,
    an eighth of smaller ones; 0 for grey ones)."""
    rotate: float | None = None
    """Rotate images by up to this many degrees; 0 is off (None: 15 for colour images, 0 for grey ones)."""

    def augmentation(self, dataset: Dataset) -> Augmentation:
        """These options as an Augmentation, with the defaults of this data set."""
        base = dataset.default_augmentation()
        return Augmentation(
            flip=base.flip if self.flip == "auto" else self.flip == "on",
            crop=base.crop if self.crop is None else self.crop,
            rotate=base.rotate if self.rotate is None else self.rotate,
        )


@dataclass(frozen=True)
class TrainOptions(AugmentOptions):
    """Training of networks."""

    preset: Literal["fast", "paper"] = "fast"
    """fast: 30 epochs in one cycle. paper: 250 epochs, learning rate halved every 20."""
    epochs: int | None = None
    """Passes over the training images (None: the preset's)."""
    batch_size: int | None = None
    """Images per step (None: the preset's, 128)."""
    learning_rate: float | None = None
    """Peak learning rate of SGD (None: the preset's, 0.1)."""
    decay: float | None = None
    """Factor of the learning rate from one epoch to the next, beside its schedule (None: the preset's)."""
    weight_decay: float | None = None
    """Coefficient of half the squared norm of the parameters (None: the preset's, 5e-4)."""
    compute_dtype: ComputeDtype = "float32"
    """Dtype of the forward and backward pass; parameters, statistics and measurements are float32."""

    def change(self, settings: Settings, **more: Any) -> Settings:
        """The settings of a preset, with the options that were given, and `more`, in their place."""
        optimizer = settings.optimizer
        assert isinstance(optimizer, SGD)
        optimizer = replace(optimizer, **given(learning_rate=self.learning_rate, decay=self.decay))
        numbers = given(epochs=self.epochs, batch_size=self.batch_size, weight_decay=self.weight_decay)
        own = {"optimizer": optimizer, "compute_dtype": self.compute_dtype}
        return replace(settings, **{**numbers, **own, **more})


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None: those that take the place of a preset's."""
    return {name: value for name, value in options.items() if value is not None}


def as_json(config: Any, augmentation: Augmentation) -> dict[str, Any]:
    """The settings of a fit as JSON, those of their parts inside, with the augmentation of its images."""
    return {**asdict(config), "augmentation": asdict(augmentation)}


def open_run(command: str, out: str | None, config: Mapping[str, Any]) -> RunFolder:
    """Open the run folder `out`, by default runs/COMMAND-HASH with a hash of the config."""
    whole = {"command": command, **config}
    if out is None:
        mark = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]
        out = f"runs/{command}-{mark}"
    run = RunFolder(out, whole)
    if run.results is not None:
        print(f"{run.path} is finished: these are its results", file=sys.stderr)
    return run


def seed_key(seed: int) -> jax.Array:
    """The typed key of a seed. Raises InputError if the seed is not from 0 to 2^32 - 1."""
    if not 0 <= seed < 2**32:
        raise InputError(f"got seed={seed}, expected 0 to {2**32 - 1}.")
    return jax.random.key(seed)


Out = Annotated[
    str | None,
    tyro.conf.arg(help="Run folder; the same command again resumes it (None: runs/COMMAND-HASH, after the options)."),
]
