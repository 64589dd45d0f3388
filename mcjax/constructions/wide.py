"""The path between two wide networks of one hidden ReLU layer, by way of a few units that do as well."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, Leaves, chain, check_network, on_host
from mcjax.constructions.exchanges import exchange, permute_units, places_for, preferring
from mcjax.constructions.moves import Construction, Walk, dead_units, switched, written
from mcjax.constructions.sparse import Problem, Sparse, best_weights, compressed, energy, features, oracle, turned
from mcjax.data import Dataset, normalize
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model
from mcjax.training.objective import check_model_and_data


class WidePath(NamedTuple):
    """The six-part path of Theorem 2.4, and its energies mean |y - f(x)|^2 + kappa ||W_2||_1 on the training data.

    parts: of every move, which of the six it is of (1 to 6). ends: lambda, the energies of both ends. units, angle:
    l and alpha. e: of the narrow network, e(l). delta: of both ends' first layers, delta_W(m, 0; m). delta_few:
    delta_W(m - l, alpha; m). height: the highest energy on the path, of which `gap` is what is above the ends.
    e and delta_few are the best that were found: upper bounds of the theorem's.
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

    @property
    def gap(self) -> float:
        """How far the path rises above the higher end, at least 0."""
        return max(0.0, self.height - max(self.ends))


def wide_path(
    key: jax.Array,
    model: Model,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    data: Dataset,
    *,
    kappa: float,
    units: Sequence[int] | None = None,
    angles: Sequence[float] = (0.0, 0.1, 0.3),
    points: int = 65,
) -> WidePath:
    """The lowest six-part path between two networks of one hidden ReLU layer and one output, over l and alpha.

    From each end to the lasso's output weights (1, 6), to m - l units turned by at most alpha (2, 5), and to a
    network of l units that both have room for (3, 4). All but 2 and 5 are of moves whose energy is at most that of
    their ends. units: the l to try (None: 1, 2, 4, ... up to half of the units). angles: the alpha to try, in
    radians. points: of every segment, at which the height is measured.

    Rows of W_1 are at most of norm 1: `unit_rows` makes them so. Raises InputError if they are longer, and for a
    model that is not one hidden ReLU layer without biases and one output. Source: Freeman and Bruna 2017,
    Theorem 2.4; between 3 and 4 the l units go to places that both ends leave free, which its proof passes over.
    """
    check_model_and_data(model, data)
    chained = _check(model)
    problem = problem_of(data, kappa)
    both = [_end(chained, theta, model) for theta in (theta_1, theta_2)]
    m = chained.sizes[0]
    units = units if units is not None else [2**i for i in range(m.bit_length()) if 2**i <= m // 2]
    if not _within(units, 1, m // 2, "iu"):
        raise InputError(f"got units={units}, expected numbers from 1 to half of the {m} hidden units: (1, 2).")
    if not _within(angles, 0, np.pi / 2, "iuf"):
        raise InputError(f"got angles={angles}, expected some, in radians, in [0, pi / 2]: (0.0, 0.1).")
    check_whole("points", points, 2)
    fitted = [best_weights(problem, _matrices(chained, leaves)[0]) for leaves in both]
    best: WidePath | None = None
    for count in units:
        narrow = oracle(jax.random.fold_in(key, count), problem, count)
        less = [compressed(problem, each, m - count) for each in fitted]
        for angle in angles:
            few = [turned(problem, each, angle) for each in less]
            ends = [End(*end) for end in zip(both, fitted, few, strict=True)]
            path = _path(chained, problem, ends, theta_1, narrow, angle, points)
            if best is None or path.height < best.height:
                best = path
    assert best is not None
    return best


def _within(values: Any, least: float, most: float, kinds: str) -> bool:
    """Whether these are numbers of these kinds in a row, at least one, all within bounds."""
    array = np.asarray(values)
    numbers = array.ndim == 1 and array.size > 0 and array.dtype.kind in kinds
    return numbers and bool(((least <= array) & (array <= most)).all())


def problem_of(data: Dataset, kappa: float) -> Problem:
    """The training data of a regression with one output, as the model sees them. Raises InputError for others."""
    labels = np.asarray(data.train_labels)
    if labels.dtype.kind != "f" or labels.shape[1:] != (1,):
        raise InputError(
            f"{data.name} has labels {labels.dtype} {labels.shape}, expected a regression with one output."
        )
    if not (isinstance(kappa, int | float) and 0 < kappa < np.inf):
        raise InputError(f"got kappa={kappa!r}, expected a positive number.")
    x = np.asarray(normalize(jnp.asarray(data.train_images), data.mean, data.std), np.float64)
    return Problem(x.reshape(len(x), -1), labels[:, 0].astype(np.float64), kappa)


def unit_rows(model: Model, theta: trees.Tree) -> trees.Tree:
    """The same function with rows of W_1 of norm 1, what they were scaled by gone into W_2; zero rows stay."""
    chained = _check(model)
    check_network(model, theta)
    leaves = on_host(theta)
    first, second = (layer.kernel for layer in chained.layers)
    norms = np.linalg.norm(leaves[first], axis=0)
    norms[norms == 0] = 1
    scaled = {**leaves, first: leaves[first] / norms, second: leaves[second] * norms[:, None]}
    return trees.map_with_name(lambda name, _: scaled[name], theta)


def _check(model: Model) -> Chain:
    chained = chain(model)
    kernels = [layer.kernel for layer in chained.layers]
    more = sorted(set(model.spec.axes) - set(kernels))
    if len(kernels) != 2 or more or model.num_classes != 1:
        said = f", and {', '.join(more)}" if more else ""
        raise InputError(
            f"{model.name} has {len(kernels)} weight matrices{said} and {model.num_classes} outputs, expected one "
            "hidden layer without biases and one output: mlp with widths=(m,), bias=False."
        )
    shapes = trees.shapes(jax.eval_shape(model.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=shapes[name]) for name in kernels)
    x = rng.normal(size=(8, *model.input_shape))
    with jax.enable_x64(True):
        outputs = model.apply(trees.nest(dict(zip(kernels, (first, second), strict=True))), jnp.asarray(x))
    expected = features(x.reshape(8, -1), first.T) @ second
    if not np.allclose(outputs, expected, rtol=0, atol=1e-6 * np.abs(expected).max()):
        raise InputError(f"{model.name} has another activation, expected relu: the theorem needs it.")
    return chained


def _end(chained: Chain, theta: trees.Tree, model: Model) -> Leaves:
    check_network(model, theta)
    leaves = on_host(theta)
    longest = float(np.linalg.norm(leaves[chained.layers[0].kernel], axis=0).max())
    if longest > 1 + 1e-5:
        raise InputError(f"got rows of W_1 of norms up to {longest:.4g}, expected at most 1: unit_rows scales them.")
    return leaves


def _matrices(chained: Chain, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
    """W_1 (units, inputs) and W_2 (units,), float64."""
    first, second = (leaves[layer.kernel].astype(np.float64) for layer in chained.layers)
    return first.T, second[:, 0]


def _leaves(chained: Chain, like: Leaves, units: np.ndarray, weights: np.ndarray) -> Leaves:
    first, second = (layer.kernel for layer in chained.layers)
    return {first: units.T.astype(like[first].dtype), second: weights[:, None].astype(like[second].dtype)}


class End(NamedTuple):
    """An end, its first layer with the lasso's output weights, and with few of them."""

    leaves: Leaves
    fitted: Sparse
    few: Sparse


def _path(
    chained: Chain,
    problem: Problem,
    ends: list[End],
    theta: trees.Tree,
    narrow: Sparse,
    angle: float,
    points: int,
) -> WidePath:
    m, count = chained.sizes[0], len(narrow.weights)
    group = chained.groups[0]
    what = f"{m - count} units are enough" + (f", turned by up to {angle:.3g}" if angle else "")
    walks = []
    for leaves, fitted, less in ends:
        walk = Walk(chained, leaves)
        walk.to("a", "the output weights become the lasso's", _leaves(chained, leaves, fitted.units, fitted.weights))
        walk.to("line" if angle else "a", what, _leaves(chained, leaves, less.units, less.weights))
        walks.append(walk)
    walk, back = walks
    parts = [1, 2]
    oracles, own = _leaves(chained, walk.here, narrow.units, narrow.weights), {group: np.arange(count)}
    free = [dead_units(chained, each.here) for each in walks]
    places = {group: preferring(free[0][group], free[1][group])[:count]}
    walk.to(
        "b", f"write {count} other units into those without a weight", written(chained, walk.here, oracles, own, places)
    )
    walk.to("a", "their output weights instead", switched(chained, walk.here, oracles, own, places))
    parts += [3] * (len(walk.moves) - len(parts))
    permute_units(chained, walk, places, places_for(places, free[1]))
    exchange(chained, walk, back.here)
    parts += [4] * (len(walk.moves) - len(parts)) + [5, 6]
    walk.back(back)
    first, second = ends
    return WidePath(
        construction=walk.construction(theta),
        parts=tuple(parts),
        ends=(_energy(chained, problem, first.leaves), _energy(chained, problem, second.leaves)),
        units=count,
        angle=angle,
        e=narrow.energy,
        delta=(first.fitted.energy, second.fitted.energy),
        delta_few=(first.few.energy, second.few.energy),
        height=_height(chained, problem, walk, points),
    )


def _energy(chained: Chain, problem: Problem, leaves: Leaves) -> float:
    return energy(problem, *_matrices(chained, leaves))


def _height(chained: Chain, problem: Problem, walk: Walk, points: int) -> float:
    """The highest energy on the segments, at `points` of each that is a line and at the ends of the others."""
    highest = []
    for move, (start, end) in zip(walk.moves, pairwise(walk.knots), strict=True):
        (first_1, first_2), (last_1, last_2) = (_matrices(chained, knot) for knot in (start, end))
        for t in np.linspace(0, 1, points if move.kind == "line" else 2):
            highest.append(energy(problem, (1 - t) * first_1 + t * last_1, (1 - t) * first_2 + t * last_2))
    return max(highest)
