"""Power laws of length and segments in the threshold: of the connected strings alone, and with the censored ones.

A string that was given up is censored, not missing. Beads are only ever inserted, and knots do not move, so that a
string that had been continued would have at least as many segments, and by the triangle inequality at least the length,
that it had when it was given up. Leaving such strings out favours short ones where many fail: at low thresholds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import log_ndtr


def laws(levels: Sequence[Mapping[str, Any]], variant: str, what: str) -> dict[str, dict[str, float] | None]:
    """The power laws of length, or of segments (beads + 1), below the onset of non-convexity.

    Below the onset every mean of the beads of connected strings is at least one; thresholds without a connected string
    count as below. Both fits are of single strings at the same thresholds.

    Args:
        levels: the levels of `gather`, from low to high thresholds.
        variant: "unmatched" or "matched".
        what: "length" or "beads".

    Returns:
        "connected": the law of the connected strings alone, by least squares; "censored": that of all, as in
        `power_law`. None with connected strings at fewer than three thresholds.
    """
    rows: list[tuple[float, float, bool]] = []
    more = 1 if what == "beads" else 0
    for level in levels:
        found = level[variant]
        if found["beads"] is not None and found["beads"]["mean"] < 1:
            break
        here = [(value, False) for value in (found[what] or {"values": []})["values"]]
        here += [(each[what], True) for each in found["failed"]]
        rows += [(level["threshold"], value + more, failed) for value, failed in here]
    connected = [row for row in rows if not row[2]]
    if len({threshold for threshold, _, _ in connected}) < 3:
        return {"connected": None, "censored": None}
    return {"connected": power_law(*zip(*connected, strict=True)), "censored": power_law(*zip(*rows, strict=True))}


def power_law(at: Sequence[float], values: Sequence[float], censored: Sequence[bool]) -> dict[str, float]:
    """The power law by maximum likelihood: log value = log factor + exponent log at + normal deviation.

    Of a censored observation only the value that it exceeds is known (Tobit): its likelihood is the normal probability
    of more. In factor / deviation, exponent / deviation and 1 / deviation the likelihood is concave (Olsen 1978), and
    Newton's method finds its maximum. Without censored observations it is least squares.

    Args:
        at: positive numbers, such as thresholds.
        values: positive values, or what they exceed.
        censored: which of them are exceeded.

    Returns:
        exponent, its standard error, factor, the deviation of the logarithm, the least and the largest `at`, and the
        numbers of observations and of censored ones.
    """
    x, y, above = np.log(at), np.log(values), np.asarray(censored, bool)
    design = np.stack([np.ones_like(x), x], 1)
    start, *_ = np.linalg.lstsq(design, y, rcond=None)
    deviation = max(float(np.sqrt(np.square(y - design @ start).mean())), 1e-6)
    z, found = np.concatenate([design, -y[:, None]], 1), np.append(start, 1) / deviation
    for _ in range(200):
        if found[2] >= 1e6:  # on the law exactly: there is no largest likelihood
            break
        slope, curvature = _derivatives(found, z, above)
        step = np.linalg.solve(curvature, slope)
        # Halved until the likelihood rises and the deviation is positive.
        size = 1.0
        while size > 1e-9 and not _likelihood(found - size * step, z, above) >= _likelihood(found, z, above):
            size /= 2
        found = found - size * step
        if np.abs(size * step).max() < 1e-10 * np.abs(found).max():
            break
    _, curvature = _derivatives(found, z, above)
    (a, b, h), covariance = found, np.linalg.inv(-curvature)
    by = np.array([0, 1 / h, -b / h**2])
    return {
        "exponent": float(b / h),
        "error": float(np.sqrt(by @ covariance @ by)),
        "factor": float(np.exp(a / h)),
        "deviation": float(1 / h),
        "low": float(min(at)),
        "high": float(max(at)),
        "strings": len(y),
        "censored": int(above.sum()),
    }


def _likelihood(found: np.ndarray, z: np.ndarray, above: np.ndarray) -> float:
    if found[2] <= 0:
        return -np.inf
    u = z @ found
    return float(np.where(above, log_ndtr(u), np.log(found[2]) - u**2 / 2).sum())


def _derivatives(found: np.ndarray, z: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient and the Hessian of the logarithm of the likelihood."""
    u, h = z @ found, found[2]
    # The inverse Mills ratio, density / probability, without underflow.
    mills = np.exp(-(u**2) / 2 - np.log(2 * np.pi) / 2 - log_ndtr(u))
    slope = np.where(above, mills, -u) @ z
    curvature = -(z * np.where(above, mills * (mills + u), 1.0)[:, None]).T @ z
    exact = (~above).sum()
    return slope + np.array([0, 0, exact / h]), curvature - np.diag([0, 0, exact / h**2])
