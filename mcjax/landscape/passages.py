"""A feed-forward network cut open between its layers: passing on from one layer's input of its nonlinearity."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.constructions.chain import chain_of, scale_outputs
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.runtime.convolution import plainly
from mcjax.symmetry.infer.linear_maps import frobenius_norm, linear_maps, linear_part
from mcjax.symmetry.infer.program import trace

Values = list[jax.Array]
"""One value a layer, of one image."""


class Passages:
    """The layers of a model at one image (n = 1); layers are counted from 1."""

    def __init__(self, model: Model, theta: trees.Tree) -> None:
        self.chained = chain_of(model)
        shape = jax.ShapeDtypeStruct((1, *model.input_shape), model.input_dtype)
        with plainly():
            self.program = trace(model.apply, theta, shape)
        kernels = [layer.kernel for layer in self.chained.layers]
        self.maps = linear_maps(self.program, list(trees.flatten(theta)), kernels)
        if self.maps[-1].preactivation not in self.program.outputs:
            raise InputError(
                f"{model.name}: its outputs are more than what {kernels[-1]} and a bias make of the last hidden layer "
                "(a skip connection to them), expected a chain of layers."
            )

    def _values(
        self, theta: trees.Tree, image: jax.Array, slots: list[int], given: Mapping[int, jax.Array] | None = None
    ) -> Values:
        places = [(slot,) for slot in slots]
        found = self.program.values([*jax.tree.leaves(theta), image[None]], places, given)
        return [found[place] for place in places]

    def preactivations(self, theta: trees.Tree, image: jax.Array) -> Values:
        """x^1 to x^d."""
        return self._values(theta, image, [each.preactivation for each in self.maps])

    def read(self, theta: trees.Tree, image: jax.Array) -> Values:
        """What the matrices read: the image, and phi(x^1) to phi(x^{d-1})."""
        return self._values(theta, image, [each.input for each in self.maps])

    def linear(self, theta: trees.Tree, image: jax.Array) -> Values:
        """A_i phi(x^{i-1}): the preactivations without what biases and norms add."""
        inputs = [*jax.tree.leaves(theta), image[None]]
        products = self._values(theta, image, [each.product for each in self.maps])
        return [
            linear_part(self.program, each, inputs, product) for each, product in zip(self.maps, products, strict=True)
        ]

    def frobenius(self, theta: trees.Tree) -> Values:
        """||A_i||_F."""
        image = jnp.zeros(self.program.shapes[self.program.inputs[-1]])
        return [frobenius_norm(self.program, each, [*jax.tree.leaves(theta), image]) for each in self.maps]

    def onward(self, theta: trees.Tree, image: jax.Array, i: int) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
        """x^i -> (x^{i+1}, ..., x^d): M^{i, j} for all j > i."""
        start, later = self.maps[i - 1].preactivation, [each.preactivation for each in self.maps[i:]]

        def passed(value: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(self._values(theta, image, later, {start: value}))

        return passed

    def curved(self, theta: trees.Tree, image: jax.Array, here: Values) -> jax.Array:
        """How far phi(2 x^i) is from 2 phi(x^i), of each hidden layer, relative to that: (d - 1,)."""
        found = []
        for i, (before, after) in enumerate(zip(self.maps[:-1], self.maps[1:], strict=True)):
            once, twice = (
                self._values(theta, image, [after.input], {before.preactivation: factor * here[i]})[0]
                for factor in (1, 2)
            )
            found.append(trees.norm(twice - 2 * once) / jnp.maximum(trees.norm(2 * once), 1e-30))
        return jnp.stack(found)

    def smoothness(
        self, theta: trees.Tree, image: jax.Array, i: int, here: Values, coins: Any, times: jax.Array
    ) -> jax.Array:
        """The largest rho of Definition 3 that this image allows, for every draw and every j >= i: (draws, d - i + 1).

        coins: what every draw multiplies the outputs of units by, (draws, n) a group.
        """
        x, below = here[i - 1], self.chained.groups[: i - 1]
        exact, tangent = jax.linearize(self._with_itself(theta, image, i), x)

        def allowed(noisy: jax.Array) -> jax.Array:
            reached, noise = self._with_itself(theta, image, i)(noisy), noisy - x
            moved = tangent(noise)
            each = []
            for there, linear, of in zip(reached, moved, exact, strict=True):
                error = trees.norm(there - of - linear)
                # What float arithmetic cannot tell from zero is zero.
                zero = error <= 1e-6 * trees.norm(of)
                each.append(
                    jnp.where(
                        zero, jnp.inf, trees.norm(noise) * trees.norm(of) / (trees.norm(x) * jnp.where(zero, 1, error))
                    )
                )
            return jnp.stack(each)

        def of_draw(coin: dict[str, jax.Array]) -> jax.Array:
            def at(t: jax.Array) -> jax.Array:
                # theta t + theta^k (1 - t), of k = i and k = i - 1: the layers from 2 to k have dropped columns.
                rows = []
                for groups in (below, below[:-1]):
                    factors = {group: t + (1 - t) * coin[group] for group in groups}
                    noisy = self.preactivations(scale_outputs(self.chained, theta, factors), image)[i - 1]
                    rows.append(allowed(noisy))
                return jnp.minimum(*rows)

            return jax.lax.map(at, times).min(0)

        return jax.lax.map(of_draw, coins)

    def _with_itself(self, theta: trees.Tree, image: jax.Array, i: int) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
        return lambda value: (value, *self.onward(theta, image, i)(value))


def spectral_norms(
    passed: Callable[[jax.Array], tuple[jax.Array, ...]], x: jax.Array, key: jax.Array, iterations: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The spectral norms (k,) of the Jacobians at x of a function's k results, and the Jacobians' products with x.

    By the power method on J' J, forward and reverse products in turn for all results together, from a random vector:
    from below, and closer with every iteration.
    """
    results, tangent = jax.linearize(passed, x)
    count = len(results)
    transposed = jax.linear_transpose(tangent, x)

    def own(vectors: jax.Array) -> tuple[jax.Array, ...]:
        """J_k v_k: of the k-th vector, the k-th result alone."""
        moved = jax.vmap(tangent)(vectors)
        return tuple(jnp.where(along(jnp.arange(count) == k, each.ndim), each, 0) for k, each in enumerate(moved))

    def along(flags: jax.Array, ndim: int) -> jax.Array:
        return flags.reshape(-1, *(1,) * (ndim - 1))

    def unit(vectors: jax.Array) -> jax.Array:
        norms = jnp.sqrt(jnp.square(vectors).reshape(count, -1).sum(1))
        return vectors / along(jnp.maximum(norms, 1e-30), vectors.ndim)

    def iterate(_: int, vectors: jax.Array) -> jax.Array:
        return unit(jax.vmap(lambda *each: transposed(each)[0])(*own(vectors)))

    start = unit(jax.random.normal(key, (count, *x.shape), x.dtype))
    final = own(jax.lax.fori_loop(0, iterations, iterate, start))
    norms = jnp.stack([trees.norm(each[k]) for k, each in enumerate(final)])
    return norms, tangent(x)
