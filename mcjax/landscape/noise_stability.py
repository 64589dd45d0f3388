"""Noise stability: cushions, contraction and smoothness of a network, example by example (Kuditipudi et al., 2019)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import chain_of, check_network
from mcjax.constructions.dropout import random_factors
from mcjax.errors import InputError, check_whole
from mcjax.landscape.interlayer_maps import InterlayerMaps, spectral_norms
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.training.task import Task, check_task
from mcjax.training.task import examples as count_examples

LIPSCHITZ = float(np.sqrt(2))
"""The Lipschitz constant of softmax cross entropy in the logits."""


class NoiseStability(NamedTuple):
    """The quantities of Definitions 2 and 3 for every example, float32; layer i is at index i - 1.

    Attributes:
        layer_cushion: ||A_i phi(x^{i-1})|| / (||A_i||_F ||phi(x^{i-1})||), (d, examples).
        contraction: ||x^i|| / ||phi(x^i)||, (d - 1, examples).
        interlayer_cushion: ||J x^i|| / (||J|| ||x^i||), J the Jacobian of M^{i, j}, for layers i <= j,
            (d, d, examples): 1 for i = j, NaN for i > j and for layers i that were left out.
        smoothness: The largest rho of each draw and example, for i <= j and the worst t, (draws, d, d, examples):
            infinite where the network is linear, NaN for i = 1, for i > j, and for layers i that were left out.
        spread: sqrt(h) ||phi||_inf / ||phi|| at x^i_i(t), bounded in Definition 4: the largest of each draw and example
            over t, (draws, d - 1, examples). x^i_i(t) is x^i with the columns of A_2 to A_i dropped in part.
        output_norm: The norm of the logits, (examples,).
        widths: The number of units of each hidden layer.
    """

    layer_cushion: np.ndarray
    contraction: np.ndarray
    interlayer_cushion: np.ndarray
    smoothness: np.ndarray
    spread: np.ndarray
    output_norm: np.ndarray
    widths: tuple[int, ...]

    def __repr__(self) -> str:
        depth, examples = self.layer_cushion.shape
        return (
            f"NoiseStability of {depth} layers on {examples} examples: rho {self.rho:.3g}, epsilon {self.epsilon():.3g}"
        )

    @property
    def minimal_interlayer_cushion(self) -> np.ndarray:
        """mu_{i ->}, the least over examples and j >= i: float32 (d,); NaN for layers left out."""
        least = np.where(np.isnan(self.interlayer_cushion), np.inf, self.interlayer_cushion).min((1, 2))
        return np.where(np.isfinite(least), least, np.nan)

    @property
    def rho(self) -> float:
        """The interlayer smoothness: the largest rho that holds for all examples and layers in half of the draws.

        NaN if layers were left out.
        """
        depth = len(self.layer_cushion)
        if any(np.isnan(self.smoothness[:, i, i]).all() for i in range(1, depth)):
            return float("nan")
        each = np.sort(np.where(np.isnan(self.smoothness), np.inf, self.smoothness).min((1, 2, 3)))[::-1]
        return float(each[-(-len(each) // 2) - 1])

    def epsilon(self, lipschitz: float = LIPSCHITZ) -> float:
        """The epsilon of Definition 4, on these examples; NaN if layers were left out. `lipschitz` is beta."""
        depth = len(self.layer_cushion)
        cushions = (self.layer_cushion.min(1) * self.minimal_interlayer_cushion)[1:]
        top = lipschitz * self.contraction.max() * depth**1.5 * self.output_norm.max()
        return float(top / (np.sqrt(min(self.widths)) * cushions.min()))

    @property
    def smooth_enough(self) -> bool:
        """Whether rho is at least 3 d, as Definition 4 requires."""
        return self.rho >= 3 * len(self.layer_cushion)


def noise_stability(
    key: jax.Array,
    task: Task,
    theta: trees.Tree,
    *,
    fraction: float | dict[str, float] = 0.5,
    examples: int = 64,
    draws: int = 4,
    ts: int = 5,
    iterations: int = 30,
    layers: tuple[int, ...] | None = None,
    chunk: int = 4,
) -> NoiseStability:
    """Measure the noise stability of a feed-forward network on the first training examples.

    x^i is the input of the i-th nonlinearity, A_i the linear map before it, with a batch norm by its running
    statistics, and phi everything between x^i and A_{i+1}: a ReLU, and pooling if there is any. Frobenius norms are
    exact. Spectral norms of Jacobians are computed by the power method, without forming the Jacobian: they are slightly
    too small, and interlayer cushions too large, by up to 2% at 30 iterations on small networks. The theory has no
    biases; with biases x^j is J x^i plus a constant, and the smoothness compares with the tangent at x^i.
    Source: Kuditipudi et al. 2019, Explaining Landscape Connectivity of Low-cost Solutions for Multilayer Nets,
    Definitions 2 to 4.

    Args:
        key: A typed key.
        task: The task, whose model is feed-forward with positively homogeneous activations.
        theta: The network.
        fraction: The share of units that dropout removes, for all groups or by group.
        examples: The number of training examples.
        draws: Draws of Algorithm 1 for the smoothness and the spread.
        ts: Values of t for both, ends included.
        iterations: Iterations of the power method.
        layers: The layers i >= 1 whose maps to layers j > i are measured, the costly part. None: all.
        chunk: Examples in memory at once.

    Returns:
        The quantities for every example.

    Raises:
        InputError: For a task without a model, a model that is not feed-forward, an activation that is not positively
            homogeneous, or numbers out of range.

    Example::

        stability = noise_stability(key, task, theta)
        print(stability.layer_cushion.min(1), stability.rho, stability.epsilon())
    """
    model = check_task(task, model=True).model
    trees.check_keys(key, 0)
    chained = chain_of(model)
    depth = len(chained.layers)
    check_network(model, theta)
    check_whole("examples", examples, 1, count_examples(task.train))
    for name, value, least in (("draws", draws, 1), ("ts", ts, 2), ("iterations", iterations, 1), ("chunk", chunk, 1)):
        check_whole(name, value, least)
    every = range(1, depth + 1)
    if layers is not None and not (isinstance(layers, Sequence) and layers and all(i in every for i in layers)):
        raise InputError(f"got layers={layers!r}, expected some numbers from 1 to {depth}: (1, 2).")
    layers = tuple(every if layers is None else sorted(set(layers)))
    x = task.model_inputs(jax.tree.map(lambda leaf: leaf[:examples], task.train))
    keys = jax.random.split(key, draws + 1)
    masks = jax.vmap(lambda each: random_factors(each, chained, fraction))(keys[1:])
    found = _measure(StabilityConfig(model, layers, iterations, ts, chunk), theta, x, masks, keys[0])
    wrong = np.flatnonzero(np.asarray(found.pop("homogeneity_errors")).max(0) > 1e-3)
    if len(wrong):
        raise InputError(
            f"{model.name}: the activation of {chained.groups[wrong[0]]!r} is not positively homogeneous, expected "
            "relu or leaky_relu: the theory needs phi(2 x) = 2 phi(x)."
        )
    arrays = {name: np.moveaxis(np.asarray(value), 0, -1) for name, value in found.items()}
    return NoiseStability(widths=chained.sizes, **arrays)


class StabilityConfig(NamedTuple):
    """The static arguments of a measurement: a program is compiled for each.

    Attributes:
        model: The model of the network.
        layers: The layers i whose maps to j > i are measured.
        iterations: Iterations of the power method.
        ts: Values of t for the smoothness and the spread.
        chunk: Examples in memory at once.
    """

    model: Model
    layers: tuple[int, ...]
    iterations: int
    ts: int
    chunk: int


@jit(static_argnames="config")
def _measure(
    config: StabilityConfig, theta: trees.Tree, inputs: jax.Array, masks: Any, key: jax.Array
) -> dict[str, jax.Array]:
    """All quantities, along a leading axis of examples."""
    maps = InterlayerMaps(config.model, theta)
    norms, times = maps.frobenius_norms(theta), jnp.linspace(0, 1, config.ts)

    def one(image: jax.Array) -> dict[str, jax.Array]:
        x = maps.preactivations(theta, image)
        inputs, products = maps.inputs(theta, image), maps.linear_outputs(theta, image)
        # Definition 2: ||A_i phi(x^{i-1})|| / (||A_i||_F ||phi(x^{i-1})||).
        layer_cushion = [
            trees.norm(y) / (norm * trees.norm(z)) for y, norm, z in zip(products, norms, inputs, strict=True)
        ]
        cushion, smoothness = _between_layers(config, maps, theta, image, x, masks, times, key)
        return {
            "layer_cushion": jnp.stack(layer_cushion),
            # phi(x^i) is what A_{i+1} reads, after pooling.
            "contraction": jnp.stack([trees.norm(a) / trees.norm(b) for a, b in zip(x[:-1], inputs[1:], strict=True)]),
            "interlayer_cushion": cushion,
            "smoothness": smoothness,
            "spread": maps.spread(theta, image, masks, times),
            "output_norm": trees.norm(x[-1]),
            "homogeneity_errors": maps.homogeneity_errors(theta, image, x),
        }

    return jax.lax.map(one, inputs, batch_size=min(config.chunk, len(inputs)))


def _between_layers(
    config: StabilityConfig,
    maps: InterlayerMaps,
    theta: trees.Tree,
    image: jax.Array,
    x: list[jax.Array],
    masks: Any,
    times: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Interlayer cushions (d, d) and smoothness (draws, d, d) of one example."""
    depth = len(x)
    cushion = jnp.full((depth, depth), jnp.nan)
    smoothness = jnp.full((len(jax.tree.leaves(masks)[0]), depth, depth), jnp.nan)
    for i in config.layers:
        cushion = cushion.at[i - 1, i - 1].set(1.0)
        if i < depth:
            # Definition 2: ||J x^i|| / (||J|| ||x^i||), J the Jacobian of M^{i, j} at x^i.
            norms, products = spectral_norms(maps.maps_from(theta, image, i), x[i - 1], key, config.iterations)
            lengths = jnp.stack([trees.norm(each) for each in products])
            cushion = cushion.at[i - 1, i:].set(lengths / (norms * trees.norm(x[i - 1])))
        if i > 1:
            # Definition 3: the interlayer smoothness of layer i.
            rho = maps.smoothness(theta, image, i, x, masks, times)
            smoothness = smoothness.at[:, i - 1, i - 1 :].set(rho)
    return cushion, smoothness
