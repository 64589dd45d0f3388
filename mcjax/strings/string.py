"""Strings: the result of sampling, and the state from which it grows."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.curves.polyline import Polyline
from mcjax.shown import short_repr

StopReason = Literal["connected", "beads", "depth", "epochs"]
"""Why sampling stopped: the string connects its ends, or the budget of this name in `StringConfig` ran out."""


@short_repr
class Segment(NamedTuple):
    """The straight segment from knot `number` to the next one, and its highest point.

    Attributes:
        number: Position in the string, from 0.
        t: The position of the highest value, as a share of the segment.
        height: The highest value of the criterion.
    """

    number: int
    t: float
    height: float


@short_repr
class String(NamedTuple):
    """A path of straight segments from theta_1 to P theta_2.

    Sampling can prove that two networks are connected, but not that they are disconnected.

    Attributes:
        polyline: The path through theta_1, the beads and P theta_2.
        values: The criterion of each knot, float32 (knots,).
        depths: The depth at which each knot was inserted, 0 for the ends, int32 (knots,).
        heights: The highest criterion found on each segment, float32 (knots - 1,).
        peaks: The position of each height, as a share of the segment, float32 (knots - 1,).
        resolution: The longest stretch of each segment without a measured point, as a distance between parameters,
            float32 (knots - 1,). A wall that is narrower than this may have been missed, unless `bounds` excludes it.
        bounds: What the criterion does not exceed on each segment by the `lipschitz` of the config, float32
            (knots - 1,); inf without one, and where the string was not verified.
        threshold: The level that the string was sampled for.
        connected: Whether all values, also on the denser grid, are at most (1 + tolerance) * threshold, and the bounds
            too where `lipschitz` asks for them.
        reason: "connected", or the budget that ran out: "beads", "depth" or "epochs" (of a bead).
        depth: Rounds of insertion.
        length: Euclidean length over all parameters.
        normalized_length: Length divided by the distance of the ends; 1 for a straight string.
        steps: Training steps of all beads together, and of the ends where these are trained.
        evaluations: Networks on segments whose criterion was measured.
    """

    polyline: Polyline
    values: np.ndarray
    depths: np.ndarray
    heights: np.ndarray
    peaks: np.ndarray
    resolution: np.ndarray
    bounds: np.ndarray
    threshold: float
    connected: bool
    reason: StopReason | None
    depth: int
    length: float
    normalized_length: float
    steps: int
    evaluations: int

    @property
    def knots(self) -> trees.Tree:
        """theta_1, the beads and P theta_2 along a leading axis, numpy."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """The path t -> theta through the knots, t in proportion to the length."""
        return self.polyline.path

    @property
    def beads(self) -> int:
        """The number of networks between the ends."""
        return len(self.values) - 2

    @property
    def worst(self) -> Segment:
        """The segment that rises highest."""
        number = int(np.argmax(np.nan_to_num(self.heights, nan=np.inf)))
        return Segment(number, float(self.peaks[number]), float(self.heights[number]))


class GrowingString:
    """The state of one string during sampling: its knots, on the host, and the heights of its segments.

    `reason` is None while the string is open. `verified` marks segments that were measured on the denser grid; `gaps`
    and `bounds` are as in `Heights`.

    Args:
        key: The key that every bead's key is folded from.
        theta_1: The first end, on the host.
        theta_2: The last end, on the host.
        values: The criterion of both ends.
        threshold: The level to sample for.
    """

    def __init__(
        self, key: jax.Array, theta_1: trees.Tree, theta_2: trees.Tree, values: Sequence[float], threshold: float
    ) -> None:
        self.key = key
        self.knots: list[trees.Tree] = [theta_1, theta_2]
        self.values, self.depths = list(values), [0, 0]
        self.heights, self.peaks, self.verified = [np.inf], [0.5], [False]
        self.gaps, self.bounds = [1.0], [np.inf]
        self.threshold, self.depth = threshold, 0
        self.reason: StopReason | None = None
        self.steps = self.evaluations = 0

    @classmethod
    def through(cls, knots: trees.Tree, depths: np.ndarray, like: String) -> "GrowingString":
        """A string through knots of these depths, on the host, not yet measured, with the costs of `like`."""
        each = trees.unstack(knots)
        growing = cls(jax.random.key(0), each[0], each[-1], like.values[[0, -1]].tolist(), like.threshold)
        segments = len(each) - 1
        growing.knots, growing.values, growing.depths = each, [np.inf] * len(each), depths.tolist()
        growing.heights, growing.peaks, growing.verified = [np.inf] * segments, [0.5] * segments, [False] * segments
        growing.gaps, growing.bounds = [1.0] * segments, [np.inf] * segments
        growing.depth, growing.steps, growing.evaluations = int(depths.max()), like.steps, like.evaluations
        return growing

    @property
    def beads(self) -> int:
        """The number of networks between the ends."""
        return len(self.knots) - 2

    def limit(self, tolerance: float, level: float | None = None) -> float:
        """The highest value that counts as at `level` (None: the threshold): (1 + tolerance) * level.

        It is rounded to float32 like the values themselves, so that a network exactly at the level is not above it.
        """
        return float(np.float32((1 + tolerance) * (self.threshold if level is None else level)))

    def segments_above(self, tolerance: float, level: float | None = None) -> list[int]:
        """The segments whose height, or finite bound, is above the limit at `level` (None: the threshold), or NaN."""
        limit = self.limit(tolerance, level)
        reach = [max(h, b) if np.isfinite(b) else h for h, b in zip(self.heights, self.bounds, strict=True)]
        return [i for i, height in enumerate(reach) if not height <= limit]

    def insert(self, segments: list[int], thetas: list[trees.Tree], values: list[float]) -> list[int]:
        """Insert one network into each of these segments, given in increasing order.

        Returns:
            The new segments, two for each network, not yet measured.
        """
        self.depth += 1
        # From the last segment to the first, so that the numbers of those before it stay valid.
        for i, theta, value in sorted(zip(segments, thetas, values, strict=True), key=lambda each: -each[0]):
            self.knots.insert(i + 1, theta)
            self.values.insert(i + 1, value)
            self.depths.insert(i + 1, self.depth)
            self.heights[i : i + 1] = [np.inf, np.inf]
            self.peaks[i : i + 1] = [0.5, 0.5]
            self.verified[i : i + 1] = [False, False]
            self.gaps[i : i + 1], self.bounds[i : i + 1] = [1.0, 1.0], [np.inf, np.inf]
        return [i + shift + side for shift, i in enumerate(sorted(segments)) for side in (0, 1)]

    def result(self) -> String:
        """The current string."""
        polyline = Polyline(trees.stack_on_host(self.knots))
        length = polyline.length
        straight = Polyline(trees.stack_on_host([self.knots[0], self.knots[-1]])).length
        return String(
            polyline=polyline,
            values=np.array(self.values, np.float32),
            depths=np.array(self.depths, np.int32),
            heights=np.array(self.heights, np.float32),
            peaks=np.array(self.peaks, np.float32),
            resolution=np.array(self.gaps * polyline.distances, np.float32),
            bounds=np.array(self.bounds, np.float32),
            threshold=self.threshold,
            connected=self.reason == "connected",
            reason=self.reason,
            depth=self.depth,
            length=length,
            normalized_length=length / straight if straight > 0 else 1.0,
            steps=self.steps,
            evaluations=self.evaluations,
        )

    def state(self) -> dict[str, Any]:
        """All but `reason` as arrays, for a checkpoint."""
        return {
            "knots": trees.on_host(trees.without_keys(trees.stack_on_host(self.knots))),
            "values": np.array(self.values, np.float32),
            "depths": np.array(self.depths, np.int32),
            "heights": np.array(self.heights, np.float32),
            "peaks": np.array(self.peaks, np.float32),
            "verified": np.array(self.verified),
            "gaps": np.array(self.gaps, np.float32),
            "bounds": np.array(self.bounds, np.float32),
            "counts": np.array([self.depth, self.steps, self.evaluations], np.int32),
        }

    def restore(self, state: dict[str, Any], reason: StopReason | None) -> None:
        """Restore a `state`, with its reason."""
        host = trees.on_host(state)
        count = len(host["values"])
        self.knots = [trees.with_keys(trees.index(host["knots"], i), self.knots[0]) for i in range(count)]
        self.values, self.depths = host["values"].tolist(), host["depths"].tolist()
        self.heights, self.peaks = host["heights"].tolist(), host["peaks"].tolist()
        self.verified, self.gaps, self.bounds = (host[name].tolist() for name in ("verified", "gaps", "bounds"))
        self.depth, self.steps, self.evaluations = map(int, host["counts"])
        self.reason = reason
