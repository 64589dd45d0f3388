"""The phases of a path between deep linear networks (Freeman and Bruna 2017, appendix B.2).

A network is given by its matrices W_1 to W_K, with at least as many inputs as outputs m. U_k = W_K ... W_k are its
products from the top, so U_1 is the linear map that it computes. A phase is a function of s in [0, 1] that returns all
matrices. The first phases give the products of one end full rank, the middle phase moves U_1 on a straight line, and
the last ones are the first phases of the other end in reverse.

Where U_1 has full rank, no determinant of a square U_k, k > 1, can change its sign. Ends of opposite signs are joined
by way of a U_1 of lower rank on the straight line, if there is one. If there is none they cannot be joined: U_1 would
have to leave the line, and the distance from it is a convex loss that is zero at both ends.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.constructions.rotations import FullRankPath, Rotation, full_rank_path, orientation, polar, rotation
from mcjax.errors import InputError

Matrices = list[np.ndarray]
"""W_1 to W_K, float64 (n_k, n_{k-1}): the network computes W_K ... W_1 x."""

Partial = jax.tree_util.Partial


def path_phases(first: Matrices, second: Matrices, resolution: float, *, ridge: bool) -> list[jax.tree_util.Partial]:
    """The phases of a path whose product is on a straight line, for two layers also with ridge.

    Args:
        first: The matrices at the start.
        second: The matrices at the end.
        resolution: Singular values below this share of the largest count as zero.
        ridge: Whether the loss with ridge does not exceed its ends either.

    Returns:
        The phases in order.

    Raises:
        InputError: If determinants have opposite signs, and every product on the straight line has full rank.
    """
    knots, make = [first, second], _ridge_phases if ridge else _straight_phases
    if _determinant_signs(first, second, resolution) is None:
        knots.insert(1, _of_lower_rank(first, second, resolution))
    return [
        phase
        for a, b in pairwise(knots)
        for phase in make(a, b, resolution, _determinant_signs(a, b, resolution) or {})
    ]


def _straight_phases(
    first: Matrices, second: Matrices, resolution: float, signs: dict[int, int]
) -> list[jax.tree_util.Partial]:
    """The phases for any number of layers, without ridge; `signs` as of `_determinant_signs`."""
    # Full rank at both ends: U_2, ..., U_K of full rank, and W_k = U_{k+1}^+ U_k.
    ends = [_with_full_rank(end, resolution, signs) for end in (first, second)]
    products = [end.products[0] for end in ends]
    # If an end needs no more than the projection, its product moves meanwhile, so that the loss does not pause: by a
    # third of the whole difference, or as far as the norm of W_1 does not exceed its larger value at the ends.
    largest = max(float(np.linalg.norm(end[0], 2)) for end in (first, second))
    whole = products[1] - products[0]
    shares = [
        min(1 / 3, largest / max(float(np.linalg.norm(np.linalg.pinv(end.products[1]) @ whole, 2)), 1e-300))
        if len(end.knots) == 2
        else 0.0
        for end in ends
    ]
    start, stop = products[0] + shares[0] * whole, products[1] - shares[1] * whole
    for end, product in zip(ends, (start, stop), strict=True):
        if len(end.knots) == 2:
            end.knots[-1] = _replace(end.knots[-1], 0, np.linalg.pinv(end.products[1]) @ product)
    # The case kappa = 0 of appendix B.2: U_1 on a straight line, U_2, ..., U_K on paths of full rank.
    before, after = ([Partial(_line, a, b) for a, b in zip(end.knots[:-1], end.knots[1:], strict=True)] for end in ends)
    rotating = tuple(full_rank_path(a, b) for a, b in zip(*(end.products[1:] for end in ends), strict=True))
    middle = Partial(_straight_product, rotating, start, stop)
    return [*before, middle, *(Partial(_reverse, phase) for phase in reversed(after))]


def _ridge_phases(
    first: Matrices, second: Matrices, resolution: float, signs: dict[int, int]
) -> list[jax.tree_util.Partial]:
    """The phases for two layers, along which the loss with ridge does not exceed its ends."""
    before, frames, products = [], [], []
    for W_1, W_2 in (first, second):
        product = W_2 @ W_1
        # Project W_1, then W_2, onto the span of the other: the product stays, and the norms decrease.
        inner = np.linalg.pinv(W_2, rcond=resolution) @ product
        outer = product @ np.linalg.pinv(inner, rcond=resolution)
        # Appendix B.2, kappa > 0: from these factors to those of least norm of the product.
        balance, frame = _balance(inner, outer, resolution, signs.get(1, 0))
        before.append([Partial(_line, [W_1, W_2], [inner, W_2]), Partial(_line, [inner, W_2], [inner, outer]), balance])
        frames.append(frame)
        products.append(product)
    # Factors of least norm along the straight line of products, as in eq. 12.
    middle = Partial(_least_norm, rotation(*frames), *products)
    return [*before[0], middle, *(Partial(_reverse, phase) for phase in reversed(before[1]))]


def _products(matrices: Matrices) -> Matrices:
    """U_k = W_K ... W_k for k = 1 to K, float64 (m, n_{k-1})."""
    products = [matrices[-1]]
    for matrix in matrices[-2::-1]:
        products.append(products[-1] @ matrix)
    return products[::-1]


def _determinant_signs(first: Matrices, second: Matrices, resolution: float) -> dict[int, int] | None:
    """The signs of the determinants of square products U_k, k > 0 counted from 0, that both ends can have.

    An end whose whole product has deficient rank can have any sign. None if the ends have opposite signs.
    """
    ends = [_products(end) for end in (first, second)]
    fixed = [end for end in ends if _rank(np.linalg.svd(end[0], compute_uv=False), resolution) == len(end[0])]
    signs = {}
    for k in range(1, len(first)):
        if ends[0][k].shape[0] < ends[0][k].shape[1]:
            continue
        found = [orientation(end[k]) for end in fixed]
        if len(set(found)) > 1:
            return None
        signs[k] = found[0] if found else 1
    return signs


def _of_lower_rank(first: Matrices, second: Matrices, resolution: float) -> Matrices:
    """Factors of a product of lower rank on the straight line, of least norm if they are two.

    Raises InputError if all products on it have full rank.
    """
    # It takes a sixth of the time that the import of mcjax takes.
    import scipy.linalg

    start, whole = _products(first)[0], _products(second)[0] - _products(first)[0]
    # Where the rank of start + s whole drops, s is an eigenvalue of this pencil, and of any m columns mixed from it.
    m, n = start.shape
    mixed = np.random.default_rng(0).normal(size=(n, m)) if n > m else np.eye(m)
    shares = scipy.linalg.eigvals(start @ mixed, -whole @ mixed).real
    zero = resolution * max(np.linalg.norm(start, 2), np.linalg.norm(start + whole, 2))
    for s in shares[(shares >= 0) & (shares <= 1)]:
        u, values, v = np.linalg.svd(start + s * whole, full_matrices=False)
        if values[-1] <= zero:
            root = np.diag(np.where(values <= zero, 0, values) ** (1 / len(first)))
            frames = [v, *(np.eye(m, len(matrix)) for matrix in first[:-1]), u.T]
            return [above.T @ root @ below for below, above in pairwise(frames)]
    raise InputError(
        "got ends with determinants of opposite signs, for the product of the layers beyond a hidden layer of "
        f"{m} units, as many as min(inputs, outputs). The products on the straight line between theirs have full rank, "
        "so that none can change its sign there. Expected one unit more, or one sign: exchanging two units of that "
        "layer in one end changes its sign."
    )


class FullRankEnd(NamedTuple):
    """A path at constant product from an end to a network with U_2, ..., U_K of full rank and W_k = U_{k+1}^+ U_k.

    Attributes:
        knots: The matrices to join by straight lines, from the end on.
        products: U_1 to U_K of the last knot.
    """

    knots: list[Matrices]
    products: Matrices


def _with_full_rank(matrices: Matrices, resolution: float, signs: dict[int, int]) -> FullRankEnd:
    """Project an end, complete each product of deficient rank, and correct the signs of determinants.

    `signs` holds the signs that the determinants of square products U_k need, by k counted from 0.
    """
    products, depth = _products(matrices), len(matrices)
    m = len(matrices[-1])
    # Projection: W_k = U_{k+1}^+ U_k drops the outputs of W_k that the layers above do not read.
    inverses = [np.linalg.pinv(product, rcond=resolution) for product in products]
    here = [inverses[k + 1] @ products[k] for k in range(depth - 1)] + [matrices[-1]]
    knots = [matrices, here]
    # Completion: add to W_k a part that reads directions that the layer below does not produce, and writes directions
    # that the layers above do not read yet. The whole product stays the same.
    for k in reversed(range(1, depth)):
        u, values, v = np.linalg.svd(products[k])
        rank = _rank(values, resolution)
        if rank < m:
            missing = (values[0] if rank else 1.0) * u[:, rank:] @ v[rank:m]
            inverse = np.linalg.pinv(products[k + 1], rcond=resolution) if k + 1 < depth else np.eye(m)
            here = _replace(here, k, here[k] + inverse @ missing)
            products[k] = products[k] + missing
            knots.append(here)
    # Signs: reflect W_k in a direction that no input reaches.
    for k in reversed(range(1, depth)):
        if signs.get(k, 0) * orientation(products[k]) < 0:
            unreached = np.linalg.svd(np.linalg.multi_dot([*here[k - 1 :: -1], np.eye(here[0].shape[1])]))[0][:, -1]
            here = _replace(here, k, here[k] - 2 * np.outer(here[k] @ unreached, unreached))
            products = [*_products(here)[: k + 1], *products[k + 1 :]]
            knots.append(here)
    return FullRankEnd(knots, products)


def _rank(values: np.ndarray, resolution: float) -> int:
    """The rank of a matrix with these singular values."""
    return int((values > resolution * max(values.max(initial=0), 1e-300)).sum())


def _replace(matrices: Matrices, k: int, matrix: np.ndarray) -> Matrices:
    return [*matrices[:k], matrix, *matrices[k + 1 :]]


def _line(start: Any, end: Any, s: Any) -> list[jax.Array]:
    return [(1 - s) * a + s * b for a, b in zip(start, end, strict=True)]


def _reverse(phase: Any, s: Any) -> list[jax.Array]:
    return phase(1 - s)


def _straight_product(above: tuple[FullRankPath, ...], start: Any, end: Any, s: Any) -> list[jax.Array]:
    """W_k = U_{k+1}^+ U_k, with U_1 on a straight line and U_2, ..., U_K on paths of full rank."""
    products = [(1 - s) * start + s * end, *(path(s) for path in above)]
    return [*(path.solve(s, product) for path, product in zip(above, products[:-1], strict=True)), products[-1]]


def _balance(
    W_1: np.ndarray, W_2: np.ndarray, resolution: float, sign: int
) -> tuple[jax.tree_util.Partial, np.ndarray]:
    """The phase from two factors to the factors of least norm of the same product, and the frame of the latter.

    The phase is W_2 S^(-s/2), S^(s/2) W_1, with S the geometric mean of W_2' W_2 and the inverse of W_1 W_1'. Its norm
    is convex in s and least at s = 1. There W_2 = (W W')^(1/4) F, with W = W_2 W_1 and F (m, n) the frame.

    Args:
        W_1: The first matrix; its columns span the same space as the rows of W_2.
        W_2: The second matrix.
        resolution: Singular values below this share of the largest count as zero.
        sign: The orientation of the frame where the rank leaves it free; 0 for any.

    Returns:
        The phase, and the frame F.
    """
    u, values, _ = np.linalg.svd(W_2 @ W_1)
    rank = _rank(values, resolution)
    m, n = W_2.shape
    # Restricted to the common span, both factors have full rank, and S is positive definite.
    span = np.linalg.svd(W_2)[2][:rank].T
    left, right = W_2 @ span, span.T @ W_1
    root, inverse_root = _power(right @ right.T, 0.5), _power(right @ right.T, -0.5)
    mean = inverse_root @ _power(root @ (left.T @ left) @ root, 0.5) @ inverse_root
    # W_2 at s = 1, W_2 S^(-1/2), and its frame.
    scales, axes = np.linalg.eigh(mean)
    reached = left @ (axes / np.sqrt(scales)) @ axes.T @ span.T
    # Beyond the rank the frame is free: complete it to orthonormal rows of the needed orientation.
    frame = np.concatenate([(reached.T @ u[:, :rank] / np.sqrt(values[:rank])).T, np.zeros((m - rank, n))])
    if rank < m:
        frame[rank:] = np.linalg.svd(frame[:rank])[2][rank:m] if rank else np.eye(m, n)
        if sign and orientation(u @ frame) != sign:
            frame[-1] *= -1
    return Partial(_balanced, left, right, span, scales, axes), polar(u @ frame)[0]


def _power(matrix: np.ndarray, power: float) -> np.ndarray:
    """A power of a positive definite matrix."""
    values, axes = np.linalg.eigh(matrix)
    return (axes * values**power) @ axes.T


def _balanced(left: Any, right: Any, span: Any, scales: Any, axes: Any, s: Any) -> list[jax.Array]:
    """S^(s/2) W_1 and W_2 S^(-s/2), by the eigenvectors of S in the common span."""
    factor, inverse = ((axes * (scales**power)[None]) @ axes.T for power in (s / 2, -s / 2))
    return [span @ factor @ right, left @ inverse @ span.T]


def _least_norm(rotating: Rotation, start: Any, end: Any, s: Any) -> list[jax.Array]:
    """The factors of least norm of a product on a straight line, with a rotating frame (appendix B.2)."""
    u, values, v = jnp.linalg.svd((1 - s) * start + s * end, full_matrices=False)
    frame, roots = rotating(s), u * jnp.sqrt(values)[None]
    return [frame.T @ roots @ v, roots @ u.T @ frame]
