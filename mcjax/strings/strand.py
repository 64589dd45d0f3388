"""A string while it is being sampled, and what is known of it when it ends."""

from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.curves.polyline import Polyline

Reason = str
"""Why sampling ended: "connected", or the budget that ran out, "beads", "depth" or "epochs"."""


class Segment(NamedTuple):
    """The segment after knot `number`: the highest value on it, and at which share of it."""

    number: int
    t: float
    height: float


class String(NamedTuple):
    """A chain of networks from theta_1 to P theta_2, and how high the straight segments between them rise.

    polyline: theta_1, the beads, P theta_2. values: the criterion of each, float32 (knots,);
    born: the depth at which each was inserted, int32 (knots,). heights, where: the highest value on each
    segment, float32 (knots - 1,), and at which share of it. length: Euclidean, over all parameters at once, and
    normalized_length divided by the distance of the ends: 1 for a straight string. steps: training steps of all
    beads together (of the ends too, where they are trained); measured: networks whose criterion was measured on
    segments.

    connected: no value above (1 + tolerance) * threshold was found, also not on the denser grid. Otherwise
    `reason` says which budget ran out: "beads", "depth" or "epochs" (of a bead). That proves nothing:
    sampling shows that a level set is connected, and cannot show that it is not.
    """

    polyline: Polyline
    values: np.ndarray
    born: np.ndarray
    heights: np.ndarray
    where: np.ndarray
    threshold: float
    connected: bool
    reason: Reason
    depth: int
    length: float
    normalized_length: float
    steps: int
    measured: int

    @property
    def knots(self) -> trees.Tree:
        """theta_1, the beads and P theta_2 along a leading axis."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """The path t -> theta through the knots, t in proportion to the length."""
        return self.polyline.path

    @property
    def beads(self) -> int:
        """How many networks are between the ends."""
        return len(self.values) - 2

    @property
    def worst(self) -> Segment:
        """The segment that rises highest."""
        number = int(np.argmax(np.nan_to_num(self.heights, nan=np.inf)))
        return Segment(number, float(self.where[number]), float(self.heights[number]))


class Strand:
    """A string that grows: knots on the host, and what is known of every segment. `reason` is "" while it is open."""

    def __init__(
        self, key: jax.Array, theta_1: trees.Tree, theta_2: trees.Tree, values: tuple[float, float], threshold: float
    ) -> None:
        self.key = key
        self.knots: list[trees.Tree] = [theta_1, theta_2]
        self.values, self.born = list(values), [0, 0]
        self.heights, self.where, self.certified = [np.inf], [0.5], [False]
        self.threshold, self.reason, self.depth = threshold, "", 0
        self.steps = self.measured = 0

    @property
    def beads(self) -> int:
        """How many networks are between the ends."""
        return len(self.knots) - 2

    def limit(self, tolerance: float, level: float | None = None) -> float:
        """(1 + tolerance) * level (None: the threshold), as precise as what is measured: what is there is not above."""
        return float(np.float32((1 + tolerance) * (self.threshold if level is None else level)))

    def above(self, tolerance: float, level: float | None = None) -> list[int]:
        """The segments that rise above a level's tolerance (None: the threshold's), or to what is not a number."""
        limit = self.limit(tolerance, level)
        return [i for i, height in enumerate(self.heights) if not height <= limit]

    def insert(self, at: list[int], thetas: list[trees.Tree], values: list[float]) -> list[int]:
        """Put a network into each of these segments, increasing; returns the new segments, not yet scanned."""
        self.depth += 1
        for i, theta, value in sorted(zip(at, thetas, values, strict=True), key=lambda each: -each[0]):
            self.knots.insert(i + 1, theta)
            self.values.insert(i + 1, value)
            self.born.insert(i + 1, self.depth)
            self.heights[i : i + 1] = [np.inf, np.inf]
            self.where[i : i + 1] = [0.5, 0.5]
            self.certified[i : i + 1] = [False, False]
        return [i + shift + side for shift, i in enumerate(sorted(at)) for side in (0, 1)]

    def result(self) -> String:
        """What is known."""
        polyline = Polyline(trees.stack_on_host(self.knots))
        length = polyline.length
        straight = Polyline(trees.stack_on_host([self.knots[0], self.knots[-1]])).length
        return String(
            polyline=polyline,
            values=np.array(self.values, np.float32),
            born=np.array(self.born, np.int32),
            heights=np.array(self.heights, np.float32),
            where=np.array(self.where, np.float32),
            threshold=self.threshold,
            connected=self.reason == "connected",
            reason=self.reason,
            depth=self.depth,
            length=length,
            normalized_length=length / straight if straight > 0 else 1.0,
            steps=self.steps,
            measured=self.measured,
        )

    def state(self) -> dict[str, Any]:
        """All of it as arrays, for a checkpoint."""
        return {
            "knots": trees.stack_on_host(self.knots),
            "values": np.array(self.values, np.float32),
            "born": np.array(self.born, np.int32),
            "heights": np.array(self.heights, np.float32),
            "where": np.array(self.where, np.float32),
            "certified": np.array(self.certified),
            "counts": np.array([self.depth, self.steps, self.measured], np.int32),
        }

    def restore(self, state: dict[str, Any], reason: Reason) -> None:
        """Become what `state` was taken of."""
        host = jax.tree.map(np.asarray, state)
        count = len(host["values"])
        self.knots = [trees.index(host["knots"], i) for i in range(count)]
        self.values, self.born = host["values"].tolist(), host["born"].tolist()
        self.heights, self.where = host["heights"].tolist(), host["where"].tolist()
        self.certified = host["certified"].tolist()
        self.depth, self.steps, self.measured = map(int, host["counts"])
        self.reason = reason
