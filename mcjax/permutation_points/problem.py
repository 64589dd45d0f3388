"""The input of all paths to permutation points: a network, one of its layers, and the loss to minimise."""

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.constructions.chain import check_network
from mcjax.constructions.unit_layers import UnitLayer, Values, unit_layer
from mcjax.hessian.full_batch import full_batch_loss
from mcjax.hessian.newton import Function
from mcjax.models.base import Model
from mcjax.permutation_points.config import PermutationConfig
from mcjax.training.config import check_config
from mcjax.training.task import Task, check_task


class Problem(NamedTuple):
    """A network, the layer whose units are merged, and the loss that is minimised.

    Attributes:
        model: The model of the network.
        layer: The layer whose units are merged.
        config: Steps, tolerances and precision.
        loss: The full-batch loss of a network, on the training examples.
        start: The variables of the network by name, floating-point ones in the precision of the config.
    """

    model: Model
    layer: UnitLayer
    config: PermutationConfig
    loss: Function
    start: Values

    @property
    def precision(self) -> AbstractContextManager[Any]:
        """The context in which arrays have the precision of the config."""
        return _precision(self.config)


def define_problem(task: Task, theta: trees.Tree, group: str, config: PermutationConfig | None) -> Problem:
    """Check the arguments, and make a `Problem` of them.

    Args:
        task: The task, with a model; its loss in evaluation mode is minimised.
        theta: The network.
        group: The group of the layer whose units are merged.
        config: Steps, tolerances and precision. None: `PermutationConfig()`.

    Returns:
        The problem, in the precision of the config.

    Raises:
        InputError: For a config of another type, a group whose units cannot be merged, several networks, or a task
            without a model.
        SpecError: If the model has no such group, or theta is of another model.
    """
    config = check_config(config, PermutationConfig)
    model = check_task(task, model=True).model
    assert model is not None
    check_network(model, theta)
    layer = unit_layer(model, group)
    with _precision(config):
        loss = full_batch_loss(
            task, examples=config.examples, batch_size=config.batch_size, weight_decay=config.weight_decay
        )
        start = {
            name: jnp.asarray(leaf, config.precision) if trees.is_floating(leaf) else leaf
            for name, leaf in trees.flatten(theta).items()
        }
    return Problem(model, layer, config, loss, start)


def _precision(config: PermutationConfig) -> AbstractContextManager[Any]:
    return jax.enable_x64(config.precision == "float64")


def tree_like(theta: trees.Tree, values: Values) -> trees.Tree:
    """A tree of the structure of `theta`, its leaves taken from `values` by name."""
    return trees.map_with_name(lambda name, _: values[name], theta)
