"""Neuron alignment: matching units by the correlation of their activations (Algorithm 1, appendix E)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import Dataset, normalize
from mcjax.errors import InputError
from mcjax.models.base import Model, check_ends
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import over_models
from mcjax.symmetry import Permutation, nearest_permutation

Cost = Literal["correlation", "covariance", "inner_product"]


class Moments(NamedTuple):
    """Moments of the units of two networks, float32, merged batch by batch: means and centred products."""

    samples: jax.Array
    mean_1: jax.Array
    mean_2: jax.Array
    square_1: jax.Array
    square_2: jax.Array
    product: jax.Array


class Match(NamedTuple):
    """A matching of theta_2 onto theta_1, from activations; with a leading pair axis if they had one.

    P: group -> int32 ([pairs,] n). correlation: group -> float32 ([pairs,] n, n), units of theta_1 by
    units of theta_2, the mean over a trunk's blocks. before, after: group -> its mean correlation
    between units of one index, as they were and after permuting.
    """

    P: Permutation
    correlation: dict[str, np.ndarray]
    before: dict[str, Any]
    after: dict[str, Any]


def _moments_of(a: jax.Array, b: jax.Array) -> Moments:
    a = a.reshape(-1, a.shape[-1]).astype(jnp.float32)
    b = b.reshape(-1, b.shape[-1]).astype(jnp.float32)
    mean_1, mean_2 = a.mean(0), b.mean(0)
    a, b = a - mean_1[None], b - mean_2[None]
    product = jnp.matmul(a.T, b, precision="highest")
    return Moments(jnp.float32(len(a)), mean_1, mean_2, jnp.square(a).sum(0), jnp.square(b).sum(0), product)


def _merge(p: Moments, q: Moments) -> Moments:
    # Chan, Golub and LeVeque's update: no difference of large sums.
    samples = p.samples + q.samples
    share, weight = q.samples / samples, p.samples * q.samples / samples
    delta_1, delta_2 = q.mean_1 - p.mean_1, q.mean_2 - p.mean_2
    return Moments(
        samples,
        p.mean_1 + share * delta_1,
        p.mean_2 + share * delta_2,
        p.square_1 + q.square_1 + weight * jnp.square(delta_1),
        p.square_2 + q.square_2 + weight * jnp.square(delta_2),
        p.product + q.product + weight * jnp.outer(delta_1, delta_2),
    )


class Images(NamedTuple):
    """Images for a model: uint8 with the mean and std to normalise by, or float as they are."""

    images: Any
    mean: Any
    std: Any

    def prepare(self, batch: jax.Array) -> jax.Array:
        """A batch of these images, as the model takes it."""
        return normalize(batch, self.mean, self.std) if batch.dtype == jnp.uint8 else batch


def _stream(model: Model, theta_1: trees.Tree, theta_2: trees.Tree, images: Images, batch_size: int) -> Any:
    def moments(batch: jax.Array) -> dict[str, tuple[Moments, ...]]:
        x = images.prepare(batch)
        first, second = model.activations(theta_1, x), model.activations(theta_2, x)
        return {group: tuple(map(_moments_of, first[group], second[group])) for group in model.spec.groups}

    def is_moments(node: Any) -> bool:
        return isinstance(node, Moments)

    def merged(carry: Any, batch: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(_merge, carry, moments(batch), is_leaf=is_moments), None

    n = len(images.images)
    size = min(batch_size, n)
    whole = n // size * size
    batches = images.images[:whole].reshape(-1, size, *images.images.shape[1:])
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(moments, batches[0]))
    total = jax.lax.scan(merged, nothing, batches)[0]
    return merged(total, images.images[whole:])[0] if whole < n else total


@jit(static_argnames=("model", "batch_size", "cost"))
def _matrices(
    model: Model, theta_1: trees.Tree, theta_2: trees.Tree, images: Images, batch_size: int, cost: Cost
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The correlations and the matrices to match by, group by group, for every pair."""

    def one(theta_1: trees.Tree, theta_2: trees.Tree) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        total = _stream(model, theta_1, theta_2, images, batch_size)

        def mean(fn: Callable[[Moments], jax.Array]) -> dict[str, jax.Array]:
            return {group: jnp.stack([fn(m) for m in blocks]).mean(0) for group, blocks in total.items()}

        return mean(_correlation), mean(GAINS[cost])

    return over_models(one, model.convolutions)(theta_1, theta_2)


def _correlation(m: Moments) -> jax.Array:
    scale_1, scale_2 = _inverse_deviation(m.square_1), _inverse_deviation(m.square_2)
    return m.product * scale_1[:, None] * scale_2[None, :]


def _inverse_deviation(square: jax.Array) -> jax.Array:
    # A unit that never varies correlates with nothing: zero, not NaN.
    alive = square > 0
    return jnp.where(alive, jax.lax.rsqrt(jnp.where(alive, square, 1.0)), 0.0)


GAINS: dict[str, Callable[[Moments], jax.Array]] = {
    "correlation": _correlation,
    "covariance": lambda m: m.product / m.samples,
    "inner_product": lambda m: m.product / m.samples + jnp.outer(m.mean_1, m.mean_2),
}


def match_activations(
    model: Model,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    images: Any,
    batch_size: int = 128,
    *,
    cost: Cost = "correlation",
) -> Match:
    """The P for which the units of `P theta_2` correlate most with those of theta_1, over `images`.

    images: a Dataset, of which the first fifth of the training images is taken as in the paper, or
    float32 (n, h, w, c) as the model takes them. Every pixel of a feature map is a sample. One pass
    over the images for all groups, both networks by their running statistics; the assignments run on
    the host. A residual trunk is matched by the mean over the stem and its blocks. cost: what the
    assignment maximises: the Pearson correlation (the paper), the covariance, or the uncentred inner
    product. Units that nothing tells apart stay in place. Endpoints may have a leading pair axis.
    Raises SpecError if the endpoints are not of this model.
    """
    if cost not in GAINS:
        raise InputError(f"got cost={cost!r}, expected one of {', '.join(GAINS)}.")
    if batch_size < 1:
        raise InputError(f"got batch_size={batch_size}, expected at least 1.")
    pairs = check_ends(model, theta_1, theta_2)
    if not pairs:
        theta_1, theta_2 = jax.tree.map(lambda leaf: leaf[None], (theta_1, theta_2))
    found = _matrices(model, theta_1, theta_2, as_images(model, images), batch_size, cost)
    correlation, gain = jax.tree.map(np.asarray, found)
    match = Match({}, correlation, {}, {})
    for group in model.spec.groups:
        value = gain[group].astype(np.float64)
        if not np.isfinite(value).all():
            raise InputError(
                f"the activations of group {group!r} are not finite: expected trained networks with finite weights."
            )
        # A tie between units is broken in favour of the one that is there.
        tie = 1e-6 * np.abs(value).max(initial=0) * np.eye(value.shape[-1])
        match.P[group] = nearest_permutation(value + tie[None])
        paired = np.take_along_axis(correlation[group], match.P[group][..., None], -1)[..., 0]
        match.before[group] = np.diagonal(correlation[group], axis1=-2, axis2=-1).mean(-1)
        match.after[group] = paired.mean(-1)
    return match if pairs else Match(*(trees.index(part, 0) for part in match))


def as_images(model: Model, images: Any) -> Images:
    """A Dataset's first fifth, or float images. Raises InputError if the model cannot take them."""
    if isinstance(images, Dataset):
        first = images.train_images[: max(1, len(images.train_images) // 5)]
        batch = Images(jnp.asarray(first), jnp.asarray(images.mean), jnp.asarray(images.std))
    else:
        channels = (1,)
        batch = Images(jnp.asarray(images), jnp.zeros(channels), jnp.ones(channels))
        if jnp.issubdtype(batch.images.dtype, jnp.floating) != (model.input_dtype == "float32"):
            raise InputError(
                f"got images of {batch.images.dtype}, expected {model.input_dtype} as the model takes them: "
                "give the Dataset, or mcjax.data.normalize(images, data.mean, data.std)."
            )
    if batch.images.shape[1:] != model.input_shape or len(batch.images) == 0:
        raise InputError(
            f"got images {batch.images.shape}, expected (n, {', '.join(map(str, model.input_shape))}) for {model.name}."
        )
    return batch
