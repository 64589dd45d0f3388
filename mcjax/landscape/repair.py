"""REPAIR: the statistics of a merged network's units put back to those of the networks it is made of."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.errors import InputError
from mcjax.models.base import Model, has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import over_models
from mcjax.symmetry.infer.preactivations import KernelLayer, infer_preactivations
from mcjax.training.batch_statistics import estimate_statistics
from mcjax.training.objective import check_model_and_data


class Moments(NamedTuple):
    """Moments of the units of one layer, float32, merged batch by batch: the mean and centred squares (n,)."""

    samples: jax.Array
    mean: jax.Array
    square: jax.Array

    @property
    def deviation(self) -> jax.Array:
        """The standard deviation of every unit."""
        return jnp.sqrt(self.square / self.samples)


class Settings(NamedTuple):
    """What a repair is compiled for."""

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
    """`theta` with the mean and standard deviation of every hidden unit's pre-activation those of the ends, mixed.

    theta: one network, or several along a leading axis. ends: the networks that it was merged of, along
    a leading axis, permuted as it is. weights: float (ends,), or (networks, ends) for several, not
    negative and of sum 1 (default: equal). A layer's kernel is scaled unit by unit, and its bias set,
    so that over the training images the weighted mean of the ends' means and of their standard
    deviations comes out. A layer without a bias is scaled only, a unit that is constant in theta only
    shifted. Layers are repaired in the order of the computation, each measured after those before it.
    Which layers these are: `repaired_layers`; all others, and the outputs, stay as they are.

    A network with batch statistics has them re-estimated instead: its norms then bring the units to
    the scales and biases in theta, which is what REPAIR adds to networks without norms. Layers of it
    that no norm follows stay as they are.

    Statistics are of the first `calibration_images` training images (default: all), `batch_size` at a
    time, under `augmentation`, which should be that of training (default: the data set's own), as by
    `estimate_statistics`. Raises InputError for other weights, SpecError for networks of another model.
    Jordan, Sedghi, Saukh, Entezari and Neyshabur, 2022: REPAIR: REnormalizing Permuted Activations for
    Interpolation Repair.

        theta = jax.tree.map(lambda leaf: leaf.mean(0), ends)
        repaired = repair(model, theta, ends, data)
    """
    check_model_and_data(model, data)
    many = has_leading_axis(theta, model)
    if not has_leading_axis(ends, model):
        raise InputError("got one network as ends, expected several along a leading axis: mcjax.trees.stack([...]).")
    there = len(data.train_labels)
    images = there if calibration_images is None else calibration_images
    if not 0 < images <= there or batch_size < 1:
        raise InputError(
            f"got calibration_images={images}, batch_size={batch_size}, expected 1 to {there} images and batches of "
            "at least 1."
        )
    thetas = theta if many else jax.tree.map(lambda leaf: leaf[None], theta)
    networks, n = (jax.tree.leaves(tree)[0].shape[0] for tree in (thetas, ends))
    shares = _checked(weights, networks if many else None, n)
    augmentation = data.default_augmentation() if augmentation is None else augmentation
    settings = Settings(model, batch_size, images, augmentation)
    repaired = _repair(settings, thetas, ends, data, jnp.broadcast_to(jnp.asarray(shares), (networks, n)))
    return repaired if many else trees.index(repaired, 0)


def repaired_layers(model: Model) -> tuple[KernelLayer, ...]:
    """The layers that `repair` rescales, in order: `infer_preactivations` says which. None with batch statistics."""
    theta = jax.eval_shape(model.init, jax.random.key(0))
    if jax.tree.leaves(trees.batch_stats(theta)):
        return ()
    return _layers(model, theta, jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype))


def _checked(weights: Any, networks: int | None, n: int) -> np.ndarray:
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


@jit(static_argnames="settings")
def _repair(settings: Settings, thetas: trees.Tree, ends: trees.Tree, data: Dataset, weights: jax.Array) -> trees.Tree:
    model, images = settings.model, data.train_images[: settings.images]
    if jax.tree.leaves(trees.batch_stats(thetas)):
        rest = (images, data.mean, data.std, settings.batch_size, settings.augmentation)
        return over_models(lambda one: estimate_statistics(model, one, *rest), model.convolutions)(thetas)
    x = jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype)
    layers = _layers(model, trees.index(thetas, 0), x)
    if not layers:
        return thetas
    at_ends = over_models(lambda end: _at_end(settings, layers, end, data), model.convolutions)(ends)

    def one(theta: trees.Tree, share: jax.Array) -> trees.Tree:
        goals = jax.tree.map(lambda values: jnp.tensordot(share, values, 1, precision="highest"), at_ends)

        def step(theta: trees.Tree, number: jax.Array) -> tuple[trees.Tree, None]:
            # All layers are measured and one is repaired: one program serves them all.
            found, leaves = _measure(settings, theta, data), trees.flatten(theta)
            for i, (layer, now, goal) in enumerate(zip(layers, found, goals, strict=True)):
                moved = _rescaled(leaves, layer, now, *goal)
                leaves |= {name: jnp.where(number == i, leaf, leaves[name]) for name, leaf in moved.items()}
            return trees.map_with_name(lambda name, _: leaves[name], theta), None

        return jax.lax.scan(step, theta, jnp.arange(len(layers)))[0]

    return over_models(one, model.convolutions)(thetas, weights)


def _at_end(
    settings: Settings, layers: tuple[KernelLayer, ...], end: trees.Tree, data: Dataset
) -> list[tuple[jax.Array, jax.Array]]:
    """The mean and standard deviation of every unit's pre-activation, bias included, layer by layer."""
    leaves = trees.flatten(end)
    return [
        (now.mean + (leaves[layer.bias] if layer.bias else 0.0), now.deviation)
        for layer, now in zip(layers, _measure(settings, end, data), strict=True)
    ]


def _rescaled(
    leaves: dict[str, jax.Array], layer: KernelLayer, now: Moments, mean: jax.Array, deviation: jax.Array
) -> dict[str, jax.Array]:
    """The leaves of a layer for which its units have this mean and standard deviation."""
    # What rounding alone makes of a constant is no variation.
    varies = now.deviation > 1e-5 * jnp.abs(now.mean)
    ratio = jnp.where(varies, deviation / jnp.where(varies, now.deviation, 1.0), 1.0)
    kernel = leaves[layer.kernel]
    along = ratio.reshape([-1 if i == layer.axis else 1 for i in range(kernel.ndim)])
    moved = {layer.kernel: (kernel * along).astype(kernel.dtype)}
    if layer.bias:
        moved[layer.bias] = (mean - ratio * now.mean).astype(leaves[layer.bias].dtype)
    return moved


def _measure(settings: Settings, theta: trees.Tree, data: Dataset) -> list[Moments]:
    """The moments of what every layer's kernel computes, in one pass over the images."""
    count = -(-settings.images // settings.batch_size)
    size = settings.images // count
    batches = data.train_images[: count * size].reshape(count, size, *data.train_images.shape[1:])

    def moments(number: jax.Array, batch: jax.Array) -> list[Moments]:
        # The images of `estimate_statistics`, in the same way at every call.
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), number))[0]
        x = normalize(augment(key, batch, settings.augmentation), data.mean, data.std)
        made = infer_preactivations(settings.model.apply, settings.model.spec, theta, x)
        return [_moments(value) for _, value in made]

    def merged(total: list[Moments], numbered: tuple[jax.Array, jax.Array]) -> tuple[list[Moments], None]:
        return list(map(_merge, total, moments(*numbered))), None

    shapes = jax.eval_shape(moments, jnp.int32(0), batches[0])
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(merged, nothing, (jnp.arange(count), batches))[0]


def _moments(value: jax.Array) -> Moments:
    value = value.reshape(-1, value.shape[-1]).astype(jnp.float32)
    mean = value.mean(0)
    return Moments(jnp.float32(len(value)), mean, jnp.square(value - mean[None]).sum(0))


def _merge(p: Moments, q: Moments) -> Moments:
    # Chan, Golub and LeVeque's update: no difference of large sums.
    samples = p.samples + q.samples
    share, delta = q.samples / samples, q.mean - p.mean
    square = p.square + q.square + p.samples * share * jnp.square(delta)
    return Moments(samples, p.mean + share * delta, square)
