"""Paths between deep linear networks along which the loss never exceeds the higher end."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import chain, check_network, on_host
from mcjax.constructions.rotations import FullRank, Rotation, full_rank, orientation, polar, rotation
from mcjax.curves.curve import check_t
from mcjax.errors import InputError
from mcjax.models.base import Model

Matrices = list[np.ndarray]
"""W_1 to W_K, float64 (n_k, n_{k-1}): what the network computes is W_K ... W_1 x."""

Partial = jax.tree_util.Partial


def linear_network_path(
    model: Model, theta_1: trees.Tree, theta_2: trees.Tree, *, ridge: bool = False
) -> jax.tree_util.Partial:
    """The path t -> theta between any two settings of a deep linear network along which no loss exceeds its ends.

    Its product W_K ... W_1 goes straight from that of theta_1 to that of theta_2, or rests; so for every loss that
    is convex in the outputs, the loss is convex along t but for pauses, at most the higher end, and strictly
    decreasing if theta_2 is a global minimum and theta_1 is not (after a pause, if a product W_K ... W_k, k > 1, of
    theta_1 is of deficient rank). It starts and ends at the networks exactly. With m = min(n_0, n_K), hidden widths
    have to be at least m. Where one is m, the determinant of the layers above it (below, if n_0 < n_K) has to have the
    sign that it has at the other end, unless the product of an end is of rank below m: else every path passes a
    product of rank below m, whatever its loss, and the proposition does not hold.

    ridge: the same for two layers and loss + kappa (||W_1||^2 + ||W_2||^2), whatever kappa > 0: the norms are
    balanced first, and the factors of the straight line are those of least norm, twice its nuclear norm.

    Raises InputError for a network that is not linear, has biases or too few units, for ends that differ in a sign,
    and for ridge with another number of layers than two.
    Source: Freeman and Bruna 2017, Proposition 2.2 and appendix B.2, whose path, drawn at random, neither begins nor
    ends at the networks, nor passes ends of deficient rank: here both are mended by moves that keep the product,
    and matrices turn rather than mix, which needs no random draw to stay of full rank.

        model = mcjax.models.create("mlp", 3, (5,), widths=(4, 4), activation="linear", bias=False)
        metrics = evaluate_path(model, linear_network_path(model, theta_1, theta_2), data)
    """
    names = _check(model, theta_1, theta_2)
    first, second = ([on_host(theta)[name].T.astype(np.float64) for name in names] for theta in (theta_1, theta_2))
    if ridge and len(names) != 2:
        raise InputError(f"got {len(names)} layers with ridge, expected two: of deeper networks it is not known.")
    # Of fewer inputs than outputs, the network of transposed matrices in reverse order.
    flipped = len(second[-1]) > second[0].shape[1]
    widths, m = [len(matrix) for matrix in first[:-1]], min(len(first[-1]), first[0].shape[1])
    if flipped:
        first, second = ([matrix.T for matrix in reversed(end)] for end in (first, second))
    narrow = [f"{n} in hidden layer {i}" for i, n in enumerate(widths, 1) if n < m]
    if narrow:
        raise InputError(f"got widths {', '.join(narrow)}, expected at least min(inputs, outputs) = {m} everywhere.")
    precision = np.finfo(on_host(theta_1)[names[0]].dtype).eps
    resolution = 10 * max(max(matrix.shape) for matrix in first) * float(precision)
    phases = (_ridge_phases if ridge else _phases)(first, second, resolution)
    return Partial(InTurn(tuple(names), flipped), jax.tree.map(jnp.asarray, tuple(phases)))


@dataclass(frozen=True)
class InTurn:
    """Phases, s -> matrices, one after the other, each for an equal part of t; `names` are those of the kernels."""

    names: tuple[str, ...]
    flipped: bool

    def __call__(self, phases: tuple, t: Any) -> trees.Tree:
        """The network at t."""
        check_t(t)
        t = jnp.asarray(t, jnp.result_type(float))
        now = jnp.minimum(jnp.floor(t * len(phases)), len(phases) - 1).astype(int)
        each = [phase(jnp.clip(t * len(phases) - i, 0, 1)) for i, phase in enumerate(phases)]
        matrices = [jnp.stack(choices)[now] for choices in zip(*each, strict=True)]
        kernels = matrices[::-1] if self.flipped else [matrix.T for matrix in matrices]
        return trees.nest(dict(zip(self.names, kernels, strict=True)))


def _check(model: Model, theta_1: trees.Tree, theta_2: trees.Tree) -> list[str]:
    """The names of the kernels from the first. Raises InputError for what is no linear network without biases."""
    for name, theta in (("theta_1", theta_1), ("theta_2", theta_2)):
        check_network(model, theta, name)
    names = [layer.kernel for layer in chain(model).layers]
    more = sorted(set(model.spec.axes) - set(names))
    shapes = trees.shapes(theta_1)
    if more or any(len(shapes[name]) != 2 for name in names):
        raise InputError(
            f"{model.name} has {', '.join(more) or 'convolutions'}: expected weight matrices alone (bias=False)."
        )
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(size=(4, *model.input_shape))
        leaves = {name: rng.normal(size=shapes[name]) for name in names}
        product = x.reshape(4, -1)
        for name in names:
            product = product @ leaves[name]
        outputs = np.asarray(model.apply(trees.nest(leaves), jnp.asarray(x)))
        if not np.allclose(outputs, product, rtol=0, atol=1e-6 * np.abs(product).max()):
            raise InputError(f'{model.name} is not linear: expected activation="linear" and a linear output.')
    return names


def _above(matrices: Matrices) -> Matrices:
    """The products U_k = W_K ... W_k for k = 1 to K, float64 (m, n_{k-1})."""
    products = [matrices[-1]]
    for matrix in matrices[-2::-1]:
        products.append(products[-1] @ matrix)
    return products[::-1]


class Mended(NamedTuple):
    """An end's way to a network whose U_2, ..., U_K are of full rank and W_k = U_{k+1}^+ U_k, the product kept.

    knots: matrices to be joined by straight lines, from the end on. above: U_1 to U_K of the last.
    """

    knots: list[Matrices]
    above: Matrices


def _mended(matrices: Matrices, resolution: float, signs: dict[int, int]) -> Mended:
    """The way from an end: projections, a lift for every product of deficient rank, and its sign where it is free.

    signs: what the determinants of square products U_k have to have, by k counted from 0.
    """
    above, depth = _above(matrices), len(matrices)
    m = len(matrices[-1])
    inverses = [np.linalg.pinv(product, rcond=resolution) for product in above]
    here = [inverses[k + 1] @ above[k] for k in range(depth - 1)] + [matrices[-1]]
    knots = [matrices, here]
    for k in reversed(range(1, depth)):
        u, values, v = np.linalg.svd(above[k])
        rank = _rank(values, resolution)
        if rank < m:
            # What is added reads what no layer below makes, and makes what the layers above make nothing of yet.
            lift = (values[0] if rank else 1.0) * u[:, rank:] @ v[rank:m]
            inverse = np.linalg.pinv(above[k + 1], rcond=resolution) if k + 1 < depth else np.eye(m)
            here = _replaced(here, k, here[k] + inverse @ lift)
            above[k] = above[k] + lift
            knots.append(here)
    for k in reversed(range(1, depth)):
        if signs.get(k, 0) * orientation(above[k]) < 0:
            # A direction that no input reaches is mirrored.
            mirrored = np.linalg.svd(np.linalg.multi_dot([*here[k - 1 :: -1], np.eye(here[0].shape[1])]))[0][:, -1]
            here = _replaced(here, k, here[k] - 2 * np.outer(here[k] @ mirrored, mirrored))
            above = [*_above(here)[: k + 1], *above[k + 1 :]]
            knots.append(here)
    return Mended(knots, above)


def _rank(values: np.ndarray, resolution: float) -> int:
    """Of a matrix with these singular values."""
    return int((values > resolution * max(values.max(initial=0), 1e-300)).sum())


def _replaced(matrices: Matrices, k: int, matrix: np.ndarray) -> Matrices:
    return [*matrices[:k], matrix, *matrices[k + 1 :]]


def _signs(first: Matrices, second: Matrices, resolution: float) -> dict[int, int]:
    """The signs of the determinants of square products U_k, k > 0 counted from 0, that both ends can have.

    An end whose whole product is of deficient rank can have any. Raises InputError if the ends differ.
    """
    ends = [_above(end) for end in (first, second)]
    bound = [end for end in ends if _rank(np.linalg.svd(end[0], compute_uv=False), resolution) == len(end[0])]
    signs = {}
    for k in range(1, len(first)):
        if ends[0][k].shape[0] < ends[0][k].shape[1]:
            continue
        found = [orientation(end[k]) for end in bound]
        if len(set(found)) > 1:
            raise InputError(
                f"the ends lie on two sides of the networks of lower rank: with a hidden layer of {len(first[-1])} "
                "units, no more than min(inputs, outputs), the determinants of the layers beyond it have opposite "
                "signs, and every path passes a product of lower rank. Expected one unit more, or ends of one sign: "
                "exchanging two units of that layer in one end changes it."
            )
        signs[k] = found[0] if found else 1
    return signs


def _phases(first: Matrices, second: Matrices, resolution: float) -> list[jax.tree_util.Partial]:
    signs = _signs(first, second, resolution)
    ends = [_mended(end, resolution, signs) for end in (first, second)]
    products = [end.above[0] for end in ends]
    # Where nothing but a projection is needed, the product moves with it, and the loss does not pause: a third of the
    # way, or as far as W_1 can without becoming larger than it is at both ends.
    largest = max(float(np.linalg.norm(end[0], 2)) for end in (first, second))
    whole = products[1] - products[0]
    moved = [
        min(1 / 3, largest / max(float(np.linalg.norm(np.linalg.pinv(end.above[1]) @ whole, 2)), 1e-300))
        if len(end.knots) == 2
        else 0.0
        for end in ends
    ]
    start, stop = products[0] + moved[0] * whole, products[1] - moved[1] * whole
    for end, product in zip(ends, (start, stop), strict=True):
        if len(end.knots) == 2:
            end.knots[-1] = _replaced(end.knots[-1], 0, np.linalg.pinv(end.above[1]) @ product)
    before, after = (
        [Partial(_straight, a, b) for a, b in zip(end.knots[:-1], end.knots[1:], strict=True)] for end in ends
    )
    turning = tuple(full_rank(a, b) for a, b in zip(*(end.above[1:] for end in ends), strict=True))
    return [*before, Partial(_turning, turning, start, stop), *(Partial(_back, phase) for phase in reversed(after))]


def _straight(start: Any, end: Any, s: Any) -> list[jax.Array]:
    return [(1 - s) * a + s * b for a, b in zip(start, end, strict=True)]


def _back(phase: Any, s: Any) -> list[jax.Array]:
    return phase(1 - s)


def _turning(above: tuple[FullRank, ...], start: Any, end: Any, s: Any) -> list[jax.Array]:
    """W_k = U_{k+1}^+ U_k, the product U_1 on a straight line, the others turning."""
    products = [(1 - s) * start + s * end, *(path(s) for path in above)]
    return [*(path.solve(s, product) for path, product in zip(above, products[:-1], strict=True)), products[-1]]


def _ridge_phases(first: Matrices, second: Matrices, resolution: float) -> list[jax.tree_util.Partial]:
    signs = _signs(first, second, resolution)
    before, frames, products = [], [], []
    for W_1, W_2 in (first, second):
        product = W_2 @ W_1
        inner = np.linalg.pinv(W_2, rcond=resolution) @ product
        outer = product @ np.linalg.pinv(inner, rcond=resolution)
        balance, frame = _balanced(inner, outer, resolution, signs.get(1, 0))
        before.append(
            [Partial(_straight, [W_1, W_2], [inner, W_2]), Partial(_straight, [inner, W_2], [inner, outer]), balance]
        )
        frames.append(frame)
        products.append(product)
    middle = Partial(_least_norm, rotation(*frames), *products)
    return [*before[0], middle, *(Partial(_back, phase) for phase in reversed(before[1]))]


def _balanced(
    W_1: np.ndarray, W_2: np.ndarray, resolution: float, sign: int
) -> tuple[jax.tree_util.Partial, np.ndarray]:
    """The phase from factors, rows of W_2 and columns of W_1 of one span, to those of least norm, and their frame.

    The frame F (m, n) is such that W_2 = (W W')^(1/4) F at the end. `sign`: its orientation, if the rank leaves it
    free. Along W_2 S^(-s/2), S^(s/2) W_1 the norm is convex in s, and least at s = 1: S is the geometric mean of
    W_2' W_2 and the inverse of W_1 W_1'.
    """
    u, values, _ = np.linalg.svd(W_2 @ W_1)
    rank = _rank(values, resolution)
    m, n = W_2.shape
    span = np.linalg.svd(W_2)[2][:rank].T
    left, right = W_2 @ span, span.T @ W_1
    root, inverse_root = _powers(right @ right.T, 0.5), _powers(right @ right.T, -0.5)
    mean = inverse_root @ _powers(root @ (left.T @ left) @ root, 0.5) @ inverse_root
    scales, axes = np.linalg.eigh(mean)
    reached = left @ (axes / np.sqrt(scales)) @ axes.T @ span.T
    frame = np.concatenate([(reached.T @ u[:, :rank] / np.sqrt(values[:rank])).T, np.zeros((m - rank, n))])
    if rank < m:
        frame[rank:] = np.linalg.svd(frame[:rank])[2][rank:m] if rank else np.eye(m, n)
        if sign and orientation(u @ frame) != sign:
            frame[-1] *= -1
    return Partial(_balancing, left, right, span, scales, axes), polar(u @ frame)[0]


def _powers(matrix: np.ndarray, power: float) -> np.ndarray:
    values, axes = np.linalg.eigh(matrix)
    return (axes * values**power) @ axes.T


def _balancing(left: Any, right: Any, span: Any, scales: Any, axes: Any, s: Any) -> list[jax.Array]:
    factor, inverse = ((axes * (scales**power)[None]) @ axes.T for power in (s / 2, -s / 2))
    return [span @ factor @ right, left @ inverse @ span.T]


def _least_norm(turning: Rotation, start: Any, end: Any, s: Any) -> list[jax.Array]:
    """The factors of least norm of a product on a straight line, in a turning frame."""
    u, values, v = jnp.linalg.svd((1 - s) * start + s * end, full_matrices=False)
    frame, roots = turning(s), u * jnp.sqrt(values)[None]
    return [frame.T @ roots @ v, roots @ u.T @ frame]
