"""REPAIR: rescaling the units of a merged network to the statistics of the networks that it was merged from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import Model, has_leading_axis, leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.symmetry.infer.preactivations import KernelLayer, infer_preactivations
from mcjax.training.batch_statistics import calibration_batch, check_calibration, estimate_statistics
from mcjax.training.batches import Moments, accumulate, equal_batches, moments_of
from mcjax.training.loss import Batch
from mcjax.training.task import Task, check_task


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
        calibration_examples: The number of training examples to use, the first ones, augmented as in training. None:
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
    task = check_task(task, model=True)
    check_calibration(task, calibration_examples, batch_size)
    axis = leading_axis(task, theta)
    if not has_leading_axis(ends, task):
        raise InputError("got one network as ends, expected several along a leading axis: mcjax.trees.stack([...]).")
    thetas = axis.add(theta)
    networks, n = (jax.tree.leaves(tree)[0].shape[0] for tree in (thetas, ends))
    shares = _shares(weights, networks if axis.given else None, n)
    weights = jnp.broadcast_to(jnp.asarray(shares), (networks, n))
    return axis.remove(_repair(task, thetas, ends, weights, calibration_examples, batch_size))


def repaired_layers(model: Model) -> tuple[KernelLayer, ...]:
    """The layers that `repair` rescales, in the order of the computation; none for a model with batch statistics."""
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


@jit(static_argnames=("calibration_examples", "batch_size"))
def _repair(
    task: Task,
    thetas: trees.Tree,
    ends: trees.Tree,
    weights: jax.Array,
    calibration_examples: int | None,
    batch_size: int,
) -> trees.Tree:
    if jax.tree.leaves(trees.batch_stats(thetas)):
        return over_models(lambda theta: estimate_statistics(task, theta, calibration_examples, batch_size))(thetas)
    model = task.model
    x = jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype)
    layers = _layers(model, trees.index(thetas, 0), x)
    if not layers:
        return thetas
    used = jax.tree.map(lambda leaf: leaf[:calibration_examples], task.train)
    batches, _ = equal_batches(used, batch_size)
    # The targets are weighted means of the statistics of the ends.
    at_ends = over_models(lambda end: _statistics(task, layers, end, batches))(ends)

    def one(theta: trees.Tree, share: jax.Array) -> trees.Tree:
        goals = jax.tree.map(lambda values: jnp.tensordot(share, values, 1, precision="highest"), at_ends)

        def step(theta: trees.Tree, number: jax.Array) -> tuple[trees.Tree, None]:
            # Measure all layers and repair one, so that one compiled step serves all layers.
            found, leaves = _moments(task, theta, batches), trees.flatten(theta)
            for i, (layer, now, goal) in enumerate(zip(layers, found, goals, strict=True)):
                moved = _rescaled(leaves, layer, now, *goal)
                leaves |= {name: jnp.where(number == i, leaf, leaves[name]) for name, leaf in moved.items()}
            return trees.map_with_name(lambda name, _: leaves[name], theta), None

        return jax.lax.scan(step, theta, jnp.arange(len(layers)))[0]

    return over_models(one)(thetas, weights)


def _statistics(
    task: Task, layers: tuple[KernelLayer, ...], theta: trees.Tree, batches: Batch
) -> list[tuple[jax.Array, jax.Array]]:
    """The mean and standard deviation of every unit's preactivation with bias, layer by layer."""
    leaves = trees.flatten(theta)
    return [
        (now.mean + (leaves[layer.bias] if layer.bias else 0.0), jnp.sqrt(now.variance))
        for layer, now in zip(layers, _moments(task, theta, batches), strict=True)
    ]


def _rescaled(
    leaves: dict[str, jax.Array], layer: KernelLayer, now: Moments, mean: jax.Array, deviation: jax.Array
) -> dict[str, jax.Array]:
    """The leaves of a layer, rescaled so that its units have this mean and standard deviation."""
    present = jnp.sqrt(now.variance)
    # A constant unit can have a deviation of this size, by rounding.
    varies = present > 1e-5 * jnp.abs(now.mean)
    ratio = jnp.where(varies, deviation / jnp.where(varies, present, 1.0), 1.0)
    kernel = leaves[layer.kernel]
    along = ratio.reshape([-1 if i == layer.axis else 1 for i in range(kernel.ndim)])
    moved = {layer.kernel: (kernel * along).astype(kernel.dtype)}
    if layer.bias:
        moved[layer.bias] = (mean - ratio * now.mean).astype(leaves[layer.bias].dtype)
    return moved


def _moments(task: Task, theta: trees.Tree, batches: Batch) -> list[Moments]:
    """The moments of the preactivations of every layer, without bias, in one pass over equal batches."""

    def moments(numbered: tuple[jax.Array, Batch]) -> list[Moments]:
        number, batch = numbered
        # The same augmented examples as in `estimate_statistics`.
        x = task.model_inputs(calibration_batch(task, batch, number)[0])
        return [moments_of(value) for _, value in infer_preactivations(task.model.apply, task.model.spec, theta, x)]

    return accumulate(moments, (jnp.arange(len(jax.tree.leaves(batches)[0])), batches))
