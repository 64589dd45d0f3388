"""All kinds of paths between the same two networks: straight, constructed, fitted and sampled."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.dropout_stability.measures import Cell
from experiments.dropout_stability.tasks import HALF
from mcjax import bezier, fit_curve, identity_permutation, permute, supervised, trees
from mcjax.constructions import Construction, dropout_path, interpolation_path, narrow_path
from mcjax.curves.polyline import Polyline
from mcjax.strings import sample_string

KINDS = (
    "line", "matched line", "Theorem 1", "Theorem 2", "Theorem 3", "curve", "string", "matched curve", "matched string",
)  # fmt: skip


def paths(cell: Cell) -> dict[str, dict[str, Any]]:
    """Loss and accuracy along all kinds of paths between the two networks."""
    spec, found = cell.problem.model.spec, {}
    for how, end in (("", cell.end(1)), ("matched ", permute(spec, cell.P, cell.end(1)))):
        line = Polyline(trees.stack([cell.end(0), end])).path
        found[f"{how}line"] = cell.parts.numbers(f"path_{how}line", partial(cell.along, line))
    found |= _constructions(cell)
    ends = found["line"]["train_loss"]
    threshold = 1.5 * max(ends[0], ends[-1]) + 0.01
    # The identity instead of None, so that the same programs serve both.
    for how, P in (("", identity_permutation(spec, cell.end(0))), ("matched ", cell.P)):
        found[f"{how}Bezier curve"] = cell.parts.numbers(f"path_{how}curve", partial(_curve, cell, f"{how}curve", P))
        found[f"{how}string"] = cell.parts.numbers(f"path_{how}string", partial(_string, cell, P, threshold))
    return found


def _constructions(cell: Cell) -> dict[str, dict[str, Any]]:
    """The paths of Theorems 1 to 3; Theorem 1 bounds the loss on its path."""
    problem, found = cell.problem, {}
    half = [cell.stable(i, f"searched_{HALF:g}", HALF) for i in range(2)]
    partly = [cell.stable(i, "rates", problem.rates) for i in range(2)]
    narrow = trees.index(cell.trained("narrow", supervised(problem.narrow, problem.data), 1), 0)
    constructions: dict[str, Callable[[], Construction]] = {
        "Theorem 1": lambda: dropout_path(problem.model, half[0], half[1]),
        "Theorem 2": lambda: interpolation_path(problem.model, half[0], half[1]),
        "Theorem 3": lambda: narrow_path(problem.model, partly[0], partly[1], narrow),
    }
    for name, construct in constructions.items():
        found[name] = cell.parts.numbers(f"path_{name}", partial(_constructed, cell, construct))
    found["Theorem 1"]["bound"] = max(each.loss + each.epsilon for each in half)
    return found


def _constructed(cell: Cell, construct: Callable[[], Construction]) -> dict[str, Any]:
    """Loss and accuracy on every segment; on those that leave the function as it is, at the ends alone."""
    construction = construct()
    short = construction.shortened()
    knots = short.polyline.ts.astype(np.float64)
    ts = [0.0]
    for move, start, end in zip(short.moves, knots[:-1], knots[1:], strict=True):
        inside = {"a": 3, "line": 9}.get(move.kind, 0)
        ts += (start + (end - start) * np.arange(1, inside + 2) / (inside + 1)).tolist()
    return {
        **cell.along(short.path, np.unique(np.asarray(ts, np.float32))),
        "knots": knots.tolist(),
        "kinds": [move.kind for move in short.moves],
        "moves": [str(move) for move in short.moves],
        "segments": len(construction.moves),
    }


def _curve(cell: Cell, part: str, P: Any) -> dict[str, Any]:
    """A fitted Bezier curve."""
    problem, key = cell.problem, jax.random.fold_in(cell.key, 3)
    ends = cell.end(0), cell.end(1)
    curve, recorder = bezier(problem.model.spec), cell.parts.recorder(part)
    return cell.along(fit_curve(key, problem.task, curve, *ends, P, problem.curve, recorder=recorder).path)


def _string(cell: Cell, P: Any, threshold: float) -> dict[str, Any]:
    """A string sampled below a threshold of the train loss."""
    problem, key = cell.problem, jax.random.fold_in(cell.key, 4)
    sampled = sample_string(key, problem.task, cell.end(0), cell.end(1), threshold, P, problem.string)
    about = {"beads": sampled.beads, "connected": sampled.connected, "threshold": threshold}
    return cell.along(sampled.path) | about
