"""The figures of the neuron-alignment study, after those of the paper."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.neuron_alignment import measures
from experiments.neuron_alignment.cell import LINES, Cell
from mcjax import plotting
from mcjax.commands.pam import color_of
from mcjax.landscape import spectrum
from mcjax.runs.folder import RunFolder


def draw(run: RunFolder, cell: Cell) -> list[dict[str, str]]:
    """Draw every figure of a cell into the run folder; their files and captions."""
    settings, title = cell.settings, cell.name.replace("_", ", ")
    over = f"{title}, {settings.pairs} pairs" if settings.pairs > 1 else title
    match = {group: np.asarray(p) for group, p in cell.match["P"].items()}
    group = next(iter(match))
    before = np.asarray(cell.match["correlation"][group])
    signature = _signature(cell)
    along = {name: cell.along(name) for name in (*LINES, *settings.classes)}
    curves = {name: along[name] for name in settings.classes}
    history = {name: {of: np.asarray(v) for of, v in cell.fit(name)["history"].items()} for name in curves}
    planes, found = measures.planes(cell), measures.signatures(cell)
    spectra = {name: spectrum(metrics) for name, metrics in curves.items()}

    figures: dict[str, tuple[Any, str]] = {
        "correlation": (
            plotting.correlation(
                before, before[:, match[group][0]], signature, title, group=group, method="activations"
            ),
            "Cross-correlation of one layer of the first pair, and its mean at every layer (Figure 1).",
        ),
        "paths": (
            plotting.along_paths(
                along[LINES[0]].ts,
                [plotting.Line(name, m.test_loss, m.test_accuracy, *_look(name)) for name, m in curves.items()],
                over,
                loss_of="test",
            ),
            "Test loss and accuracy along the curves (Figure 2).",
        ),
        "lines": (
            plotting.along_paths(
                along[LINES[0]].ts,
                [plotting.Line(name, m.train_loss, m.test_accuracy, *_look(name)) for name, m in along.items()],
                over,
            ),
            "Train loss and test accuracy along straight lines and curves.",
        ),
        "training": (
            plotting.training_classes(
                [
                    plotting.Line(name, each["loss"], each["accuracy"], *_look(name))
                    for name, each in history.items()
                    if not name.startswith("PAM")
                ],
                over,
            ),
            "Training the curves (Figures 5, 8 and 9).",
        ),
        "spectrum": (
            plotting.spectrum(
                spectra["aligned"].wavenumber,
                [plotting.Series(name, each.magnitude, *_look(name)) for name, each in spectra.items()],
                over,
            ),
            "Fourier transform of the test loss along the curves (Figure 11).",
        ),
        "signatures": (
            plotting.curve_signatures(
                {
                    name: [np.asarray(values[kind]) for kind in ("curve", "linear", "matched")]
                    for name, values in found.items()
                },
                list(match),
                over,
            ),
            "Correlation of the curves' midpoints with their ends (Figure 14).",
        ),
    }
    if settings.pam is not None:
        reports = {name: cell.fit(name)["report"] for name in curves if name.startswith("PAM")}
        steps = {}
        for name, report in reports.items():
            objective, proposed, accepted = (np.asarray(report[of]) for of in ("objective", "proposed", "accepted"))
            steps[name] = plotting.HalfSteps(objective, proposed, accepted, color_of(name))
        figures["pam"] = (
            plotting.alternating_training(
                {name: (history[name]["loss"], color_of(name)) for name in reports},
                (settings.pam.permutation_epochs, settings.pam.epochs),
                over,
            ),
            "Train loss over the half-steps of PAM (Figure 10).",
        )
        figures["objective"] = (plotting.alternation(steps, over), "PAM's objective after every half-step.")
    for of, label in (("test_loss", "test loss (nats)"), ("test_accuracy", "test accuracy")):
        panels = [_panel(planes["lines"], of, "initial lines")]
        figures[f"plane_lines_{of}"] = (
            plotting.plane([panels], f"{title}, first pair", of=label),
            f"The plane of the initial lines, {label} (Figures 3, 6 and 7).",
        )
        panels = [_panel(planes[name], of, f"{name} curve") for name in ("unaligned", "aligned")]
        figures[f"plane_curves_{of}"] = (
            plotting.plane([panels], f"{title}, first pair", of=label),
            f"The planes of the learned curves, {label} (Figures 4, 12 and 13).",
        )
    return [
        _written(run, f"{cell.name}_{name}", figure, f"{title}. {text}") for name, (figure, text) in figures.items()
    ]


def draw_together(run: RunFolder, cells: Iterable[Cell]) -> list[dict[str, str]]:
    """Draw what the architectures on one data set are compared in."""
    of_data: dict[str, dict[str, Any]] = {}
    for cell in cells:
        of_data.setdefault(cell.data.name, {})[cell.model.name] = _signature(cell)
    text = "Mean cross-correlation of units before and after matching, layer by layer (Figure 1b)."
    return [
        _written(run, f"{name}_signature", plotting.signature(panels, name, method="activations"), f"{name}. {text}")
        for name, panels in of_data.items()
        if len(panels) > 1
    ]


def _signature(cell: Cell) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean correlation of paired units before and after matching, at every layer of every pair."""
    before, after = cell.match["before"], cell.match["after"]
    return {group: (np.asarray(before[group]), np.asarray(after[group])) for group in cell.match["P"]}


def _written(run: RunFolder, name: str, figure: Figure, caption: str) -> dict[str, str]:
    return {"file": run.figure(name, figure).name, "caption": caption}


def _look(name: str) -> tuple[str, str]:
    """Colour and line style of a class of paths."""
    return color_of(name), "--" if name.startswith("PAM") else ":" if name in LINES else "-"


SIGNS = {"theta_1": r"$\theta_1$", "theta_2": r"$\theta_2$", "P theta_2": r"$P\theta_2$"}


def _panel(plane: dict[str, Any], of: str, title: str) -> plotting.Plane:
    x, y = np.asarray(plane["x"]), np.asarray(plane["y"])
    # The control point lies out of the picture, as in the paper.
    points = {SIGNS[p["name"]]: (p["x"], p["y"]) for p in plane["points"] if p["name"] in SIGNS}
    curve = np.stack([plane["curve"][axis] for axis in "xy"], 1) if "curve" in plane else None
    return plotting.Plane(title, x, y, np.asarray(plane[of]), points, curve)
