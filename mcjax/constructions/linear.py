"""Paths between deep linear networks along which the loss never exceeds the higher end."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Leaves, chain_of, check_network, computes, on_host
from mcjax.constructions.linear_phases import Matrices, path_phases
from mcjax.curves.curve import check_t
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.shown import Bound


def linear_network_path(
    model: Model, theta_1: trees.Tree, theta_2: trees.Tree, *, ridge: bool = False
) -> jax.tree_util.Partial:
    """A path between two deep linear networks along which no convex loss exceeds the higher end.

    The product W_K ... W_1 moves on a straight line from that of theta_1 to that of theta_2, with pauses. So every loss
    that is convex in the outputs is at most the higher loss of the two ends. If theta_2 is a global minimum and theta_1
    is not, the loss decreases strictly except in pauses; a pause at theta_1 occurs if one of its products W_K ... W_k,
    k > 1, has deficient rank. The path starts and ends exactly at the networks.
    Source: Freeman and Bruna 2017, Proposition 2.2 and appendix B.2. The path there contains a random matrix, does not
    start and end at the networks, and assumes full rank at the ends. Here, moves at constant product first give the
    ends full rank, and rotations keep it along the path without a random matrix.

    Args:
        model: A linear network without biases, with hidden widths of at least m = min(inputs, outputs). If a width is
            m, the product of the layers above it (below, if inputs < outputs) is square. Its determinant must have the
            same sign at both ends, unless a product of rank below m is on the straight line between those of the ends;
            the path pauses there, and the sign changes. Otherwise there is no such path, and the proposition does not
            hold.
        theta_1: The network at t = 0.
        theta_2: The network at t = 1.
        ridge: Whether to bound loss + kappa (||W_1||^2 + ||W_2||^2) as well, for all kappa > 0; two layers only. The
            ends are balanced first, and along the straight line the factors are those of least norm: the sum of their
            squares is twice the nuclear norm of the product.

    Returns:
        The path t -> theta.

    Raises:
        InputError: For a network that is not linear, has biases or too few units, for ends with determinants of
            opposite signs and products of full rank between theirs, and for ridge with a number of layers other than
            two.

    Example::

        model = mcjax.models.create("mlp", 3, (5,), widths=(4, 4), activation="linear", bias=False)
        metrics = evaluate_path(supervised(model, data), linear_network_path(model, theta_1, theta_2))
    """
    names = _check(model, theta_1, theta_2)
    first, second = ([on_host(theta)[name].T.astype(np.float64) for name in names] for theta in (theta_1, theta_2))
    if ridge and len(names) != 2:
        raise InputError(
            f"got {len(names)} layers with ridge, expected two: the proposition has no ridge for deeper networks."
        )
    # With fewer inputs than outputs, solve the transposed problem: transposed matrices in reverse order.
    transposed = len(second[-1]) > second[0].shape[1]
    widths, m = [len(matrix) for matrix in first[:-1]], min(len(first[-1]), first[0].shape[1])
    if transposed:
        first, second = (_transposed(end) for end in (first, second))
    narrow = [f"{n} in hidden layer {i}" for i, n in enumerate(widths, 1) if n < m]
    if narrow:
        raise InputError(f"got widths {', '.join(narrow)}, expected at least min(inputs, outputs) = {m} everywhere.")
    dtype = on_host(theta_1)[names[0]].dtype
    # The numbers of a rougher dtype are taken as exact.
    precision = jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps
    resolution = 10 * max(max(matrix.shape) for matrix in first) * float(precision)
    phases = path_phases(first, second, resolution, ridge=ridge)
    return Bound(PhasedPath(tuple(names), transposed, str(dtype)), jax.tree.map(jnp.asarray, tuple(phases)))


@dataclass(frozen=True)
class PhasedPath:
    """A path of phases s -> matrices, one after another, each over an equal part of t.

    Attributes:
        names: The names of the kernels from the first on.
        transposed: Whether phases return transposed matrices in reverse order.
        dtype: The dtype of the networks.
    """

    names: tuple[str, ...]
    transposed: bool
    dtype: str

    def __call__(self, phases: tuple, t: Any) -> trees.Tree:
        """The network at t."""
        check_t(t)
        t = jnp.asarray(t, jnp.result_type(float))
        now = jnp.minimum(jnp.floor(t * len(phases)), len(phases) - 1).astype(int)
        each = [phase(jnp.clip(t * len(phases) - i, 0, 1)) for i, phase in enumerate(phases)]
        matrices = [jnp.stack(choices)[now] for choices in zip(*each, strict=True)]
        # Kernels are (inputs, outputs), the transposes of the papers' matrices.
        kernels = matrices[::-1] if self.transposed else [matrix.T for matrix in matrices]
        kernels = [kernel.astype(jax.dtypes.canonicalize_dtype(self.dtype)) for kernel in kernels]
        return trees.nest(dict(zip(self.names, kernels, strict=True)))


def _transposed(matrices: Matrices) -> Matrices:
    return [matrix.T for matrix in reversed(matrices)]


def _check(model: Model, theta_1: trees.Tree, theta_2: trees.Tree) -> list[str]:
    """The names of the kernels from the first on. Raises InputError unless the network is linear without biases."""
    for name, theta in (("theta_1", theta_1), ("theta_2", theta_2)):
        check_network(model, theta, name)
    names = [layer.kernel for layer in chain_of(model).layers]
    more = sorted(set(model.spec.axes) - set(names))
    shapes = trees.shapes(theta_1)
    if more or any(len(shapes[name]) != 2 for name in names):
        raise InputError(
            f"{model.name} has {', '.join(more) or 'convolutions'}: expected weight matrices alone (bias=False)."
        )

    def product(leaves: Leaves, x: np.ndarray) -> np.ndarray:
        for name in names:
            x = x @ leaves[name]
        return x

    if not computes(model, product):
        raise InputError(f'{model.name} is not linear: expected activation="linear" and a linear output.')
    return names
