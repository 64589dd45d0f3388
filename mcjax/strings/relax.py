"""Relaxation of a connected string at constant level: shorter and shorter, and nowhere above its threshold."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mcjax import trees
from mcjax.errors import InputError, check_kind, check_whole
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_points
from mcjax.strings.config import StringConfig
from mcjax.strings.growth import Sampler, between
from mcjax.strings.string import GrowingString, String
from mcjax.training.config import check_config
from mcjax.training.criterion import Criterion
from mcjax.training.task import Task, networks_at_once

BLOCK = 10
"""Sweeps between two looks at the length."""
BELOW = 0.995
"""The aim of the linearised constraints, as a share of the level, so that its curvature does not reject every move."""
LEAST = 1 / 64
"""The shortest step of a knot, as a share of the way to the middle of its neighbours."""


def relax_string(
    task: Task,
    string: String,
    config: StringConfig | None = None,
    *,
    splits: int = 2,
    sweeps: int = 200,
    points: int = 4,
    precision: float = 1e-3,
) -> String:
    """Shorten a connected string without leaving its level set, toward a geodesic of the level set.

    The length of a sampled string depends on where beads happened to stop: training, also that with springs and planes,
    ends as soon as a bead is low enough. Here every second knot at a time moves toward the middle of its neighbours, to
    the nearest point at which the highest point of either segment stays at the level, to first order. The move is
    taken if the two segments become shorter and none of their points, on a grid, rises above the level; or else a
    shorter one is tried in the next sweep. So the length never grows. Then every segment is split in the middle, and
    all is repeated.

    What comes out is verified like a sampled string. If it is too high between points of the grid, it is relaxed again
    on a finer one and further below the level, and at last given up for the string before. The result is a local
    minimum of the length, as far as moves of single knots lead.

    Args:
        task: The task of the string.
        string: A connected string, from `sample_string` or `train_string`.
        config: The settings that it was sampled with. The level is the threshold itself: with a tolerance, points of
            the string may be above it, and do not rise. Without, it is less by the share `scan_tolerance`, for
            what is between the points.
        splits: How many times every segment is split in two.
        sweeps: Maximum number of sweeps over all knots after each split, rounded up to tens.
        points: Points of every segment on which the level is kept, equally spaced, one end included.
        precision: Ten sweeps that shorten the string by less than this share are the last.

    Returns:
        The relaxed string: connected, with the same ends. Its knots from splits have `depths` above those of the
        string. Batch statistics are those of the string's knots. `evaluations` include those of the string.

    Raises:
        InputError: The string is not connected, or an argument is out of range.

    Example::

        relaxed = relax_string(task, string, config)
        print(string.normalized_length, relaxed.normalized_length)
    """
    check_kind("string", string, String, "sample_string(...), or the .string of train_string(...)")
    if not string.connected:
        raise InputError(f"got a string that is not connected ({string.reason}), expected a connected one.")
    for name, value, least in (("splits", splits, 0), ("sweeps", sweeps, 1), ("points", points, 2)):
        check_whole(name, value, least)
    if not 0 < precision < 1:
        raise InputError(f"got precision={precision}, expected it to be between 0 and 1.")
    sampler = Sampler.create(task, check_config(config, StringConfig), trees.index(string.knots, 0))
    best, start = string, (string.knots, string.depths)
    for split in range(splits + 1 if string.beads else 0):
        if split:
            start = _split(*start, best.depth + 1)
        share = min((1 - sampler.config.scan_tolerance) * (1 + sampler.config.tolerance), 1.0)
        for finer in (1, 2, 4, 8):
            found = _relaxed(sampler, best, *start, finer * points, share, sweeps, precision)
            if found.connected:
                best, start = found, (found.knots, found.depths)
                break
            # It is too high between the points: more of them, and lower by as much.
            share *= min(max((1 + sampler.config.tolerance) * string.threshold / found.worst.height, 0.1), 0.9)
            best = best._replace(evaluations=found.evaluations)
    return best


def _split(knots: trees.Tree, depths: np.ndarray, depth: int) -> tuple[trees.Tree, np.ndarray]:
    """The knots with one more in the middle of every segment, and the depths of all."""
    each = trees.unstack(knots)
    whole = [each[0]]
    for before, after in pairwise(each):
        whole += [between(before, after, 0.5), after]
    return trees.stack_on_host(whole), np.insert(depths, np.arange(1, len(depths)), depth)


def _relaxed(
    sampler: Sampler,
    string: String,
    knots: trees.Tree,
    depths: np.ndarray,
    points: int,
    share: float,
    sweeps: int,
    precision: float,
) -> String:
    """The string through knots relaxed below a share of the threshold, on a grid of so many points; verified."""
    count, config = len(depths), sampler.config
    # Filled up with copies of the last knot, so that few programs are compiled.
    size = 1 + (1 << (count - 2).bit_length())
    rows = np.minimum(np.arange(size), count - 1)
    # An error rate has no slope: the loss says where it falls.
    guide = replace(config.criterion, metric="loss") if sampler.step else config.criterion
    chunk = config.chunk or networks_at_once(sampler.task, trees.index(knots, 0))
    found, done = _relax(
        config.criterion, guide, chunk, points, sampler.task, trees.index(knots, rows), rows[1:] > rows[:-1],
        share * string.threshold, sweeps, precision,
    )  # fmt: skip
    growing = GrowingString.through(trees.index(trees.on_host(found), slice(count)), depths, string)
    growing.evaluations += (size - 1) * (points + 1) * (2 * int(done) + int(done) // BLOCK)
    growing.values = sampler.measure_networks(growing.knots)
    sampler.measure_segments([(growing, i) for i in range(count - 1)])
    if not growing.segments_above(config.tolerance):
        sampler.verify([growing])
    growing.reason = None if growing.segments_above(config.tolerance) else "connected"
    return growing.result()


class _State(NamedTuple):
    """The state of relaxation.

    Attributes:
        x: The parameters of the knots, (knots, parameters).
        values: The criterion at the points of every segment, (segments, points).
        steps: The next step of every inner knot, as a share of its way, (knots - 2,).
        length: The length now.
        before: The length a block ago.
        sweeps: The sweeps so far.
    """

    x: jax.Array
    values: jax.Array
    steps: jax.Array
    length: jax.Array
    before: jax.Array
    sweeps: jax.Array


@jit(static_argnames=("criterion", "guide", "chunk", "points"))
def _relax(
    criterion: Criterion,
    guide: Criterion,
    chunk: int,
    points: int,
    task: Task,
    knots: trees.Tree,
    real: jax.Array,
    level: Any,
    sweeps: Any,
    precision: Any,
) -> tuple[trees.Tree, jax.Array]:
    """Relax the inner knots.

    Args:
        criterion: What the level is of.
        guide: A differentiable criterion, by whose gradient knots stay below the level.
        chunk: Networks in memory at once.
        points: Points of each segment, equally spaced, of which the last is its end.
        task: The task.
        knots: The networks, along a leading axis.
        real: Whether each segment is one of the string, and not filled up, (segments,).
        level: Above this no point rises; those that are above do not rise.
        sweeps: Maximum number of sweeps.
        precision: The least share by which a block of sweeps shortens the string.

    Returns:
        The knots, and the number of sweeps.
    """
    segments = len(real)
    ts = jnp.arange(1, points + 1) / points
    _, unravel = ravel_pytree(trees.trained(trees.index(knots, 0)))

    def network(i: jax.Array, flat: jax.Array) -> trees.Tree:
        return trees.with_trained(trees.index(knots, i), unravel(flat))

    def measure(x: jax.Array) -> jax.Array:
        def at(point: tuple[jax.Array, jax.Array]) -> jax.Array:
            i, t = point
            return criterion(task, network(i, (1 - t) * x[i] + t * x[i + 1]))

        grid = (jnp.repeat(jnp.arange(segments), points), jnp.tile(ts, segments))
        return over_points(at, grid, chunk).reshape(segments, points)

    def guides(x: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(point: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            i, t = point
            flat = (1 - t) * x[i] + t * x[i + 1]
            return jax.value_and_grad(lambda flat: guide(task, network(i, flat)))(flat)

        return over_points(one, (jnp.arange(segments), at), chunk)

    def half_sweep(number: jax.Array, state: _State) -> _State:
        x, values, steps, parity = state.x, state.values, state.steps, number % 2
        # The first half-sweep of a block only measures.
        moving = (jnp.arange(1, segments) % 2 == parity) & real[1:] & (number > 0)
        # The highest point of each segment, among those that its moving end moves.
        weights = jnp.where((jnp.arange(1, segments + 1) % 2 == parity)[:, None], ts, 1 - ts)
        highest = jnp.argmax(jnp.where(weights > 0, values, -jnp.inf), axis=1)[:, None]
        value, weight = (jnp.take_along_axis(each, highest, 1)[:, 0] for each in (values, weights))
        of_guide, gradients = guides(x, ts[highest[:, 0]])
        # To first order it stays at the level if <weight * gradient, move> <= slack. A guide that is not the criterion
        # is taken to be in proportion to it.
        normals = weight[:, None] * gradients
        slack = of_guide * (BELOW * level / jnp.maximum(value, 1e-12) - 1)
        way = steps[:, None] * ((x[:-2] + x[2:]) / 2 - x[1:-1])
        moves = _nearest(way, (normals[:-1], normals[1:]), (slack[:-1], slack[1:]))
        moved = x.at[1:-1].add(jnp.where(moving[:, None], moves, 0))
        # Each segment has one moving end, so each knot is taken or not by its own two segments.
        new = measure(moved)
        low = (new <= jnp.maximum(level, values)).all(1)
        gain = _distances(x) - _distances(moved)
        taken = moving & low[:-1] & low[1:] & (gain[:-1] + gain[1:] > 0)
        changed = jnp.pad(taken, (1, 0)) | jnp.pad(taken, (0, 1))
        return state._replace(
            x=x.at[1:-1].set(jnp.where(taken[:, None], moved[1:-1], x[1:-1])),
            values=jnp.where(changed[:, None] | (number == 0), new, values),
            steps=jnp.where(moving, jnp.where(taken, jnp.minimum(2 * steps, 1), jnp.maximum(steps / 2, LEAST)), steps),
        )

    def block(state: _State) -> _State:
        after = jax.lax.fori_loop(0, 2 * BLOCK + 1, half_sweep, state)
        length = _distances(after.x).sum()
        return after._replace(length=length, before=state.length, sweeps=state.sweeps + BLOCK)

    def going_on(state: _State) -> jax.Array:
        return (state.sweeps < sweeps) & (state.before - state.length > precision * state.length)

    x = jax.vmap(lambda theta: ravel_pytree(trees.trained(theta))[0])(knots)
    length = _distances(x).sum()
    start = _State(x, jnp.zeros((segments, points)), jnp.ones(segments - 1), length, jnp.inf * length, jnp.int32(0))
    end = jax.lax.while_loop(going_on, block, start)
    return jax.vmap(network)(jnp.arange(segments + 1), end.x), end.sweeps


def _distances(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(x[1:] - x[:-1]).sum(1))


def _nearest(ways: jax.Array, normals: tuple[jax.Array, jax.Array], slack: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The point nearest to each way at which <normal, point> <= slack for both normals, by Hildreth's method.

    Args:
        ways: The points, (knots, parameters).
        normals: Two constraints of each, (knots, parameters).
        slack: Their right-hand sides, (knots,).

    Returns:
        The nearest points, (knots, parameters).
    """
    (a, b), (s, r) = normals, slack

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        return (x * y).sum(1)

    aa, ab, bb = (jnp.maximum(dot(a, a), 1e-30), dot(a, b), jnp.maximum(dot(b, b), 1e-30))
    excess_a, excess_b = dot(a, ways) - s, dot(b, ways) - r

    def ascend(_: Any, multipliers: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, mu = multipliers
        lam = jnp.maximum((excess_a - mu * ab) / aa, 0)
        return lam, jnp.maximum((excess_b - lam * ab) / bb, 0)

    lam, mu = jax.lax.fori_loop(0, 100, ascend, (jnp.zeros_like(s), jnp.zeros_like(r)))
    return ways - lam[:, None] * a - mu[:, None] * b
