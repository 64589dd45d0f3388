"""Interlayer maps of a feed-forward network: from the preactivation of one layer to those of later layers.

Notation of Kuditipudi et al., 2019, after Arora et al., 2018: x^i is the preactivation of layer i, A_i the linear map
of layer i, phi everything between x^i and A_{i+1}, pooling included, and M^{i, j} the map from x^i to x^j. Layers are
counted from 1 to d.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.constructions.chain import chain_of, scale_outputs
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.symmetry.infer.linear_maps import frobenius_norm, linear_maps, linear_part
from mcjax.symmetry.infer.program import trace

Values = list[jax.Array]
"""One value for each layer, of one image."""


class InterlayerMaps:
    """The layers of a model at one image (n = 1). Every method is pure: it works under jit, vmap and grad."""

    def __init__(self, model: Model, theta: trees.Tree) -> None:
        self.chain = chain_of(model)
        shape = jax.ShapeDtypeStruct((1, *model.input_shape), model.input_dtype)
        self.program = trace(model.apply, theta, shape)
        kernels = [layer.kernel for layer in self.chain.layers]
        self.layers = linear_maps(self.program, list(trees.flatten(theta)), kernels)
        if self.layers[-1].preactivation not in self.program.outputs:
            raise InputError(
                f"{model.name}: its outputs are not a linear map of the last hidden layer by {kernels[-1]} alone (a "
                "skip connection, perhaps), expected a chain of layers."
            )

    def _values(
        self, theta: trees.Tree, image: jax.Array, slots: list[int], given: Mapping[int, jax.Array] | None = None
    ) -> Values:
        """Values of the traced program, computed from the image, or from the values given in some slots."""
        places = [(slot,) for slot in slots]
        found = self.program.values([*jax.tree.leaves(theta), image[None]], places, given)
        return [found[place] for place in places]

    def preactivations(self, theta: trees.Tree, image: jax.Array) -> Values:
        """x^1 to x^d."""
        return self._values(theta, image, [layer.preactivation for layer in self.layers])

    def inputs(self, theta: trees.Tree, image: jax.Array) -> Values:
        """The inputs of the linear maps: the image, and phi(x^1) to phi(x^{d-1})."""
        return self._values(theta, image, [layer.input for layer in self.layers])

    def linear_outputs(self, theta: trees.Tree, image: jax.Array) -> Values:
        """A_i phi(x^{i-1}): the preactivations without the constants of biases and norms."""
        inputs = [*jax.tree.leaves(theta), image[None]]
        products = self._values(theta, image, [layer.product for layer in self.layers])
        return [
            linear_part(self.program, layer, inputs, product)
            for layer, product in zip(self.layers, products, strict=True)
        ]

    def frobenius_norms(self, theta: trees.Tree) -> Values:
        """||A_i||_F."""
        image = jnp.zeros(self.program.shapes[self.program.inputs[-1]])
        return [frobenius_norm(self.program, layer, [*jax.tree.leaves(theta), image]) for layer in self.layers]

    def maps_from(self, theta: trees.Tree, image: jax.Array, i: int) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
        """x^i -> (x^{i+1}, ..., x^d): M^{i, j} for all j > i."""
        start, later = self.layers[i - 1].preactivation, [layer.preactivation for layer in self.layers[i:]]

        def apply(value: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(self._values(theta, image, later, {start: value}))

        return apply

    def homogeneity_errors(self, theta: trees.Tree, image: jax.Array, x: Values) -> jax.Array:
        """||phi(2 x^i) - 2 phi(x^i)|| / ||2 phi(x^i)|| of each hidden layer: (d - 1,)."""
        found = []
        for i, (before, after) in enumerate(zip(self.layers[:-1], self.layers[1:], strict=True)):
            once, twice = (
                self._values(theta, image, [after.input], {before.preactivation: factor * x[i]})[0] for factor in (1, 2)
            )
            found.append(trees.norm(twice - 2 * once) / jnp.maximum(trees.norm(2 * once), 1e-30))
        return jnp.stack(found)

    def smoothness(
        self, theta: trees.Tree, image: jax.Array, i: int, x: Values, masks: Any, times: jax.Array
    ) -> jax.Array:
        """The interlayer smoothness of layer i (Definition 3) at one image: the largest rho for which it holds.

        Args:
            theta: The network.
            image: One image.
            i: The layer.
            x: The preactivations at this image.
            masks: The factors of the outputs of units in every draw of dropout, float (draws, n) per group.
            times: Values of t in [0, 1].

        Returns:
            The least over `times` for every draw and every j >= i, (draws, d - i + 1); infinite where M^{i, j} is
            linear on the noise.
        """
        here, below = x[i - 1], self.chain.groups[: i - 1]

        def onward(value: jax.Array) -> tuple[jax.Array, ...]:
            return value, *self.maps_from(theta, image, i)(value)

        # M^{i, j} and its tangent at x^i, for all j >= i.
        exact, tangent = jax.linearize(onward, here)

        def allowed(noisy: jax.Array) -> jax.Array:
            noise = noisy - here
            rhos = [
                _largest_rho(reached - value - linear, value, noise, here)
                for reached, value, linear in zip(onward(noisy), exact, tangent(noise), strict=True)
            ]
            return jnp.stack(rhos)

        def draw(mask: dict[str, jax.Array]) -> jax.Array:
            def at(t: jax.Array) -> jax.Array:
                # theta t + theta^k (1 - t) for k = i and k = i - 1: columns of the layers from 2 to k are dropped.
                rhos = []
                for groups in (below, below[:-1]):
                    factors = {group: t + (1 - t) * mask[group] for group in groups}
                    noisy = self.preactivations(scale_outputs(self.chain, theta, factors), image)[i - 1]
                    rhos.append(allowed(noisy))
                return jnp.minimum(*rhos)

            return jax.lax.map(at, times).min(0)

        return jax.lax.map(draw, masks)

    def spread(self, theta: trees.Tree, image: jax.Array, masks: Any, times: jax.Array) -> jax.Array:
        """sqrt(h) ||phi||_inf / ||phi|| at x^i_i(t), bounded in Definition 4: the largest over t, (draws, d - 1).

        Args:
            theta: The network.
            image: One image.
            masks: The factors of the outputs of units in every draw of dropout, float (draws, n) per group.
            times: Values of t in [0, 1].
        """

        def draw(mask: dict[str, jax.Array]) -> jax.Array:
            def at(t: jax.Array) -> jax.Array:
                # theta t + theta^i (1 - t) for all i at once: A_{i+1} and those above it have no effect on x^i.
                factors = {group: t + (1 - t) * factor for group, factor in mask.items()}
                phi = self.inputs(scale_outputs(self.chain, theta, factors), image)[1:]
                norms = [jnp.maximum(trees.norm(each), 1e-30) for each in phi]
                return jnp.stack([jnp.abs(a).max() * a.size**0.5 / b for a, b in zip(phi, norms, strict=True)])

            return jax.lax.map(at, times).max(0)

        return jax.lax.map(draw, masks)


def _largest_rho(error: jax.Array, value: jax.Array, noise: jax.Array, x: jax.Array) -> jax.Array:
    """The rho for which ||error|| = ||noise|| ||value|| / (rho ||x||); infinite where the error is rounding."""
    norm = trees.norm(error)
    zero = norm <= 1e-6 * trees.norm(value)
    return jnp.where(zero, jnp.inf, trees.norm(noise) * trees.norm(value) / (trees.norm(x) * jnp.where(zero, 1, norm)))


def spectral_norms(
    fn: Callable[[jax.Array], tuple[jax.Array, ...]], x: jax.Array, key: jax.Array, iterations: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Spectral norms of the Jacobians of a function's results, by the power method on J' J.

    Forward and reverse products alternate, for all results at once, from random vectors. The norms are lower bounds
    that increase with every iteration.

    Args:
        fn: A function of one array with k results.
        x: The point at which Jacobians are taken.
        key: A typed key for the random vectors.
        iterations: Iterations of the power method.

    Returns:
        The norms (k,), and the product of each Jacobian with x.
    """
    results, tangent = jax.linearize(fn, x)
    count = len(results)
    transposed = jax.linear_transpose(tangent, x)

    def products(vectors: jax.Array) -> tuple[jax.Array, ...]:
        """J_k v_k, with all other results of the k-th vector set to zero."""
        moved = jax.vmap(tangent)(vectors)
        return tuple(jnp.where(column(jnp.arange(count) == k, each.ndim), each, 0) for k, each in enumerate(moved))

    def column(values: jax.Array, ndim: int) -> jax.Array:
        return values.reshape(-1, *(1,) * (ndim - 1))

    def unit(vectors: jax.Array) -> jax.Array:
        norms = jnp.sqrt(jnp.square(vectors).reshape(count, -1).sum(1))
        return vectors / column(jnp.maximum(norms, 1e-30), vectors.ndim)

    # v_k <- J_k' J_k v_k, normalised.
    def iterate(_: int, vectors: jax.Array) -> jax.Array:
        return unit(jax.vmap(lambda *each: transposed(each)[0])(*products(vectors)))

    start = unit(jax.random.normal(key, (count, *x.shape), x.dtype))
    final = products(jax.lax.fori_loop(0, iterations, iterate, start))
    norms = jnp.stack([trees.norm(each[k]) for k, each in enumerate(final)])
    return norms, tangent(x)
