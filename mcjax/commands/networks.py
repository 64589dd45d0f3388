"""Networks on disk, with the models that their checkpoints describe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mcjax import models, trees
from mcjax.commands.options import DataOptions, ModelOptions
from mcjax.commands.own_module import own_model
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import has_leading_axis
from mcjax.runs import checkpoint


class Network(NamedTuple):
    """A network read from disk.

    Attributes:
        theta: The network.
        model: Its model.
        about: The description in its checkpoint: "model", "data".
        name: The path of the checkpoint or run folder, for messages.
    """

    theta: trees.Tree
    model: models.Model
    about: dict[str, Any]
    name: str


def read_network(path: str, options: ModelOptions, dataset: Dataset | None = None) -> Network:
    """Read a network from a checkpoint, or from a run folder: RUN if it holds one, RUN/0, RUN/1 if several.

    Args:
        path: The checkpoint or run folder.
        options: The model, if it is given; it takes precedence over the one in the checkpoint.
        dataset: The data set that fixes the shape and classes of a given model.

    Returns:
        The network.

    Raises:
        InputError: There is no network, or more than one, or its model is neither recorded nor given.
        SpecError: The variables are not those of the model.
    """
    where = _checkpoint_of(path)
    about, theta = checkpoint.describe(where), checkpoint.load(where)
    about = {**about, "model": describe(where, about, options, dataset)}
    model = read_model(about["model"])
    if isinstance(theta, Mapping) and "params" in theta:  # drop the optimiser and step of a training state
        theta = {name: theta[name] for name in ("params", "batch_stats") if name in theta}
    if bad := trees.not_finite(theta):
        raise InputError(f"{where} holds weights that are not finite ({bad[0]}): expected a trained network.")
    if has_leading_axis(theta, model):
        raise InputError(f"{where} holds several networks along one axis: expected one network per checkpoint.")
    # In the containers of the model, since a file may know the names of the leaves alone.
    theta = trees.like(jax.eval_shape(model.init, jax.random.key(0)), theta)
    return Network(theta, model, about, str(path))


def describe(where: Path, about: Mapping[str, Any], options: ModelOptions, dataset: Dataset | None) -> dict[str, Any]:
    """The description of the given model, or else of the model recorded in the checkpoint.

    Args:
        where: The checkpoint.
        about: The description in it.
        options: The model, if it is given.
        dataset: The data set that fixes the shape and classes of a given model, which a recorded module has.

    Raises:
        InputError: The model is neither recorded nor given, or is a module that is not given, whose code must not run.
    """
    recorded, default = about.get("model"), type(options)()
    if recorded is not None and not isinstance(recorded, dict):
        raise InputError(f"the checkpoint {where} names the model {recorded!r}, expected a description of one.")
    module = (recorded or {}).get("module")
    if options.model is None and options.module is None:
        if options != default:
            raise InputError("--width, --activation and --widths go with --model, which is not given.")
        if recorded is None:
            raise InputError(f"the checkpoint {where} does not name its model: give --model or --module and --data.")
        if module is not None:
            raise InputError(
                f"the checkpoint {where} names the module {module}, whose code runs only if you name it too: "
                f"give --module {module}."
            )
        return recorded
    if dataset is None:
        if recorded is not None and options == replace(default, module=module):
            return recorded
        flag = "--module" if options.module is not None else "--model"
        why = f"{flag} needs --data" if recorded else f"the checkpoint {where} does not name its model"
        raise InputError(f"{why}: give {flag} and --data.")
    return options.describe(dataset)


def read_model(description: Mapping[str, Any]) -> models.Model:
    """The model of a description: the arguments of `models.create` by name, or those of `own_model`."""
    try:
        if "module" in description:
            return own_model(description["module"], description["num_classes"], tuple(description["input_shape"]))
        return models.create(**description)
    except (KeyError, TypeError) as error:  # of a checkpoint that was edited
        raise InputError(f"{json.dumps(description)} describes no model of mcjax: {error}.") from error


def _checkpoint_of(path: str) -> Path:
    """The one checkpoint at a path. Raises InputError if there is none, or more than one."""
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
        return where  # perhaps a damaged checkpoint: reading it reports the damage
    raise InputError(
        f"no network at {path}: expected a checkpoint, a run folder of `mcjax train`, or RUN/0, RUN/1, ..."
    )


def networks_of(run: Path) -> list[Path]:
    """The checkpoints of the networks in a run folder, in the order of their numbers."""
    found = (run / "checkpoints").glob("network_*")
    numbers = {path: path.name.removeprefix("network_") for path in found}
    return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda path: int(numbers[path]))


def read_networks(
    paths: Sequence[str], options: ModelOptions, images: DataOptions, *, one_architecture: bool = True
) -> tuple[list[Network], Dataset, dict[str, Any]]:
    """Read networks, and the given data set, or else that of the first network's training.

    Args:
        paths: Checkpoints or run folders, as in `read_network`.
        options: The model, if it is given.
        images: The data set, if it is given.
        one_architecture: Whether all networks must be of one architecture.

    Returns:
        The networks, the data set, and its description for a checkpoint.

    Raises:
        InputError: The networks are of different architectures, or as `read_network` and `DataOptions.load`.
    """
    given = images.load() if images.data is not None else None
    networks = [read_network(path, options, given[0] if given else None) for path in paths]
    first = networks[0]
    for network in networks if one_architecture else ():
        if network.model != first.model:
            raise InputError(
                f"the networks are of different architectures: {first.name} is {json.dumps(first.about['model'])}, "
                f"{network.name} is {json.dumps(network.about['model'])}. Expected networks of one."
            )
    dataset, described = given or images.load(first.about.get("data"))
    return networks, dataset, described
