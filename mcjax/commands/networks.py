"""What the commands share: networks on disk, data by name, run folders by default."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from mcjax import models, trees
from mcjax.commands.own_module import own_model
from mcjax.data import Augmentation, Dataset, load
from mcjax.errors import InputError
from mcjax.models.base import has_leading_axis
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.training import TrainConfig
from mcjax.training.config import ComputeDtype


@dataclass(frozen=True)
class DataOptions:
    """Which images."""

    data: str | None = None
    """digits, cifar10, cifar100, stl10, mnist, fashion_mnist or any other TFDS image-classification set, the path of
    an .npz, or a folder of train, valid and test texts (None: the one that the networks were trained on)."""
    data_dir: str | None = None
    """Where TFDS keeps its sets (None: TFDS's own default)."""
    train_images: int | None = None
    """Use the first so many training images (None: all)."""
    test_images: int | None = None
    """Use the first so many test images (None: all)."""

    def load(self, recorded: Mapping[str, Any] | None = None) -> tuple[Dataset, dict[str, Any]]:
        """The data set, and its description for a checkpoint. `recorded` is such a description.

        The description tells by a hash which images they are, whatever they are called.
        """
        options = asdict(self)
        if self.data is None:
            if not recorded:
                raise InputError("these checkpoints do not say what they were trained on: give --data.")
            options = {**options, **recorded, **{key: value for key, value in options.items() if value is not None}}
        dataset = load(options["data"], options["data_dir"]).take(options["train_images"], options["test_images"])
        if options["data"].endswith(".npz") or dataset.train_images.dtype != np.uint8:  # texts are a folder
            options["data"] = str(Path(options["data"]).resolve())
        arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
        mark = trees.fingerprint(arrays)
        if recorded and "sha256" in recorded and self == type(self)() and recorded["sha256"] != mark:
            raise InputError(
                f"{options['data']} is not what the networks were trained on: it has changed since. "
                f"Give --data {options['data']} to use it all the same."
            )
        return dataset, {**options, "sha256": mark}


@dataclass(frozen=True)
class ModelOptions:
    """Which architecture."""

    model: str | None = None
    """mlp, tinysix, tinyten, resnet20, resnet32, vgg11, vgg16, mnist_convnet, cifar_convnet, or lstm for texts (None:
    what the checkpoints say)."""
    module: str | None = None
    """A Flax module of your own instead, package.module:Class (None: what the checkpoints say)."""
    width: float = 1.0
    """Multiplier of every width."""
    activation: str = "relu"
    """relu, gelu, silu, softplus, tanh, sigmoid, leaky_relu, huberized_relu (or huberized_relu(0.05)) or linear."""
    widths: tuple[int, ...] | None = None
    """Units of each hidden layer, for mlp alone (None: 256 256)."""

    def describe(self, dataset: Dataset) -> dict[str, Any]:
        """The model for this data set, as `create` takes it and JSON holds it."""
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
    """How training images are augmented."""

    flip: Literal["auto", "on", "off"] = "auto"
    """Mirror every other image (auto: on for colour images)."""
    crop: int | None = None
    """Shift images by up to so many pixels; 0 is off (None: 4 for colour images, 0 for grey ones)."""
    rotate: float | None = None
    """Turn images by up to so many degrees; 0 is off (None: 15 for colour images, 0 for grey ones)."""

    def augmentation(self, dataset: Dataset) -> Augmentation:
        """The augmentation that these options mean for this data set."""
        base = dataset.default_augmentation()
        return Augmentation(
            flip=base.flip if self.flip == "auto" else self.flip == "on",
            crop=base.crop if self.crop is None else self.crop,
            rotate=base.rotate if self.rotate is None else self.rotate,
        )


@dataclass(frozen=True)
class TrainOptions(AugmentOptions):
    """How to train."""

    preset: Literal["fast", "paper"] = "fast"
    """fast: 30 epochs in one cycle. paper: 250 epochs, learning rate halved every 20."""
    epochs: int | None = None
    """Passes over the training images (None: the preset's)."""
    batch_size: int | None = None
    """Images a step (None: the preset's, 128)."""
    learning_rate: float | None = None
    """Peak learning rate of SGD (None: the preset's, 0.1)."""
    weight_decay: float | None = None
    """Multiplies half the squared norm of the parameters (None: the preset's, 5e-4)."""
    compute_dtype: ComputeDtype = "float32"
    """Of the forward and the backward pass; parameters, statistics and what is measured are float32."""

    def config(self, dataset: Dataset, **more: Any) -> dict[str, Any]:
        """The keyword arguments of a TrainConfig: the preset's, what was given here, and `more`."""
        given = {
            name: getattr(self, name)
            for name in ("epochs", "batch_size", "learning_rate", "weight_decay")
            if getattr(self, name) is not None
        }
        own = {"augmentation": self.augmentation(dataset), "compute_dtype": self.compute_dtype}
        return {**vars(TrainConfig.preset(self.preset)), **given, **own, **more}


class Network(NamedTuple):
    """A network read from disk: its variables, its model, and what its checkpoint tells of itself."""

    theta: trees.Tree
    model: models.Model
    about: dict[str, Any]
    name: str


def read_network(path: str, options: ModelOptions, dataset: Dataset | None = None) -> Network:
    """A network from a checkpoint, or from a run folder: RUN if it holds one, RUN/0, RUN/1 if several.

    Raises InputError if there is none, or more than one, or if it does not say its model and
    `options` does not either; SpecError if its variables are not those of the model.
    """
    where = _checkpoint_of(path)
    about, theta = checkpoint.describe(where), checkpoint.load(where)
    given = options.model is not None or options.module is not None
    if not given and options != type(options)():
        raise InputError("--width, --activation and --widths go with --model, which is not given.")
    if given or "model" not in about:
        if not given or dataset is None:
            flag = "--module" if options.module is not None else "--model"
            why = f"{flag} needs --data" if "model" in about else f"the checkpoint {where} does not say its model"
            raise InputError(f"{why}: give {'--model or --module' if not given else flag} and --data.")
        about = {**about, "model": options.describe(dataset)}
    model = read_model(about["model"])
    if "params" in theta:  # a training state has more: its optimiser, its step
        theta = {name: theta[name] for name in ("params", "batch_stats") if name in theta}
    if bad := [name for name, leaf in trees.flatten(theta).items() if not np.isfinite(np.asarray(leaf)).all()]:
        raise InputError(f"{where} holds weights that are not finite ({bad[0]}): expected a trained network.")
    if has_leading_axis(theta, model):
        raise InputError(f"{where} holds several networks along one axis: expected one network a checkpoint.")
    return Network(theta, model, about, str(path))


def read_model(description: Mapping[str, Any]) -> models.Model:
    """The model that a checkpoint describes: the arguments of `models.create` by name, or those of `own_model`."""
    if "module" in description:
        return own_model(description["module"], description["num_classes"], tuple(description["input_shape"]))
    return models.create(**description)


def _checkpoint_of(path: str) -> Path:
    where = Path(path)
    if checkpoint.is_checkpoint(where):
        return where
    numbered = where.parent / "checkpoints" / f"network_{where.name}"
    if numbered.exists():
        return numbered
    networks = networks_of(where)
    if len(networks) == 1:
        return networks[0]
    if networks:
        names = ", ".join(f"{where}/{i}" for i in range(len(networks)))
        raise InputError(f"{where} holds {len(networks)} networks: name one of {names}.")
    if (where / "config.json").exists():
        raise InputError(f"{where} is a run that holds no networks (yet): finish it, or give one of `mcjax train`.")
    if where.is_dir():
        return where  # a folder that is no whole checkpoint: reading it says what is wrong
    raise InputError(
        f"no network at {path}: expected a checkpoint, a run folder of `mcjax train`, or RUN/0, RUN/1, ..."
    )


def networks_of(run: Path) -> list[Path]:
    """The checkpoints of the networks that a run trained, in order."""
    found = (run / "checkpoints").glob("network_*")
    numbers = {path: path.name.removeprefix("network_") for path in found}
    return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda path: int(numbers[path]))


def read_pair(
    first: str, second: str, options: ModelOptions, images: DataOptions
) -> tuple[Network, Network, Dataset, dict[str, Any]]:
    """Two networks of one architecture, and the images they were trained on or those asked for."""
    given = images.load() if images.data is not None else None
    a, b = (read_network(path, options, given[0] if given else None) for path in (first, second))
    if a.model != b.model:
        raise InputError(
            f"the endpoints are of different architectures: {first} is {_said(a)}, {second} is {_said(b)}. "
            "Expected two networks of one."
        )
    dataset, described = given or images.load(a.about.get("data"))
    return a, b, dataset, described


def _said(network: Network) -> str:
    return json.dumps(network.about["model"])


def open_run(command: str, out: str | None, config: Mapping[str, Any]) -> RunFolder:
    """The run folder `out`, or one under runs/ that is named after the command and its config."""
    whole = {"command": command, **config}
    if out is None:
        mark = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]
        out = f"runs/{command}-{mark}"
    run = RunFolder(out, whole)
    if run.results is not None:
        print(f"{run.path} is finished: this is what it found", file=sys.stderr)
    return run


def check_key(seed: int) -> jax.Array:
    """The typed key of a seed. Raises InputError if it is negative, or has more than 32 bits."""
    if not 0 <= seed < 2**32:
        raise InputError(f"got seed={seed}, expected 0 to {2**32 - 1}.")
    return jax.random.key(seed)


Out = Annotated[
    str | None,
    tyro.conf.arg(help="Run folder; the same command again resumes it (None: runs/COMMAND-HASH, after the options)."),
]
