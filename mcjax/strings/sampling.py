"""One depth of string sampling: segments are looked at, and beads put where they rise too high."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.strings.beads import Bead, train_beads
from mcjax.strings.config import StringConfig
from mcjax.strings.scan import Scan, highest, highest_on_grid, values_at
from mcjax.strings.strand import Strand
from mcjax.training.loop import check_typed_keys, steps_per_epoch

Place = tuple[Strand, int]
"""A segment of a strand."""


def check_one_key(key: Any) -> None:
    """Raise InputError unless this is one typed key."""
    if check_typed_keys(key).shape:
        raise InputError(f"got keys of shape {key.shape}, expected one key: jax.random.key(seed).")


def check_differ(theta_1: trees.Tree, theta_2: trees.Tree, which: str = "") -> None:
    """Raise InputError if the ends of a string, of the pair `which`, are one network."""
    if all(map(np.array_equal, *(jax.tree.leaves(trees.params(end)) for end in (theta_1, theta_2)))):
        raise InputError(f"theta_1 and theta_2{which} are the same network: expected two that differ.")


class Work(NamedTuple):
    """What sampling is done with."""

    model: Model
    data: Dataset
    config: StringConfig

    @property
    def scan(self) -> Scan:
        """How segments are looked at."""
        config = self.config
        # Shares of images move in steps of one image: no grid finds more than that.
        step = 0.0
        if config.metric == "error" and np.issubdtype(np.dtype(self.data.train_labels.dtype), np.integer):
            labels = getattr(self.data, f"{config.split}_labels")[: config.images]
            step = 1 / labels.size
        return Scan(self.model, config.criterion, self.data, config.points, config.scan_tolerance, step, config.chunk)


def look(work: Work, places: list[Place]) -> None:
    """Find the highest value of each of these segments, as far as it could be above the threshold."""
    limits = [strand.limit(work.config.tolerance) for strand, _ in places]
    found = highest(work.scan, *_ends(places), limits)
    for (strand, i), height, t, measured in zip(places, *found, strict=True):
        strand.measured += int(measured)
        strand.heights[i], strand.where[i] = float(height), float(t)


def certify(work: Work, strands: list[Strand]) -> None:
    """Measure all segments that have not been measured so on a grid `config.certify` times as dense."""
    places = [(strand, i) for strand in strands for i, done in enumerate(strand.certified) if not done]
    if not places:
        return
    found = highest_on_grid(work.scan, *_ends(places), work.config.certify)
    for (strand, i), height, t, measured in zip(places, *found, strict=True):
        strand.measured += int(measured)
        if height > strand.heights[i]:
            strand.heights[i], strand.where[i] = float(height), float(t)
        strand.certified[i] = True


def _ends(places: list[Place]) -> tuple[list[trees.Tree], list[trees.Tree]]:
    return [strand.knots[i] for strand, i in places], [strand.knots[i + 1] for strand, i in places]


def measured(work: Work, thetas: list[trees.Tree]) -> list[float]:
    """The criterion of networks on the host."""
    return values_at(work.scan, thetas, thetas, np.zeros((len(thetas), 1)))[:, 0].tolist()


def deepen(work: Work, strands: list[Strand], progress: Callable[..., Any]) -> None:
    """One more depth of every open strand: certify it, end it, or insert beads where it is too high."""
    config = work.config
    certify(work, [strand for strand in strands if not strand.above(config.tolerance)])
    places: list[tuple[Strand, int]] = []
    for strand in strands:
        above = strand.above(config.tolerance)
        if not above:
            strand.reason = "connected"
        elif strand.depth >= config.depth:
            strand.reason = "depth"
        elif strand.beads + len(above) > config.beads:
            strand.reason = "beads"
        else:
            places += [(strand, i) for i in above]
    if not places:
        return
    beads = [new_bead(work, strand, i, strand.threshold) for strand, i in places]
    thetas = [bead.theta for bead in beads]
    values = measured(work, thetas)
    untrained = [n for n, bead in enumerate(beads) if not values[n] <= bead.target]
    found = train_beads(work.model, work.data, config, [beads[n] for n in untrained], progress=progress)
    for n, trained in zip(untrained, found, strict=True):
        thetas[n], values[n] = trained.theta, trained.value
        places[n][0].steps += trained.epochs * steps_per_epoch(config, work.data)
    new: list[tuple[Strand, int]] = []
    for strand in {id(strand): strand for strand, _ in places}.values():
        mine = [n for n, (owner, _) in enumerate(places) if owner is strand]
        inserted = strand.insert([places[n][1] for n in mine], [thetas[n] for n in mine], [values[n] for n in mine])
        new += [(strand, i) for i in inserted]
        if any(not values[n] <= strand.limit(config.tolerance) for n in mine):
            strand.reason = "epochs"
    look(work, new)


def new_bead(work: Work, strand: Strand, i: int, threshold: float) -> Bead:
    """A network on a segment, displaced by a little, between the segment's ends, to be trained below a threshold."""
    config = work.config
    before, after = strand.knots[i], strand.knots[i + 1]
    # In the plane there is only the middle; and next to an end a bead would part nothing.
    t = 0.5 if config.insert == "middle" or config.kappa > 0 else min(max(strand.where[i], 0.05), 0.95)
    theta = jax.tree.map(lambda a, b: np.asarray((1 - t) * a + t * b, a.dtype), before, after)
    key = jax.random.fold_in(jax.random.fold_in(strand.key, strand.depth), i)
    theta = _displaced(key, theta, before, after, config.noise, in_plane=config.kappa == math.inf)
    return Bead(theta, before, after, key, config.alpha * threshold)


def _displaced(
    key: jax.Array, theta: trees.Tree, before: trees.Tree, after: trees.Tree, noise: float, in_plane: bool
) -> trees.Tree:
    """Parameters moved in a random direction, or one at right angles to the segment, by `noise` times its length."""
    if noise == 0:
        return theta
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    params = trees.params(theta)
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params)
    chord = jax.tree.map(np.subtract, trees.params(after), trees.params(before))
    length = _norm(chord)
    if in_plane and length > 0:
        along = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(chord), jax.tree.leaves(direction), strict=True))
        direction = jax.tree.map(lambda d, c: d - along / length**2 * c, direction, chord)
    scale = noise * length / _norm(direction)
    return trees.with_params(
        theta, jax.tree.map(lambda leaf, off: (leaf + scale * off).astype(leaf.dtype), params, direction)
    )


def _norm(tree: trees.Tree) -> float:
    return float(np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(tree))))
