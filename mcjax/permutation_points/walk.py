"""Paths from a network to its copy with two units exchanged, by way of a permutation point."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import check_network
from mcjax.constructions.unit_layers import UnitLayer, Values, check_units, unit_layer
from mcjax.curves.polyline import Polyline
from mcjax.data import Dataset
from mcjax.errors import InputError, RunError
from mcjax.models.base import Model
from mcjax.permutation_points import mergers
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.mergers import Approach, Knots, Steps
from mcjax.permutation_points.pair_coordinates import Merged, begin, network_at
from mcjax.runtime.convolution import chunk_for
from mcjax.symmetry import Permutation, identity_permutation, permute
from mcjax.training.full_batch import full_batch_loss


class PermutationPath(NamedTuple):
    """A path from theta to its copy with two units exchanged: knots along a leading axis, joined by straight lines.

    Knot i and the i-th from the end are the same network but for the exchange, to the last bit; the one in the middle
    is `point`, the permutation point, in which the two units are one. P: the exchange. distances, loss, gradient_norm,
    converged: of theta (no norm: NaN), of the minima at which the two units are apart, and of the point, float64 and
    bool (k,). heights: the highest loss of each segment of the first half. iterations, products: Newton steps and
    products of the Hessian in all. rough: how far the path rises above its minima on the way from one to the next, and
    what would lower it, if that is more than `config.bump` allows; else None.

    If a minimisation did not converge and the path was to stop there, `stopped` says where and how, and the knots are
    those of the first half so far, with the one at which it failed at the end.
    """

    polyline: Polyline
    point: trees.Tree | None
    P: Permutation
    group: str
    units: tuple[int, int]
    distances: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    converged: np.ndarray
    heights: np.ndarray
    iterations: int
    products: int
    rough: str | None
    stopped: str | None

    @property
    def knots(self) -> trees.Tree:
        """The networks along a leading axis."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """t -> theta, t in proportion to the length. Raises RunError if the path is not whole."""
        if self.stopped:
            raise RunError(f"the path of units {self.units} of {self.group!r} is not whole: {self.stopped}")
        return self.polyline.path

    @property
    def barrier(self) -> float:
        """How far the path rises above theta: of all segments, not of knots alone. Infinity if it is not whole."""
        return np.inf if self.stopped else float(self.heights.max() - self.loss[0])

    def __repr__(self) -> str:
        rest = self.stopped or f"barrier {self.barrier:.4g}" + (f" ({self.rough})" if self.rough else "")
        return f"PermutationPath of units {self.units[0]} and {self.units[1]} of {self.group!r}: {rest}"


def permutation_path(
    model: Model,
    theta: trees.Tree,
    data: Dataset,
    group: str,
    units: tuple[int, int],
    config: PermutationConfig | None = None,
) -> PermutationPath:
    """The path that brings two units of a layer together, exchanges them, and goes back with them exchanged.

    With theta_m = theta_l + delta e for the parameter vectors of the two units (rows of the kernel, biases, scales and
    shifts of norms), delta goes down to zero, the loss minimised in all else at every step; then the output
    weights move to their mean, at constant loss (but for weight decay, which falls), to the permutation point; then all
    of it in reverse with l and m exchanged. The loss is that of all training images by the batch statistics that theta
    holds, of which those of the two units become one with delta. Between the knots the loss is measured, and where it
    rises above them more knots are put in between: `barrier` is of the path, not of its knots. theta should be a
    minimum of this very loss (train with the images and the weight decay of the config), or all of it falls on the way.

    group: a hidden layer whose units stand alone, of any model, as `print(model.spec)` names it. config:
    `PermutationConfig()`. Knots are float64 numpy arrays if that is what is computed in: of a network of many
    parameters take fewer steps. Raises InputError for units that are not two of the group, a group of one unit, or
    units that feed a residual trunk.
    Source: Brea, Simsek, Illing and Gerstner 2019, section 4.1.

        found = permutation_path(model, theta, data, "dense_1", (0, 3))
        metrics = evaluate_path(model, found.path, data)
    """
    config = config or PermutationConfig()
    layer = checked(model, theta, group, config)
    pair = check_units(layer, units)
    silent = np.zeros(layer.size, bool)
    with computing(config):
        loss = whole_loss(model, data, config)
        half = halfway(model, layer, config, loss, cast(theta, config), pair, silent)
    return _both_ways(model, layer, theta, pair, half)


class Half(NamedTuple):
    """The first half of a path: whole networks by name along a leading axis, numpy, and what was measured of them."""

    knots: Values
    distances: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    converged: np.ndarray
    heights: np.ndarray
    iterations: int
    products: int
    rough: str | None
    stopped: str | None


def halfway(
    model: Model,
    layer: UnitLayer,
    config: PermutationConfig,
    loss: Any,
    values: Values,
    pair: tuple[int, int],
    silent: np.ndarray,
) -> Half:
    """From a network to the permutation point of two of its units; units `silent` stay as they are, and unread."""
    merged = jax.jit(begin, static_argnums=(0, 1))(layer, config, values, jnp.asarray(pair), jnp.asarray(silent))
    chunk = 16 * chunk_for(model.convolutions)

    def walk(rise: float) -> tuple[Approach, Knots, np.ndarray]:
        """The path, its knots, and the loss at points of every segment; no segments if there is no room for them."""
        given = (loss, values, jnp.asarray(silent), jnp.asarray(rise, config.precision), jnp.asarray([pair]))
        found = jax.tree.map(lambda leaf: leaf[0], mergers.approaches(layer, config, True, 1, *given))
        knots = found.knots
        assert knots is not None
        measured = mergers.heights(layer, config.points, chunk, loss, merged, knots.params, knots.distances)
        count = int(knots.filled)
        return found, knots, np.asarray(measured)[: count - 1 if count < config.knots else 0]

    found, walked, along = walk(np.inf)
    if not len(along):
        raise InputError(
            f"the path of units {pair} of {layer.group!r} has {int(walked.filled)} knots or more, expected fewer than "
            f"knots={config.knots}: give room for more, fewer steps, or a larger tolerance."
        )
    stopped = _failure(config, found.steps, np.asarray(found.distances))
    # A network that is no minimum itself goes down first.
    ends = np.append(np.asarray(found.steps.loss), along[0, 0])
    allowed = config.bump * float(np.ptp(ends))
    if stopped is None and along.max() > ends.max() + allowed:
        # Knots are not where the rise is, but after a step down from there: a fifth of it is left, or less. Where there
        # is no room for so many of them, there may be for fewer.
        for rise in (5, 50, 500):
            slower = walk(rise * allowed)
            finer = len(slower[2]) > 0 and _failure(config, slower[0].steps, np.asarray(slower[0].distances)) is None
            if finer:
                break
        if finer and slower[2].max() < along.max():
            found, walked, along = slower
    count = len(along) + 1
    # On the host: a slice of the device would be compiled again for every number of knots.
    params, distances = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], (walked.params, walked.distances))
    whole = _networks(layer, merged, params, distances)
    knots = {name: np.array(leaf) for name, leaf in whole.items()}
    for name, leaf in values.items():
        knots[name][0] = np.asarray(leaf)
    steps = config.steps + 1 if stopped is None else int(np.argmin(np.asarray(found.steps.converged))) + 1
    start = (float(merged.distance), along[0, 0], np.nan, True)
    columns = (found.distances, found.steps.loss, found.steps.gradient_norm, found.steps.converged)
    at, losses, norm, converged = (
        np.insert(np.asarray(column)[:steps], 0, first) for column, first in zip(columns, start, strict=True)
    )
    rough = None
    if stopped is None and (rise := along.max() - max(losses.max(), ends.max())) > allowed:
        rough = f"{rise:.2g} of it between minima, which more steps, or a smaller bump and room for its knots, lower"
    spent = (int(found.steps.iterations[:steps].sum()), int(found.steps.products[:steps].sum()))
    return Half(knots, at, losses, norm, converged, along.max(1), *spent, rough, stopped)


@partial(jax.jit, static_argnums=0)
def _networks(layer: UnitLayer, merged: Merged, params: Values, distances: Any) -> Values:
    return jax.vmap(lambda one, distance: network_at(layer, merged, one, distance))(params, distances)


def _failure(config: PermutationConfig, steps: Steps, distances: np.ndarray) -> str | None:
    converged = np.asarray(steps.converged)
    if converged.all() or not config.stop:
        return None
    i = int(np.argmin(converged))
    expected = config.tolerance if i < config.steps else config.point_tolerance
    return (
        f"step {i + 1} of {config.steps + 1}, at distance {distances[i]:.4g}, ended with a gradient norm of "
        f"{float(steps.gradient_norm[i]):.3g} after {int(steps.iterations[i])} iterations, expected at most "
        f"{expected:g}. Give more iterations or products, a larger tolerance, or stop=False to go on from there."
    )


def exchange(model: Model, theta: trees.Tree, group: str, pair: tuple[int, int]) -> Permutation:
    """The permutation that exchanges two units of a group, and nothing else."""
    P = {name: np.array(p) for name, p in identity_permutation(model.spec, theta).items()}
    P[group][list(pair)] = pair[::-1]
    return P


def _both_ways(model: Model, layer: UnitLayer, theta: trees.Tree, pair: tuple[int, int], half: Half) -> PermutationPath:
    P = exchange(model, theta, layer.group, pair)
    knots = half.knots
    if half.stopped is None:
        with jax.enable_x64(True):
            copied = jax.vmap(lambda one: permute(model.spec, P, one))(nested(theta, knots))
        back = {name: np.asarray(leaf)[-2::-1] for name, leaf in trees.flatten(copied).items()}
        knots = {name: np.concatenate([leaf, back[name]]) for name, leaf in knots.items()}
    middle = {name: leaf[-1] for name, leaf in half.knots.items()}
    measured = {name: value for name, value in half._asdict().items() if name != "knots"}
    point = None if half.stopped else nested(theta, middle)
    polyline = Polyline(nested(theta, knots))
    return PermutationPath(polyline, point=point, P=P, group=layer.group, units=pair, **measured)


def nested(theta: trees.Tree, values: Values) -> trees.Tree:
    """Values by name, built as `theta` is."""
    return trees.map_with_name(lambda name, _: values[name], theta)


def checked(model: Model, theta: trees.Tree, group: str, config: PermutationConfig) -> UnitLayer:
    """The layer of a group. Raises InputError, or SpecError, if something is not what it has to be."""
    if not isinstance(config, PermutationConfig):
        raise InputError(f"got config={config!r}, expected a PermutationConfig.")
    check_network(model, theta)
    return unit_layer(model, group)


def computing(config: PermutationConfig) -> AbstractContextManager[Any]:
    """The context in which arrays have the precision of the config."""
    return jax.enable_x64(config.precision == "float64")


def cast(theta: trees.Tree, config: PermutationConfig) -> Values:
    """The variables by name in the precision of the config."""
    return {name: jnp.asarray(leaf, config.precision) for name, leaf in trees.flatten(theta).items()}


def whole_loss(model: Model, data: Dataset, config: PermutationConfig) -> Any:
    """The loss that is minimised."""
    return full_batch_loss(
        model, data, images=config.images, batch_size=config.batch_size, weight_decay=config.weight_decay
    )
