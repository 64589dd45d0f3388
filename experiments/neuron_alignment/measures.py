"""Measurements beyond loss along curves: ensembles, signatures, planes, exchanges, seeds; and all results of a cell."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.neuron_alignment.cell import FIXED, LINES, Cell
from mcjax import (
    PamConfig,
    PathMetrics,
    bezier,
    ensemble_accuracy,
    evaluate,
    linear,
    match_activations,
    plane,
    reestimate,
    trees,
)
from mcjax.commands.quickstart import summarized
from mcjax.curves import exchanges
from mcjax.landscape import PlaneMetrics, correlation_signature, curve_plane, path_spectrum
from mcjax.runs.tables import mean_and_std
from mcjax.training.batches import evenly_spaced

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
            for name in FIXED:
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

    return {name: cell.parts.numbers(f"signature {name}", partial(measure, name)) for name in FIXED}


def tried_exchanges(cell: Cell) -> dict[str, Any]:
    """How many exchanges of two units lower Q + R, on the line and on the curve of a class, pair by pair.

    If none does, its permutation is locally optimal, as section 4.1.2 has it of matched units.
    """
    settings = cell.settings
    options: dict[str, Any] = {
        "weight_decay": settings.curve.weight_decay,
        "examples": settings.exchange_images,
        "points": settings.exchange_points,
        "batch_size": settings.curve.batch_size,
    }

    def measure(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for of, theta_c in (("line", None), ("curve", cell.fit(name)["theta_c"])):
            tried = exchanges(cell.task, bezier(cell.model.spec), *cell.ends, theta_c, cell.start(name), **options)
            least = np.min([each.min((1, 2)) for each in tried.exchanged.values()], 0)
            found[of] = {"better": tried.better, "objective": tried.objective, "least": least}
            found["number"] = tried.number
        return found

    return {name: cell.parts.numbers(f"exchanges {name}", partial(measure, name)) for name in FIXED}


def seeds(cell: Cell) -> dict[str, Any]:
    """How alike the midpoints of a pair's two curves of different seeds are, pair by pair.

    Correlation is the mean over groups between units of equal index, and matched; loss is the mean train loss of the
    two midpoints, and of the network halfway between them, before and after matching.
    """

    def measure(name: str) -> dict[str, Any]:
        curve, task, P = bezier(cell.model.spec), cell.task, cell.fit(name)["P"]
        first, second = (
            reestimate(task, curve.bind_pairs(*cell.ends, theta_c, P)(jnp.float32(0.5)), **cell.calibration)
            for theta_c in (cell.fit(name)["theta_c"], cell.second(name))
        )
        match = match_activations(task, first, second)
        between = [
            linear(cell.model.spec).bind_pairs(first, second, None, p)(jnp.float32(0.5)) for p in (None, match.P)
        ]
        thetas = [first, second, *(reestimate(task, theta, **cell.calibration) for theta in between)]
        losses = [np.asarray(evaluate(task, theta)[0]["loss"]) for theta in thetas]
        return {
            "by_index": np.mean(list(match.info["before"].values()), 0),
            "matched": np.mean(list(match.info["after"].values()), 0),
            "midpoints": (losses[0] + losses[1]) / 2,
            "between": losses[2],
            "between_matched": losses[3],
        }

    return {name: cell.parts.numbers(f"seeds {name}", partial(measure, name)) for name in FIXED}


def kept_loss(fit: Mapping[str, Any], pam: PamConfig | None) -> list[float]:
    """The train loss in the last epoch of the curve that is kept, of every pair (Table 5).

    A curve half-step of PAM can be refused; then the kept curve is that of the last one that was accepted. Pairs for
    which there is none are left out, or whose permutation was changed after it: no epoch was trained with what is kept.
    """
    loss = np.asarray(fit["history"]["loss"])
    if pam is None:
        return loss[:, -1].tolist()
    epochs = pam.permutation.epochs + pam.curve.epochs
    last = [np.flatnonzero(each) for each in np.asarray(fit["report"]["accepted"])]
    curves = [(own, each[-1] // 2) for own, each in zip(loss, last, strict=True) if len(each) and each[-1] % 2]
    return [float(own[(iteration + 1) * epochs - 1]) for own, iteration in curves]


def epochs_to_plateau(loss: np.ndarray, of: np.ndarray) -> list[float]:
    """The first epoch in which the loss of a class is as low as another class is at the end (Figure 5).

    Args:
        loss: The train loss of every epoch, (pairs, epochs).
        of: That of the other class, whose plateau is the mean over its last tenth.

    Returns:
        An epoch for each pair, from 1; one more than there are epochs if it never is.
    """
    plateau = of[:, -max(1, of.shape[1] // 10) :].mean(1)
    reached = np.concatenate([loss <= plateau[:, None], np.ones((len(loss), 1), bool)], 1)
    return (reached.argmax(1) + 1.0).tolist()


def shape_of(metrics: PathMetrics) -> dict[str, list[float]]:
    """Energy of the test loss in modes of wavenumber 3 and above, place of the lowest accuracy, robust accuracy if any.

    Every value is a list of pairs.
    """
    spectrum = path_spectrum(metrics)
    lowest = metrics.ts[np.asarray(metrics.test_accuracy).argmin(-1)]
    found = {
        "high_modes": np.square(spectrum.magnitude[..., spectrum.wavenumber >= 3]).sum(-1).tolist(),
        "lowest_at": np.asarray(lowest, float).tolist(),
    }
    if (robust := metrics.values.get("test_robust_accuracy")) is not None:
        found |= {"robust_mean": robust.mean(-1).tolist(), "robust_min": robust.min(-1).tolist()}
    return found


def planes(cell: Cell) -> dict[str, Any]:
    """Test loss and accuracy on three planes of the first pair, and the places of curves and networks on them.

    The planes are those of the straight lines (Figures 3, 6 and 7), and of either fitted curve (Figures 4, 12 and 13).
    """
    settings = cell.settings
    task = cell.task.replace(test=evenly_spaced(cell.task.test, settings.plane_images))
    options: dict[str, Any] = {"grid": settings.plane_points, "splits": "test", "mesh": cell.mesh, **cell.calibration}

    def of_lines() -> dict[str, Any]:
        # The x axis is that of the unaligned line.
        theta_1, theta_2 = (cell.path(LINES[0], 0)(jnp.float32(t)) for t in (0, 1))
        matched = cell.path(LINES[1], 0)(jnp.float32(1))
        return _kept(plane(task, theta_1, theta_2, matched, **options), ("theta_1", "theta_2", "P theta_2"))

    def of_curve(name: str) -> dict[str, Any]:
        path, ts = cell.path(name, 0), cell.along(name).ts
        found = curve_plane(task, path, **options)
        x, y = jax.lax.map(lambda t: found.axes.coordinates(path(t)), jnp.asarray(ts))
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
    match, settings, classes, pam = cell.match, cell.settings, {}, {}
    slowest = np.asarray(cell.fit("unaligned")["history"]["loss"])
    for name in settings.classes:
        fit, along = cell.fit(name), cell.along(name)
        kept = kept_loss(fit, settings.pam(name))
        classes[name] = {
            **summarized(along),
            **_summary(shape_of(along)),
            "last_train_loss": mean_and_std(kept) if kept else None,
            "epochs": settings.epochs(name),
        }
        if "report" not in fit:
            reached = epochs_to_plateau(np.asarray(fit["history"]["loss"]), slowest)
            classes[name]["epochs_to_plateau"] = mean_and_std(reached)
        else:
            pam[name] = {key: np.asarray(value).tolist() for key, value in fit["report"].items()}
    combined = {
        name: _summary({of: [each[of] for each in values] for of in values[0]})
        for name, values in ensembles(cell).items()
    }
    planes(cell)  # the page shows them
    return {
        "data": cell.data,
        "known_as": cell.known_as,
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
        "exchanges": tried_exchanges(cell) if settings.exchanges else {},
        "seeds": {name: _summary(each) for name, each in seeds(cell).items()} if settings.two_seeds else {},
    }


def _summary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Means and deviations of named values over pairs."""
    return {name: mean_and_std(each) for name, each in values.items()}
