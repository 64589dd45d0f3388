"""Measurements beyond loss along curves: ensembles, correlation signatures and planes; and all results of a cell."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.neuron_alignment.cell import LINES, Cell
from mcjax import ensemble_accuracy, evaluate, plane, reestimate, trees
from mcjax.commands.quickstart import summarized
from mcjax.landscape import PlaneMetrics, correlation_signature, curve_plane
from mcjax.runs.tables import mean_and_std

PLANES = {
    "lines": "the plane of theta_1, theta_2 and P theta_2",
    "unaligned": "the plane of the unaligned curve",
    "aligned": "the plane of the aligned curve",
}


def networks(cell: Cell) -> dict[str, Any]:
    """Train and test loss and accuracy of every network."""
    theta = cell.networks["theta"]

    def measure() -> dict[str, Any]:
        both = zip(("train", "test"), evaluate(cell.task, theta), strict=True)
        return {f"{split}_{name}": value for split, each in both for name, value in each.items()}

    return cell.parts.numbers("networks measured", measure)


def ensembles(cell: Cell) -> dict[str, Any]:
    """Accuracy, loss and calibration error of ensembles, pair by pair (Table 3).

    Ensembles are a pair's ends; its ends and the middle of the unaligned or the aligned curve; and its ends and the
    first network of the next pair, three independent networks. Batch statistics of all are re-estimated alike.
    """

    def measure() -> dict[str, Any]:
        pairs = cell.settings.pairs
        members: dict[str, list[trees.Tree]] = {"ends": [], "unaligned": [], "aligned": [], "independent": []}
        for pair in range(pairs):
            ends = [trees.index(end, pair) for end in cell.ends]
            members["ends"].append(trees.stack(ends))
            for name in ("unaligned", "aligned"):
                path = cell.path(name, pair)
                members[name].append(trees.stack([path(jnp.float32(t)) for t in (0, 0.5, 1)]))
            if pairs > 1:
                members["independent"].append(trees.stack([*ends, trees.index(cell.ends[0], (pair + 1) % pairs)]))
        return {name: [_ensemble(cell, thetas) for thetas in each] for name, each in members.items() if each}

    return cell.parts.numbers("ensembles", measure)


def _ensemble(cell: Cell, thetas: trees.Tree) -> dict[str, float]:
    thetas = reestimate(cell.task, thetas, **cell.calibration)
    return {name: float(value) for name, value in ensemble_accuracy(cell.task, thetas)._asdict().items()}


def signatures(cell: Cell) -> dict[str, Any]:
    """Correlations of the curves' midpoints with their ends (Figure 14): kind -> (pairs, 2 ends, groups)."""

    def measure(name: str) -> dict[str, Any]:
        found = correlation_signature(cell.task, cell.path(name), **cell.calibration)
        return {key: getattr(found, key) for key in ("curve", "linear", "matched")}

    return {name: cell.parts.numbers(f"signature {name}", partial(measure, name)) for name in ("unaligned", "aligned")}


def planes(cell: Cell) -> dict[str, Any]:
    """Test loss and accuracy on three planes of the first pair, and the places of curves and networks on them.

    The planes are those of the straight lines (Figures 3, 6 and 7), and of either fitted curve (Figures 4, 12 and 13).
    """
    settings = cell.settings
    task = cell.task.replace(test=jax.tree.map(lambda leaf: leaf[: settings.plane_images], cell.task.test))
    options: dict[str, Any] = {"grid": settings.plane_points, "splits": "test", "mesh": cell.mesh, **cell.calibration}

    def of_lines() -> dict[str, Any]:
        # The x axis is that of the unaligned line.
        theta_1, theta_2 = (cell.path(LINES[0], 0)(jnp.float32(t)) for t in (0, 1))
        matched = cell.path(LINES[1], 0)(jnp.float32(1))
        return _kept(plane(task, theta_1, theta_2, matched, **options), ("theta_1", "theta_2", "P theta_2"))

    def of_curve(name: str) -> dict[str, Any]:
        path, ts = cell.path(name, 0), cell.along(name).ts
        found = curve_plane(task, path, **options)
        x, y = jax.vmap(lambda t: found.axes.coordinates(path(t)))(jnp.asarray(ts))
        end = "theta_2" if name == "unaligned" else "P theta_2"
        return {**_kept(found, ("theta_1", end, "control point")), "curve": {"x": x, "y": y}}

    return {
        name: cell.parts.numbers(f"plane {name}", of_lines if name == "lines" else partial(of_curve, name))
        for name in PLANES
    }


def _kept(found: PlaneMetrics, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in ("x", "y", "test_loss", "test_accuracy")}
    points = [{"name": name, "x": x, "y": y} for name, (x, y) in zip(names, found.points, strict=True)]
    return {**values, "points": points}


def results(cell: Cell) -> dict[str, Any]:
    """Everything that is found of a cell, as results.json holds it."""
    match, classes, pam = cell.match, {}, {}
    for name in cell.settings.classes:
        fit = cell.fit(name)
        last = mean_and_std(np.asarray(fit["history"]["loss"])[:, -1].tolist())
        classes[name] = {**summarized(cell.along(name)), "last_train_loss": last}
        if "report" in fit:
            pam[name] = {key: np.asarray(value).tolist() for key, value in fit["report"].items()}
    combined = {
        name: _summary({of: [each[of] for each in values] for of in values[0]})
        for name, values in ensembles(cell).items()
    }
    planes(cell)  # the page shows them
    return {
        "data": cell.data,
        "model": cell.model.name,
        "parameters": trees.parameter_count(trees.index(cell.ends[0], 0)),
        "networks": _summary(networks(cell)),
        "match": {
            group: _summary({"before": match["before"][group], "after": match["after"][group]}) for group in match["P"]
        },
        "lines": {name: summarized(cell.along(name)) for name in LINES},
        "classes": classes,
        "pam": pam,
        "ensembles": combined,
        "signatures": signatures(cell),
    }


def _summary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Means and deviations of named values over pairs."""
    return {name: mean_and_std(each) for name, each in values.items()}
