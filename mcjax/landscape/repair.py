"""REPAIR: rescaling the units of a merged network to the statistics of the networks that it was merged from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.errors import InputError
from mcjax.models.base import Model, has_leading_axis, leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.symmetry.infer.preactivations import KernelLayer, infer_preactivations
from mcjax.training.batch_statistics import estimate_statistics
from mcjax.training.moments import Moments, accumulate, moments_of
from mcjax.training.objective import check_model_and_data


class RepairConfig(NamedTuple):
    """The static arguments of a repair: a program is compiled for each.

    Attributes:
        model: The model of the networks.
        batch_size: Images in memory at once.
        images: The number of training images, the first ones.
        augmentation: The augmentation of these images.
    """

    model: Model
    batch_size: int
    images: int
    augmentation: Augmentation


def repair(
    model: Model,
    theta: trees.Tree,
    ends: trees.Tree,
    data: Dataset,
    weights: Any = None,
    *,
    batch_size: int = 500,
    calibration_images: int | None = None,
    augmentation: Augmentation | None = None,
) -> trees.Tree:
    """Rescale the hidden units of a merged network to the statistics of the ends, the networks that it was merged from.

    Kernels are scaled and biases set, unit by unit, so that the mean and the standard deviation of every preactivation
    over the training images are the weighted means of those of the ends. A layer without a bias is only scaled, and a
    unit that is constant in `theta` only shifted. Layers are repaired in the order of the computation, each with those
    before it repaired. `repaired_layers` lists them; other layers, and the outputs, do not change.

    In a network with batch statistics, these are re-estimated instead: the norms then bring the units to the scales and
    biases in `theta`. Layers without a norm do not change.
    Source: Jordan, Sedghi, Saukh, Entezari and Neyshabur 2022, REPAIR: REnormalizing Permuted Activations for
    Interpolation Repair.

    Args:
        model: The model of all networks.
        theta: The merged network, or several along a leading axis.
        ends: The networks that it was merged from, along a leading axis, permuted as in the merger.
        data: The data set whose training images are used.
        weights: The shares of the ends, float (ends,), or (networks, ends) for several; not negative and of sum 1.
            None: equal shares.
        batch_size: Images in memory at once.
        calibration_images: The number of training images to use, the first ones. None: all.
        augmentation: The augmentation of the images, which should be that of training. None: the data set's default.

    Returns:
        `theta` with repaired layers or new batch statistics.

    Raises:
        InputError: For weights that are negative or do not sum to 1, or numbers of images out of range.
        SpecError: For networks of another model.

    Example::

        theta = jax.tree.map(lambda leaf: leaf.mean(0), ends)
        repaired = repair(model, theta, ends, data)
    """
    check_model_and_data(model, data)
    axis = leading_axis(model, theta)
    if not has_leading_axis(ends, model):
        raise InputError("got one network as ends, expected several along a leading axis: mcjax.trees.stack([...]).")
    there = len(data.train_labels)
    images = there if calibration_images is None else calibration_images
    if not 0 < images <= there or batch_size < 1:
        raise InputError(
            f"got calibration_images={images}, batch_size={batch_size}, expected 1 to {there} images and batches of "
            "at least 1."
        )
    thetas = axis.add(theta)
    networks, n = (jax.tree.leaves(tree)[0].shape[0] for tree in (thetas, ends))
    shares = _shares(weights, networks if axis.given else None, n)
    augmentation = data.default_augmentation() if augmentation is None else augmentation
    config = RepairConfig(model, batch_size, images, augmentation)
    repaired = _repair(config, thetas, ends, data, jnp.broadcast_to(jnp.asarray(shares), (networks, n)))
    return axis.remove(repaired)


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


@jit(static_argnames="config")
def _repair(
    config: RepairConfig, thetas: trees.Tree, ends: trees.Tree, data: Dataset, weights: jax.Array
) -> trees.Tree:
    model, images = config.model, data.train_images[: config.images]
    if jax.tree.leaves(trees.batch_stats(thetas)):
        rest = (images, data.mean, data.std, config.batch_size, config.augmentation)
        return over_models(lambda theta: estimate_statistics(model, theta, *rest), model.convolutions)(thetas)
    x = jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype)
    layers = _layers(model, trees.index(thetas, 0), x)
    if not layers:
        return thetas
    # The targets are weighted means of the statistics of the ends.
    at_ends = over_models(lambda end: _statistics(config, layers, end, data), model.convolutions)(ends)

    def one(theta: trees.Tree, share: jax.Array) -> trees.Tree:
        goals = jax.tree.map(lambda values: jnp.tensordot(share, values, 1, precision="highest"), at_ends)

        def step(theta: trees.Tree, number: jax.Array) -> tuple[trees.Tree, None]:
            # Measure all layers and repair one, so that one compiled step serves all layers.
            found, leaves = _moments(config, theta, data), trees.flatten(theta)
            for i, (layer, now, goal) in enumerate(zip(layers, found, goals, strict=True)):
                moved = _rescaled(leaves, layer, now, *goal)
                leaves |= {name: jnp.where(number == i, leaf, leaves[name]) for name, leaf in moved.items()}
            return trees.map_with_name(lambda name, _: leaves[name], theta), None

        return jax.lax.scan(step, theta, jnp.arange(len(layers)))[0]

    return over_models(one, model.convolutions)(thetas, weights)


def _statistics(
    config: RepairConfig, layers: tuple[KernelLayer, ...], theta: trees.Tree, data: Dataset
) -> list[tuple[jax.Array, jax.Array]]:
    """The mean and standard deviation of every unit's preactivation with bias, layer by layer."""
    leaves = trees.flatten(theta)
    return [
        (now.mean + (leaves[layer.bias] if layer.bias else 0.0), jnp.sqrt(now.variance))
        for layer, now in zip(layers, _moments(config, theta, data), strict=True)
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


def _moments(config: RepairConfig, theta: trees.Tree, data: Dataset) -> list[Moments]:
    """The moments of the preactivations of every layer, without bias, in one pass over the images."""
    count = -(-config.images // config.batch_size)
    size = config.images // count
    batches = data.train_images[: count * size].reshape(count, size, *data.train_images.shape[1:])

    def moments(numbered: tuple[jax.Array, jax.Array]) -> list[Moments]:
        number, batch = numbered
        # The same augmented images as in `estimate_statistics`.
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), number))[0]
        x = normalize(augment(key, batch, config.augmentation), data.mean, data.std)
        preactivations = infer_preactivations(config.model.apply, config.model.spec, theta, x)
        return [moments_of(value) for _, value in preactivations]

    return accumulate(moments, (jnp.arange(count), batches))
