"""`mcjax train`: train networks from many seeds in one program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from mcjax import plotting, trees
from mcjax.commands.devices import DeviceOptions
from mcjax.commands.networks import networks_of, read_model
from mcjax.commands.options import DataOptions, ModelOptions, Out, TrainOptions, as_json, open_run, seed_key
from mcjax.errors import InputError
from mcjax.runs import Recorder, checkpoint
from mcjax.runs.tables import mean_and_std, plus_minus, table
from mcjax.training import Task, TrainConfig, evaluate, supervised, train_endpoints
from mcjax.training.loop import epoch_plan


@dataclass(frozen=True)
class TrainData(DataOptions):
    """The data set to train on."""

    data: str = "cifar10"
    """digits, cifar10, cifar100, stl10, mnist, fashion_mnist or any other TFDS image-classification set, or the
    path of an .npz with train_images, train_labels, test_images and test_labels."""


@dataclass(frozen=True)
class TrainModel(ModelOptions):
    """The architecture to train."""

    model: str | None = None
    """mlp, tinysix, tinyten, resnet20, resnet32, vgg11, vgg16, googlenet, mnist_convnet, cifar_convnet,
    filters_convnet, or lstm for texts (None: tinysix, or the --module)."""
    module: str | None = None
    """A Flax module of your own instead, package.module:Class (None: the --model)."""


@dataclass(frozen=True)
class Train:
    """Train networks of one architecture from different seeds, all at once."""

    images: TrainData = field(default_factory=TrainData)
    architecture: TrainModel = field(default_factory=TrainModel)
    training: TrainOptions = field(default_factory=TrainOptions)
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    networks: int = 2
    """Number of networks to train."""
    seed: int = 0
    """Seed of the keys of all networks."""
    out: Out = None

    def run(self) -> None:
        """Run the command, resume it, or report its results."""
        if self.networks < 1:
            raise InputError(f"got networks={self.networks}, expected at least 1.")
        mesh = self.devices.start(self.training.batch_size)
        key = seed_key(self.seed)
        dataset, images = self.images.load()
        chosen = self.architecture
        if chosen.model is None and chosen.module is None:
            chosen = replace(chosen, model="tinysix")
        described = chosen.describe(dataset)
        model = read_model(described)
        config = self.training.change(TrainConfig.preset(self.training.preset))
        augmentation = self.training.augmentation(dataset)
        task = supervised(model, dataset, augmentation=augmentation)
        # Refuse a batch larger than the set before the run folder is made.
        epoch_plan(task, config.batch_size, config.steps_per_epoch)
        run = open_run(
            "train",
            self.out,
            {
                "model": described,
                "data": images,
                "config": as_json(config, augmentation),
                "networks": self.networks,
                "seed": self.seed,
                "mesh": self.devices.mesh,
            },
        )
        if run.results is None or len(networks_of(run.path)) < self.networks:
            recorder = Recorder(f"training {self.networks} {model.name}", run, "train")
            keys = jax.random.split(key, self.networks)
            endpoints = train_endpoints(keys, task, config, recorder=recorder, mesh=mesh)
            thetas = [trees.index(endpoints.theta, i) for i in range(self.networks)]
            for i, theta in enumerate(thetas):
                checkpoint.save(run.checkpoints(f"network_{i}"), theta, {"model": described, "data": images})
            names = [f"network {i}" for i in range(self.networks)]
            run.figure("training", plotting.training(endpoints.history, task.name, labels=names))
            task = jax.device_put(task)
            run.finish(measure([(task, theta) for theta in thetas]))
        run.report(partial(report, run.path))


def measure(networks: Sequence[tuple[Task, trees.Tree]]) -> dict[str, Any]:
    """Train and test metrics of networks, each of a task: for each metric, its values, mean and standard deviation."""
    measured = [by_split(*evaluate(task, theta)) for task, theta in networks]
    return {name: mean_and_std([float(each[name]) for each in measured]) for name in measured[0]}


def by_split(train: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of `evaluate` as "train_loss", "train_accuracy", "test_loss" and so on, the loss of a split first."""
    return {
        f"{split}_{name}": metrics[name]
        for split, metrics in (("train", train), ("test", test))
        for name in sorted(metrics, key=lambda name: name != "loss")
    }


def report(path: Path, results: dict[str, Any], names: Sequence[str] | None = None) -> None:
    """Print the table of a finished run at `path` of `mcjax train` or `mcjax evaluate`."""
    columns = list(results)
    names = names or [f"network {i}" for i in range(len(results[columns[0]]["values"]))]
    rows = [[name, *(f"{results[c]['values'][i]:.4f}" for c in columns)] for i, name in enumerate(names)]
    if len(names) > 1:
        rows.append(["mean ± std", *(plus_minus(results[column]) for column in columns)])
    print(table(["", *(column.replace("_", " ") for column in columns)], rows))
    print(f"Written to {path}")
