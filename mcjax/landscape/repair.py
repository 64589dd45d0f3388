"""REPAIR: rescaling the units of a merged network to the statistics of the networks that it was merged from."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import Model, check_finite, check_model, has_leading_axis, leading_axis
from mcjax.runtime.compiling import jit
from mcjax.symmetry.infer.preactivations import KernelLayer, infer_preactivations
from mcjax.training.batch_statistics import calibration_batch, check_calibration, reestimate
from mcjax.training.batches import Moments, moments_of
from mcjax.training.loss import Batch
from mcjax.training.task import Task, check_task
from mcjax.training.totals import Points, Reading, each_network, totals


def repair(
    task: Task,
    theta: trees.Tree,
    ends: trees.Tree,
    weights: Any = None,
    *,
    batch_size: int = 500,
    calibration_examples: int | None = None,
) -> trees.Tree:
    """Rescale the hidden units of a merged network to the statistics of the ends, the networks that it was merged from.

    Kernels are scaled and biases set, unit by unit, so that the mean and the standard deviation of every preactivation
    over the training examples are the weighted means of those of the ends. A layer without a bias is only scaled, and a
    unit that is constant in `theta` only shifted. Layers are repaired in the order of the computation, each with those
    before it repaired. `repaired_layers` lists them; other layers, and the outputs, do not change.

    Statistics are summed in float32 at least, and every leaf keeps its dtype; leaves that are not floating-point stay.
    In a network with batch statistics, these are re-estimated instead: the norms then bring the units to the scales and
    biases in `theta`. Layers without a norm do not change.
    Source: Jordan, Sedghi, Saukh, Entezari and Neyshabur 2022, REPAIR: REnormalizing Permuted Activations for
    Interpolation Repair.

    Args:
        task: The task of all networks, with their model.
        theta: The merged network, or several along a leading axis.
        ends: The networks that it was merged from, along a leading axis, permuted as in the merger.
        weights: The shares of the ends, float (ends,), or (networks, ends) for several; not negative and of sum 1.
            None: equal shares.
        batch_size: Examples in memory at once.
        calibration_examples: The number of training examples to use, evenly spaced, augmented as in training. None:
            all.

    Returns:
        `theta` with repaired layers or new batch statistics.

    Raises:
        InputError: For a task without a model, weights that are negative or do not sum to 1, or numbers of examples out
            of range.
        SpecError: For networks of another task.

    Example::

        theta = mcjax.trees.mean(ends)
        repaired = repair(task, theta, ends)
    """
    task = check_task(task, model=True, arrays=())
    check_calibration(task, calibration_examples, batch_size)
    axis = leading_axis(task, theta)
    if not has_leading_axis(ends, task):
        raise InputError("got one network as ends, expected several along a leading axis: mcjax.trees.stack([...]).")
    check_finite(theta, ends)
    thetas = axis.add(theta)
    networks, n = (jax.tree.leaves(tree)[0].shape[0] for tree in (thetas, ends))
    shares = _shares(weights, networks if axis.given else None, n)
    weights = jnp.broadcast_to(jnp.asarray(shares), (networks, n))
    if jax.tree.leaves(trees.batch_stats(thetas)):
        kept = reestimate(task, thetas, batch_size=batch_size, calibration_examples=calibration_examples)
        return axis.remove(kept)
    layers = repaired_layers(task.model)
    of_batch = jax.tree_util.Partial(_moments, task.functions())

    def measured(networks: trees.Tree) -> list[Moments]:
        reading = Reading(batch_size, calibration_examples, equal=True)
        return totals(of_batch, task.train, reading, Points(each_network, networks))

    at_ends = measured(ends) if layers else []
    # Layer by layer, each measured with those before it repaired; one compiled step serves all of them.
    for number in range(len(layers)):
        thetas = _repair_layer(layers, jnp.int32(number), thetas, measured(thetas), ends, at_ends, weights)
    return axis.remove(thetas)


def repaired_layers(model: Model) -> tuple[KernelLayer, ...]:
    """The layers that `repair` rescales, in the order of the computation; none for a model with batch statistics."""
    check_model(model)
    theta = jax.eval_shape(model.init, jax.random.key(0))
    if jax.tree.leaves(trees.batch_stats(theta)):
        return ()
    return _layers(model, theta, jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype))


def _shares(weights: Any, networks: int | None, n: int) -> np.ndarray:
    if weights is None:
        return np.full((1, n), 1 / n, np.float32)
    shares = np.asarray(weights, np.float32)
    whole = np.isfinite(shares).all() and (shares >= 0).all() and (np.abs(shares.sum(-1) - 1) < 1e-4).all()
    if shares.shape not in ((n,), (networks, n)) or not whole:
        kinds = f"({n},)" if networks is None else f"({n},) or ({networks}, {n})"
        raise InputError(
            f"got weights {np.array2string(shares, threshold=8)} of shape {shares.shape}, expected {kinds}, "
            "not negative and of sum 1."
        )
    return shares.reshape(-1, n)


def _layers(model: Model, theta: trees.Tree, x: Any) -> tuple[KernelLayer, ...]:
    found: list[KernelLayer] = []

    def read(theta: trees.Tree, x: Any) -> list[jax.Array]:
        made = infer_preactivations(model.apply, model.spec, theta, x)
        found.extend(layer for layer, _ in made)
        return [value for _, value in made]

    jax.eval_shape(read, theta, x)
    return tuple(found)


@jit(static_argnames=("layers",))
def _repair_layer(
    layers: tuple[KernelLayer, ...],
    number: jax.Array,
    thetas: trees.Tree,
    now: list[Moments],
    ends: trees.Tree,
    at_ends: list[Moments],
    weights: jax.Array,
) -> trees.Tree:
    """The networks with layer `number` repaired, from the moments of all layers in them and in the ends."""
    # The targets are weighted means of the statistics of the ends.
    statistics = jax.vmap(partial(_statistics, layers))(ends, at_ends)

    def one(theta: trees.Tree, now: list[Moments], share: jax.Array) -> trees.Tree:
        goals = jax.tree.map(lambda values: jnp.tensordot(share, values, 1, precision="highest"), statistics)
        leaves = trees.flatten(theta)
        for i, (layer, measured, goal) in enumerate(zip(layers, now, goals, strict=True)):
            moved = _rescaled(leaves, layer, measured, *goal)
            leaves |= {name: jnp.where(number == i, leaf, leaves[name]) for name, leaf in moved.items()}
        return trees.map_with_name(lambda name, _: leaves[name], theta)

    return jax.vmap(one)(thetas, now, weights)


def _statistics(
    layers: tuple[KernelLayer, ...], theta: trees.Tree, moments: list[Moments]
) -> list[tuple[jax.Array, jax.Array]]:
    """The mean and standard deviation of every unit's preactivation with bias, layer by layer."""
    leaves = trees.flatten(theta)
    return [
        (now.mean + (leaves[layer.bias] if layer.bias else 0.0), jnp.sqrt(now.variance))
        for layer, now in zip(layers, moments, strict=True)
    ]


def _rescaled(
    leaves: dict[str, jax.Array], layer: KernelLayer, now: Moments, mean: jax.Array, deviation: jax.Array
) -> dict[str, jax.Array]:
    """The leaves of a layer, rescaled so that its units have this mean and standard deviation."""
    present = jnp.where(now.varies, jnp.sqrt(now.variance), 1.0)
    ratio = jnp.where(now.varies, deviation / present, 1.0)
    kernel = leaves[layer.kernel]
    along = ratio.reshape([-1 if i == layer.axis else 1 for i in range(kernel.ndim)])
    moved = {layer.kernel: (kernel * along).astype(kernel.dtype)}
    if layer.bias:
        moved[layer.bias] = (mean - ratio * now.mean).astype(leaves[layer.bias].dtype)
    return moved


def _moments(task: Task, theta: trees.Tree, batch: Batch, number: jax.Array) -> list[Moments]:
    """The moments of the preactivations of every layer, without bias, on one batch."""
    # The same augmented examples as in `estimate_statistics`.
    x = task.model_inputs(calibration_batch(task, batch, number)[0])
    return [moments_of(value) for _, value in infer_preactivations(task.model.apply, task.model.spec, theta, x)]
