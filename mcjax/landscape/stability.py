"""Noise stability: cushions, contraction and smoothness of a network, image by image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import chain_of, check_network
from mcjax.constructions.dropout import random_factors
from mcjax.data import Dataset, normalize
from mcjax.errors import InputError, check_whole
from mcjax.landscape.passages import Passages, spectral_norms
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.training.objective import check_model_and_data

LIPSCHITZ = float(np.sqrt(2))
"""Of the cross entropy of a softmax, in the logits."""


class NoiseStability(NamedTuple):
    """The quantities of Definitions 2 and 3 for every image, float32; layers are counted from 1, i is index i - 1.

    layer_cushion: (d, images). contraction: (d - 1, images), ||x^i|| / ||phi(x^i)||. interlayer_cushion: (d, d,
    images), of layers i <= j, 1 for i = j, NaN below and for layers i that were not asked for. smoothness: (draws, d,
    d, images), how large rho may be for this draw, image and i <= j over all t, infinite where the network is
    linear; NaN for i = 1, below, and for layers that were not asked for. spread: (d - 1, images), sqrt(h)
    ||phi(x)||_inf / ||phi(x)||, which Definition 4 wants bounded. output_norm: (images,). widths: of hidden layers.
    """

    layer_cushion: np.ndarray
    contraction: np.ndarray
    interlayer_cushion: np.ndarray
    smoothness: np.ndarray
    spread: np.ndarray
    output_norm: np.ndarray
    widths: tuple[int, ...]

    def __repr__(self) -> str:
        depth, images = self.layer_cushion.shape
        return f"NoiseStability of {depth} layers on {images} images: rho {self.rho:.3g}, epsilon {self.epsilon():.3g}"

    @property
    def minimal_interlayer_cushion(self) -> np.ndarray:
        """mu_{i ->}: the least over images and j >= i, float32 (d,); NaN for layers that were not asked for."""
        least = np.where(np.isnan(self.interlayer_cushion), np.inf, self.interlayer_cushion).min((1, 2))
        return np.where(np.isfinite(least), least, np.nan)

    @property
    def rho(self) -> float:
        """Interlayer smoothness: the largest number that every image and layer allows in half of the draws.

        NaN if layers were left out.
        """
        depth = len(self.layer_cushion)
        if any(np.isnan(self.smoothness[:, i, i]).all() for i in range(1, depth)):
            return float("nan")
        each = np.sort(np.where(np.isnan(self.smoothness), np.inf, self.smoothness).min((1, 2, 3)))[::-1]
        return float(each[-(-len(each) // 2) - 1])

    def epsilon(self, lipschitz: float = LIPSCHITZ) -> float:
        """Definition 4's epsilon, on these images; `lipschitz` is beta, of the loss. NaN if layers were left out."""
        depth = len(self.layer_cushion)
        cushions = (self.layer_cushion.min(1) * self.minimal_interlayer_cushion)[1:]
        top = lipschitz * self.contraction.max() * depth**1.5 * self.output_norm.max()
        return float(top / (np.sqrt(min(self.widths)) * cushions.min()))

    @property
    def smooth_enough(self) -> bool:
        """Whether rho is at least 3 d, as Definition 4 wants it."""
        return self.rho >= 3 * len(self.layer_cushion)


def noise_stability(
    key: jax.Array,
    model: Model,
    theta: trees.Tree,
    data: Dataset,
    *,
    fraction: float | dict[str, float] = 0.5,
    images: int = 64,
    draws: int = 4,
    ts: int = 5,
    iterations: int = 30,
    layers: tuple[int, ...] | None = None,
    chunk: int = 4,
) -> NoiseStability:
    """How a network damps noise that is put into its layers, on the first `images` training images.

    For feed-forward models; x^i is what the i-th nonlinearity reads, A_i all that is linear before it, a batch norm
    by its running statistics included, and phi all between x^i and A_{i+1}: a ReLU, and pooling if there is any.
    Frobenius norms are exact; spectral norms of Jacobians come from `iterations` of the power method on
    products with vectors, no Jacobian is formed: they are a little too small, and interlayer cushions too large, by
    up to 2% at 30 iterations on small networks. Smoothness is over `draws` of Algorithm 1 at `fraction`, and `ts`
    values of t, ends included. layers: those i >= 1 whose passages to j > i are measured (None: all), the costly
    part. chunk: images at once. Biases are no part of the theory: x^j is J x^i plus a constant here, and smoothness
    compares with the tangent at x^i.

    Raises InputError for a model that is no chain of layers, an activation that is not positively homogeneous, or
    numbers out of range. Source: Kuditipudi et al. 2019, Definitions 2 to 4.
    """
    check_model_and_data(model, data)
    chained = chain_of(model)
    depth = len(chained.layers)
    check_network(model, theta)
    check_whole("images", images, 1, len(data.train_labels))
    for name, value, least in (("draws", draws, 1), ("ts", ts, 2), ("iterations", iterations, 1), ("chunk", chunk, 1)):
        check_whole(name, value, least)
    known = range(1, depth + 1)
    if layers is not None and not (isinstance(layers, Sequence) and layers and all(i in known for i in layers)):
        raise InputError(f"got layers={layers!r}, expected some numbers from 1 to {depth}: (1, 2).")
    layers = tuple(known if layers is None else sorted(set(layers)))
    x = normalize(data.train_images[:images], data.mean, data.std)
    keys = jax.random.split(key, draws + 1)
    thrown = jax.vmap(lambda each: random_factors(each, chained, fraction))(keys[1:])
    plan = (depth, iterations, layers, chunk, ts)
    found = _measure(model, plan, theta, x, thrown, keys[0])
    wrong = np.flatnonzero(np.asarray(found.pop("curved")).max(0) > 1e-3)
    if len(wrong):
        raise InputError(
            f"{model.name}: the activation of {chained.groups[wrong[0]]!r} is not positively homogeneous, expected "
            "relu or leaky_relu: the theory needs phi(2 x) = 2 phi(x)."
        )
    arrays = {name: np.moveaxis(np.asarray(value), 0, -1) for name, value in found.items()}
    return NoiseStability(widths=chained.sizes, **arrays)


@jit(static_argnames=("model", "plan"))
def _measure(
    model: Model, plan: tuple, theta: trees.Tree, x: jax.Array, thrown: Any, key: jax.Array
) -> dict[str, jax.Array]:
    """Everything for every image, along a leading axis."""
    depth, iterations, layers, chunk, ts = plan
    chained = chain_of(model)
    passages = Passages(model, theta)
    norms = passages.frobenius(theta)
    times = jnp.linspace(0, 1, ts)

    def one(image: jax.Array) -> dict[str, jax.Array]:
        here = passages.preactivations(theta, image)
        read, linear = passages.read(theta, image), passages.linear(theta, image)
        active = [model.activations(theta, image[None])[group][0] for group in chained.groups]
        cushion = jnp.full((depth, depth), jnp.nan)
        smooth = jnp.full((len(jax.tree.leaves(thrown)[0]), depth, depth), jnp.nan)
        for i in layers:
            cushion = cushion.at[i - 1, i - 1].set(1.0)
            if i < depth:
                onward = passages.onward(theta, image, i)
                sizes, moved = spectral_norms(onward, here[i - 1], key, iterations)
                gained = jnp.stack([trees.norm(each) for each in moved])
                cushion = cushion.at[i - 1, i:].set(gained / (sizes * trees.norm(here[i - 1])))
            if i > 1:
                measured = passages.smoothness(theta, image, i, here, thrown, times)
                smooth = smooth.at[:, i - 1, i - 1 :].set(measured)
        phi = [trees.norm(each) for each in active]
        return {
            "layer_cushion": jnp.stack(
                [trees.norm(y) / (norm * trees.norm(z)) for y, norm, z in zip(linear, norms, read, strict=True)]
            ),
            "contraction": jnp.stack([trees.norm(a) / b for a, b in zip(here[:-1], phi, strict=True)]),
            "interlayer_cushion": cushion,
            "smoothness": smooth,
            "spread": jnp.stack([jnp.abs(a).max() * a.size**0.5 / b for a, b in zip(active, phi, strict=True)]),
            "output_norm": trees.norm(here[-1]),
            "curved": passages.curved(theta, image, here),
        }

    return jax.lax.map(one, x, batch_size=min(chunk, len(x)))
