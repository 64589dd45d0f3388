"""The path between two wide networks of one hidden ReLU layer, through a network of few units (Theorem 2.4)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, Leaves, chain_of, check_network, computes, on_host
from mcjax.constructions.moves import ChainPathBuilder, Construction
from mcjax.constructions.sparse import (
    SparseNetwork,
    SparseProblem,
    eliminate_units,
    energy,
    fit_units,
    lasso,
    relu_features,
    rotate_units,
    traced_energy,
)
from mcjax.constructions.unit_edits import assign_places, unread_units
from mcjax.curves.polyline import Polyline
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model
from mcjax.shown import short_repr
from mcjax.training.supervised import SupervisedLoss
from mcjax.training.task import Task, check_task


@short_repr
class WidePath(NamedTuple):
    """The six-part path of Theorem 2.4. Energies are mean |y - f(x)|^2 + kappa ||W_2||_1 on the training examples.

    Attributes:
        construction: The path.
        parts: The part of the path, 1 to 6, that each move belongs to.
        ends: The energies of both ends; lambda of the theorem is the higher one.
        units: The number l of units of the narrow network.
        angle: The largest angle alpha by which units rotate, in radians.
        e: The energy of the narrow network, an upper bound of e(l).
        delta: delta_W(m, 0; m) of both ends.
        delta_few: Upper bounds of delta_W(m - l, alpha; m) of both ends.
        height: The highest energy on the path.
        epsilon: The epsilon of the theorem, the least of all l and alpha that were tried.
    """

    construction: Construction
    parts: tuple[int, ...]
    ends: tuple[float, float]
    units: int
    angle: float
    e: float
    delta: tuple[float, float]
    delta_few: tuple[float, float]
    height: float
    epsilon: float

    @property
    def bound(self) -> float:
        """max(lambda, epsilon), which the height does not exceed."""
        return max(*self.ends, self.epsilon)

    @property
    def gap(self) -> float:
        """The highest energy on the path minus that of the higher end, at least 0."""
        return max(0.0, self.height - max(self.ends))


def wide_path(
    key: jax.Array,
    task: Task,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    *,
    kappa: float,
    units: Sequence[int] | None = None,
    angles: Sequence[float] = (0.0, 0.1, 0.3),
    points: int = 65,
) -> WidePath:
    """The lowest six-part path between two networks of one hidden ReLU layer and one output, over l and alpha.

    From each end the path leads to the output weights of the lasso (parts 1 and 6), to m - l units rotated by at most
    alpha (parts 2 and 5), and to a network of l units, written into the remaining units (parts 3 and 4). Except in
    parts 2 and 5, the energy on each segment is at most the higher energy of its ends. The path of least height is as
    low as the theorem says: its height is at most `bound`.
    Source: Freeman and Bruna 2017, Theorem 2.4. Between parts 3 and 4 the l units go to places that both ends leave
    free, a step that the proof omits.

    Args:
        key: Key of the start vectors of the narrow networks.
        task: A regression made by `supervised`, of a model of m hidden ReLU units without biases, with one output.
        theta_1: The network at t = 0, with rows of W_1 of norm at most 1: see `unit_rows`.
        theta_2: The network at t = 1, likewise.
        kappa: The weight of the penalty ||W_2||_1.
        units: The values of l to try (None: 1, 2, 4, ... up to m / 2).
        angles: The values of alpha to try, in radians.
        points: The number of points of each segment at which the energy is measured.

    Returns:
        The path of least height.

    Raises:
        InputError: For longer rows, another task, and a model that is not one hidden ReLU layer without biases and one
            output.
    """
    model = check_task(task, model=True).model
    assert model is not None
    trees.check_keys(key, 0)
    chain = _check_model(model)
    problem = sparse_problem(task, kappa)
    both = [_check_rows(model, chain, theta) for theta in (theta_1, theta_2)]
    m = chain.sizes[0]
    units = units if units is not None else [2**i for i in range(m.bit_length()) if 2**i <= m // 2]
    if not _within(units, 1, m // 2, "iu"):
        raise InputError(f"got units={units}, expected numbers from 1 to half of the {m} hidden units: (1, 2).")
    if not _within(angles, 0, np.pi / 2, "iuf"):
        raise InputError(f"got angles={angles}, expected some, in radians, in [0, pi / 2]: (0.0, 0.1).")
    check_whole("points", points, 2)
    # delta_W(m, 0; m) of both ends.
    fitted = [lasso(problem, _matrices(chain, leaves)[0]) for leaves in both]
    paths = []
    for count in units:
        # e(l), and delta_W(m - l, 0; m) of both ends.
        narrow = fit_units(jax.random.fold_in(key, count), problem, count)
        fewer = [eliminate_units(problem, each, m - count) for each in fitted]
        for angle in angles:
            # delta_W(m - l, alpha; m) of both ends.
            rotated = [rotate_units(problem, each, angle) for each in fewer]
            ends = [_End(*end) for end in zip(both, fitted, rotated, strict=True)]
            paths.append(_path(chain, problem, ends, theta_1, narrow, angle, points))
    return min(paths, key=lambda path: path.height)._replace(epsilon=min(path.epsilon for path in paths))


def _within(values: Any, least: float, most: float, kinds: str) -> bool:
    """Whether `values` is a sequence of at least one number of these dtype kinds, all within the bounds."""
    array = np.asarray(values)
    numbers = array.ndim == 1 and array.size > 0 and array.dtype.kind in kinds
    return numbers and bool(((least <= array) & (array <= most)).all())


def sparse_problem(task: Task, kappa: float) -> SparseProblem:
    """The training examples of a regression with one output, normalized. Raises InputError for other tasks."""
    training = check_task(task).loss
    if not (isinstance(training, SupervisedLoss) and training.built_in):
        raise InputError(
            f"got the loss of {task.name}, expected the squared error of a regression: supervised(model, data)."
        )
    labels = np.asarray(task.train[1])
    if labels.dtype.kind != "f" or labels.shape[1:] != (1,):
        raise InputError(
            f"{task.name} has labels {labels.dtype} {labels.shape}, expected a regression with one output."
        )
    if not (isinstance(kappa, int | float) and 0 < kappa < np.inf):
        raise InputError(f"got kappa={kappa!r}, expected a positive number.")
    x = np.asarray(task.model_inputs(task.train), np.float64)
    return SparseProblem(x.reshape(len(x), -1), labels[:, 0].astype(np.float64), kappa)


def unit_rows(model: Model, theta: trees.Tree) -> trees.Tree:
    """Scale the rows of W_1 to norm 1, and W_2 inversely: the same function. Zero rows stay."""
    chain = _check_model(model)
    check_network(model, theta)
    leaves = on_host(theta)
    first, second = (layer.kernel for layer in chain.layers)
    norms = np.linalg.norm(leaves[first], axis=0)
    norms[norms == 0] = 1
    scaled = {**leaves, first: leaves[first] / norms, second: leaves[second] * norms[:, None]}
    return trees.map_with_name(lambda name, _: scaled[name], theta)


def _check_model(model: Model) -> Chain:
    """The chain of one hidden ReLU layer without biases and one output. Raises InputError for another model."""
    chain = chain_of(model)
    kernels = [layer.kernel for layer in chain.layers]
    more = sorted(set(model.spec.axes) - set(kernels))
    if len(kernels) != 2 or more or model.num_classes != 1:
        others = f", and {', '.join(more)}" if more else ""
        raise InputError(
            f"{model.name} has {len(kernels)} weight matrices{others} and {model.num_classes} outputs, expected one "
            "hidden layer without biases and one output: mlp with widths=(m,), bias=False."
        )
    first, second = kernels
    if not computes(model, lambda leaves, x: relu_features(x, leaves[first].T) @ leaves[second]):
        raise InputError(f"{model.name} has another activation, expected relu: the theorem needs it.")
    return chain


def _check_rows(model: Model, chain: Chain, theta: trees.Tree) -> Leaves:
    """The variables of an end. Raises InputError if rows of W_1 have norms above 1."""
    check_network(model, theta)
    leaves = on_host(theta)
    longest = float(np.linalg.norm(leaves[chain.layers[0].kernel], axis=0).max())
    if longest > 1 + 1e-5:
        raise InputError(f"got rows of W_1 of norms up to {longest:.4g}, expected at most 1: unit_rows scales them.")
    return leaves


def _matrices(chain: Chain, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
    """W_1 (units, inputs) and W_2 (units,), float64."""
    first, second = (leaves[layer.kernel].astype(np.float64) for layer in chain.layers)
    return first.T, second[:, 0]


def _leaves(chain: Chain, like: Leaves, network: SparseNetwork) -> Leaves:
    """The variables of a sparse network, in the precision of `like`."""
    first, second = (layer.kernel for layer in chain.layers)
    weights = network.weights[:, None].astype(like[second].dtype)
    return {first: network.units.T.astype(like[first].dtype), second: weights}


class _End(NamedTuple):
    """An end of the path, and its two next networks.

    Attributes:
        leaves: The variables of the end, by name.
        fitted: The end with the output weights of the lasso.
        few: The end with m - l rotated units.
    """

    leaves: Leaves
    fitted: SparseNetwork
    few: SparseNetwork


def _path(
    chain: Chain,
    problem: SparseProblem,
    ends: list[_End],
    theta: trees.Tree,
    narrow: SparseNetwork,
    angle: float,
    points: int,
) -> WidePath:
    """The six-part path through one narrow network (appendix B.4)."""
    # Parts 1 and 2, and 6 and 5 in reverse.
    count = len(narrow.weights)
    builder, back = (_to_few_units(chain, end, count, angle) for end in ends)
    parts = [1, 2]
    free = unread_units(chain, back.last)
    # Part 3: write the narrow network into units without an output weight, if possible at both ends.
    places = builder.write_narrow(_leaves(chain, builder.last, narrow), {chain.groups[0]: count}, preferred=free)
    parts += [3] * (len(builder.moves) - len(parts))
    # Part 4: move its units to places that are free at the other end, then switch to that end's m - l units.
    builder.permute_units(places, assign_places(places, free))
    builder.switch_network(back.last)
    parts += [4] * (len(builder.moves) - len(parts)) + [5, 6]
    builder.append_reversed(back)
    first, second = ends
    return WidePath(
        construction=builder.build(theta),
        parts=tuple(parts),
        ends=(energy(problem, *_matrices(chain, first.leaves)), energy(problem, *_matrices(chain, second.leaves))),
        units=count,
        angle=angle,
        e=narrow.energy,
        delta=(first.fitted.energy, second.fitted.energy),
        delta_few=(first.few.energy, second.few.energy),
        height=_height(chain, problem, builder, points),
        epsilon=max(narrow.energy, *(_highest_of_rotation(problem, end, angle) for end in ends)),
    )


def _highest_of_rotation(problem: SparseProblem, end: _End, angle: float) -> float:
    """An upper bound of the energy on part 1 or 2, with C_1 alpha + O(alpha^2) of the theorem made explicit.

    On part 2, units w move to w' and output weights b to b'. In eq. 21, z(w) and z(w') differ from the z in between by
    at most t |w - w'| and (1 - t) |w - w'| times the root of the norm of the covariance. So the outputs differ by at
    most 2 t (1 - t) sin(alpha / 2) (||b||_1 + ||b'||_1) times that root from those of the augmented linear path, whose
    energy is at most that of its ends.
    """
    spread = np.sqrt(np.linalg.norm(problem.x.T @ problem.x / len(problem.x), 2))
    weights = np.abs(end.fitted.weights).sum() + np.abs(end.few.weights).sum()
    return float((max(end.fitted.energy, end.few.energy) ** 0.5 + np.sin(angle / 2) / 2 * spread * weights) ** 2)


def _to_few_units(chain: Chain, end: _End, count: int, angle: float) -> ChainPathBuilder:
    """Parts 1 and 2, or 6 and 5 reversed: from an end to all but `count` of its units."""
    builder = ChainPathBuilder(chain, end.leaves)
    builder.move("a", "the output weights become the lasso's", _leaves(chain, end.leaves, end.fitted))
    purpose = f"{chain.sizes[0] - count} units are enough" + (f", rotated by up to {angle:.3g}" if angle else "")
    builder.move("line" if angle else "a", purpose, _leaves(chain, end.leaves, end.few))
    return builder


def _height(chain: Chain, problem: SparseProblem, builder: ChainPathBuilder, points: int) -> float:
    """The highest energy at `points` of each segment, in float64."""
    matrices = [_matrices(chain, knot) for knot in builder.knots]
    with jax.enable_x64(True):
        return float(_highest(points, problem, Polyline(trees.stack_on_host(matrices))))


@partial(jax.jit, static_argnums=0)
def _highest(points: int, problem: SparseProblem, polyline: Polyline) -> jax.Array:
    return polyline.heights(lambda knot: traced_energy(*problem, *knot), points).max()
