"""Weight matching: the permutation under which the weights of two networks lie closest (Git Re-Basin)."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import lru_cache, partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.matching.products import Ends, Place, prepare
from mcjax.symmetry import Permutation, PermutationSpec, SpecError, nearest_permutation
from mcjax.symmetry.permutation import check_permutation, is_hard
from mcjax.training.loop import check_typed_keys

# Of the largest entry of a cost matrix: what rounding may say.
TIE = 1e-6
# Of the largest entry: how firmly units are kept in place where the objective is quadratic in a group and the
# plain assignment loses. Enough of it majorises the objective; at the last one next to nothing moves.
HOLDS = (0.05, 0.2, 0.8)
# Restarts that take turns: while the host assigns for one, the device multiplies for the other.
IN_FLIGHT = 3

Steps = Generator[None, None, Any]
"""Work that stops wherever the device has something to do for it."""
Start = Literal["given", "propagation", "shuffled", "anywhere"]


class WeightMatch(NamedTuple):
    """A matching of theta_2 onto theta_1, from weights; with a leading pair axis if they had one.

    P: group -> int32 ([pairs,] n), of the best restart. objective: the inner product of theta_1 and
    `P theta_2`, float64 ([pairs]). restarts: the objective that every restart reached, float64
    ([pairs,] restarts). sweeps: how many times each went over all groups, int ([pairs,] restarts).
    """

    P: Permutation
    objective: Any
    restarts: np.ndarray
    sweeps: np.ndarray


class Reached(NamedTuple):
    """Where one restart ended."""

    P: Permutation
    objective: float
    sweeps: int


def match_weights(
    key: jax.Array,
    spec: PermutationSpec,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    restarts: int = 3,
    *,
    P: Permutation | None = None,
    max_sweeps: int = 100,
) -> WeightMatch:
    """The P for which the weights of `P theta_2` lie closest to those of theta_1: coordinate descent over groups.

    Maximises the inner product of theta_1 and `P theta_2` over all leaves but batch statistics. A sweep
    goes over the groups in random order and assigns the units of each anew, on the host; a restart ends
    when a sweep gains nothing, and the best restart is returned. The first begins by propagation: group
    after group is matched by those of its leaves whose other axes are known, from inputs, outputs, biases
    and norms inwards. Later ones propagate in a random order, and every fourth begins anywhere. P: where
    one of them begins instead, for instance a matching of activations; the result is never below it.
    Units that nothing tells apart stay in place. Endpoints may have a leading pair axis, and P then too;
    every pair uses the same key. Raises SpecError if endpoints, P and spec do not fit each other, InputError if
    weights are not finite. Source: Ainsworth et al., 2022, "Git Re-Basin", Algorithm 1, but for the starts.
    """
    if not isinstance(spec, PermutationSpec):
        raise InputError(f"got a {type(spec).__name__} for the spec, expected a PermutationSpec: model.spec, perhaps.")
    for name, got in (("restarts", restarts), ("max_sweeps", max_sweeps)):
        check_whole(name, got)
    if check_typed_keys(key).ndim:
        raise InputError(f"got {key.size} keys, expected one: every pair uses the same.")
    pairs, sizes = _check_ends(spec, theta_1, theta_2)
    count = 1 if pairs is None else pairs
    given = [None] * count if P is None else _given(spec, P, sizes, pairs)
    networks = [_counted(theta, pairs) for theta in (theta_1, theta_2)]

    @lru_cache(maxsize=IN_FLIGHT)
    def ends(i: int) -> Ends:
        return prepare(spec, sizes, *({name: leaf[i] for name, leaf in leaves.items()} for leaves in networks))

    seed = np.ravel(jax.random.key_data(key)).tolist()
    runs = (
        _descend(partial(ends, i), np.random.default_rng([*seed, r]), start, given[i], max_sweeps)
        for i in range(count)
        for r, start in enumerate(_starts(restarts, P is not None))
    )
    reached = _in_turns(runs)
    found = [_best(reached[i * restarts : (i + 1) * restarts]) for i in range(count)]
    stacked: WeightMatch = jax.tree.map(lambda *each: np.stack(each), *found)
    return found[0] if pairs is None else stacked


def _starts(restarts: int, given: bool) -> list[Start]:
    first: list[Start] = ["given", "propagation"] if given else ["propagation"]
    later: list[Start] = ["anywhere" if r % 4 == 3 else "shuffled" for r in range(1, restarts)]
    return [*first, *later][:restarts]


def _best(reached: list[Reached]) -> WeightMatch:
    restarts = np.array([run.objective for run in reached])
    # To the precision of the products, so that of equal ones it is the first, which broke ties with most care.
    best = reached[int(np.argmax(restarts.astype(np.float32)))]
    return WeightMatch(best.P, np.float64(best.objective), restarts, np.array([run.sweeps for run in reached]))


def _in_turns(runs: Iterator[Steps]) -> list[Any]:
    """What every run returns. A few are under way at a time, and give way to each other where they wait."""
    results: dict[int, Any] = {}
    waiting = enumerate(runs)
    live = deque(islice(waiting, IN_FLIGHT))
    while live:
        i, run = live.popleft()
        try:
            next(run)
            live.append((i, run))
        except StopIteration as done:
            results[i] = done.value
            live.extend(islice(waiting, 1))
    return [results[i] for i in sorted(results)]


def _descend(
    ends_of: Callable[[], Ends], rng: np.random.Generator, start: Start, given: Permutation | None, max_sweeps: int
) -> Steps:
    """One restart: its start, then sweeps. Returns a Reached."""
    ends = ends_of()
    groups = list(ends.sizes)
    if start != "given" or given is None:
        draw = rng.permutation if start == "anywhere" else np.arange
        given = {group: np.asarray(draw(n), np.int32) for group, n in ends.sizes.items()}
    restart = _Restart(ends, given)
    if start in ("propagation", "shuffled"):
        yield from _propagate(restart, rng if start == "shuffled" else None)
    sweeps, moved = 0, bool(groups)
    while moved and sweeps < max_sweeps:
        sweeps, moved = sweeps + 1, False
        for i in rng.permutation(len(groups)):
            moved |= yield from restart.match(groups[i], ends.places[groups[i]])
    return Reached(restart.P, restart.objective(), sweeps)


def _propagate(restart: "_Restart", rng: np.random.Generator | None) -> Steps:
    """Match the groups one by one, each by what is known: the products of axes that are not are noise.

    Next is the group of whose differences between units the largest share is known, or with rng the
    largest share times a random number. Then those matched before are matched anew, by more than they
    were. Where nothing is known of any, a group is matched by the sorted weights of its units, which no
    permutation of the other axes changes.
    """
    ends = restart.ends
    total = {group: sum(ends.spreads[place] for place in places) for group, places in ends.places.items()}
    known: list[str] = []

    def told(group: str) -> list[Place]:
        return [place for place in ends.places[group] if set(place.partners) <= {*known}]

    while unknown := [group for group in ends.sizes if group not in known]:
        spread = {group: sum(ends.spreads[place] for place in told(group)) for group in unknown}
        share = {group: spread[group] / total[group] if total[group] > 0 else 0.0 for group in unknown}
        if rng is not None:
            share = {group: each * rng.random() for group, each in share.items()}
        group = max(unknown, key=lambda group: share[group])
        blind = share[group] == 0
        yield from restart.match(group, ends.places[group] if blind else told(group), profile=blind)
        known.append(group)
        for earlier in known[:-1]:
            yield from restart.match(earlier, told(earlier))


class _Restart:
    """A restart under way: the P it has reached, and what it need not compute again."""

    def __init__(self, ends: Ends, P: Permutation) -> None:
        self.ends, self.P = ends, P
        self.held: dict[Place, tuple[list[Any], jax.Array]] = {}
        self.settled: dict[str, list[Any]] = {}

    def products(self, place: Place, P: Permutation) -> jax.Array:
        """Those of a place under P, computed only if another group of its leaf has moved since the last time."""
        used = [P[group] for group in place.partners]
        held = self.held.get(place)
        if held is None or not _same(held[0], used):
            held = self.held[place] = used, self.ends.products(place, P)
        return held[1]

    def inner(self, place: Place, P: Permutation) -> float:
        """The inner product of the whole leaf of a place."""
        matrix = np.asarray(self.products(place, P), np.float64)
        return _along(matrix, np.zeros(1, int) if place.group is None else P[place.group])

    def objective(self) -> float:
        """The inner product of theta_1 and `P theta_2`."""
        fixed = sum(_along(matrix, self.P[group]) for group, matrix in self.ends.fixed.items())
        return self.ends.constant + fixed + sum(self.inner(place, self.P) for place in self.ends.measures)

    def match(self, group: str, places: list[Place], profile: bool = False) -> Steps:
        """Put the units of a group where these places want them. Returns whether they moved.

        A group that lies on several axes of a leaf is moved only if the objective rises.
        """
        ends, p = self.ends, self.P[group]
        wants = [*places, *(self.P[partner] for place in places for partner in place.partners)]
        if _same(self.settled.get(group, []), wants):
            return False
        moving = [place for place in places if place.partners or not place.whole]
        coming = [ends.products(place, self.P, True) if profile else self.products(place, self.P) for place in moving]
        yield
        matrices = [np.asarray(matrix, np.float64) for matrix in coming]
        cost = sum(matrices, ends.fixed[group])
        if not np.isfinite(cost).all():
            raise InputError(f"the weights of group {group!r} are not finite: expected two networks of finite weights.")
        if not profile:
            self.settled[group] = wants
        coupled = set() if profile else {place.leaf for place in places if group in place.partners}
        single = [matrix for place, matrix in zip(moving, matrices, strict=True) if place.leaf not in coupled]
        linear = sum(single, ends.fixed[group])
        quadratic = [place for place in ends.measures if place.leaf in coupled]

        def objective(P: Permutation) -> float:
            return _along(linear, P[group]) + sum(self.inner(place, P) for place in quadratic)

        size = np.abs(cost).max(initial=0.0) or 1.0
        for hold in (TIE, *(HOLDS if coupled else ())):
            moved = {**self.P, group: nearest_permutation(cost + hold * size * np.eye(len(p))[p])}
            if (moved[group] == p).all():
                return False
            if not coupled or objective(moved) > objective(self.P) + TIE * size:
                self.P = moved
                return True
        return False


def _same(a: list[Any], b: list[Any]) -> bool:
    """Whether these are the very same arrays: a group that stays keeps its array."""
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _along(matrix: np.ndarray, p: np.ndarray) -> float:
    return float(matrix[np.arange(len(p)), p].sum())


def _counted(theta: trees.Tree, pairs: int | None) -> dict[str, np.ndarray]:
    """The leaves that weigh in, with a pair axis: batch statistics are no weights, and only follow."""
    counted = {name: leaf for name, leaf in trees.flatten(theta).items() if not name.startswith("batch_stats/")}
    return {name: np.asarray(leaf)[None] if pairs is None else np.asarray(leaf) for name, leaf in counted.items()}


def _check_ends(spec: PermutationSpec, theta_1: trees.Tree, theta_2: trees.Tree) -> tuple[int | None, dict[str, int]]:
    """How many pairs (None: there is no pair axis), and the sizes of the groups. Raises SpecError."""
    shapes_1, shapes_2 = trees.shapes(theta_1), trees.shapes(theta_2)
    if wrong := [
        f"{name}: got {shapes_1.get(name, 'nothing')} and {shapes_2.get(name, 'nothing')}"
        for name in sorted(shapes_1.keys() | shapes_2.keys())
        if shapes_1.get(name) != shapes_2.get(name)
    ]:
        raise SpecError(
            "theta_1 and theta_2 do not fit each other:\n  "
            + "\n  ".join(wrong)
            + "\nexpected two networks of one architecture, or as many of each."
        )
    ranks = {name: len(entries) for name, entries in spec.axes.items() if any(entries)}
    leading = {shape[:1] for shape in shapes_1.values()}
    if len(leading) == 1 and ranks and all(len(shapes_1.get(name, ())) == ranks[name] + 1 for name in ranks):
        ((pairs,),) = leading
        if not pairs:
            raise SpecError("theta_1 and theta_2 have an empty pair axis: expected at least one pair.")
        single = {name: jax.ShapeDtypeStruct(shape[1:], np.float32) for name, shape in shapes_1.items()}
        return pairs, spec.group_sizes(trees.nest(single))
    return None, spec.group_sizes(theta_1)


def _given(spec: PermutationSpec, P: Any, sizes: dict[str, int], pairs: int | None) -> list[Permutation]:
    """The P to begin at, pair by pair. Raises SpecError."""
    if not isinstance(P, Mapping):
        raise SpecError(f"got {type(P).__name__} for P, expected a dict of one permutation a group: its .P, perhaps.")
    arrays = {group: np.asarray(p)[None] if pairs is None else np.asarray(p) for group, p in P.items()}
    if wrong := [f"{group} {p.shape}" for group, p in arrays.items() if pairs is not None and p.shape[:1] != (pairs,)]:
        raise SpecError(
            f"got P of {', '.join(wrong)}, expected a leading axis of {pairs} pairs, as the endpoints have."
        )
    if soft := [group for group, p in arrays.items() if not is_hard(p)]:
        raise SpecError(
            f"got a soft P for {', '.join(soft)}, expected int32 (n,) for every group. "
            "Round it: {group: nearest_permutation(p) for group, p in P.items()}."
        )
    starts = [{group: p[i].astype(np.int32) for group, p in arrays.items()} for i in range(pairs or 1)]
    for start in starts:
        check_permutation(spec, start, sizes)
    return starts
