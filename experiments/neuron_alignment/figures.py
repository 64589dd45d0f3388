"""The figures, after those of the paper."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.neuron_alignment import plots
from experiments.neuron_alignment.cell import LINES, Cell
from experiments.neuron_alignment.measures import planes, signatures
from experiments.study import Drawing
from mcjax import PathMetrics, plotting
from mcjax.commands.pam import color_of
from mcjax.landscape import spectrum

SIGNS = {"theta_1": r"$\theta_1$", "theta_2": r"$\theta_2$", "P theta_2": r"$P\theta_2$"}


def draw(cell: Cell) -> Iterator[Drawing]:
    """The figures of one cell."""
    title = cell.name.replace("_", ", ")
    for draw_some in (_correlation, _curves, _signatures, _pam, _planes):
        for name, figure, caption in draw_some(cell, title):
            yield Drawing(f"{cell.name}_{name}", figure, f"{title}. {caption}")


def draw_together(cells: Sequence[Cell]) -> Iterator[Drawing]:
    """The figures that compare the architectures on one data set."""
    text = "Mean cross-correlation of units before and after matching, layer by layer (Figure 1b)."
    for name in dict.fromkeys(cell.data.name for cell in cells):
        panels = {cell.model.name: _signature(cell) for cell in cells if cell.data.name == name}
        if len(panels) > 1:
            yield Drawing(f"{name}_signature", plots.signature(panels, name, method="activations"), f"{name}. {text}")


def _over(cell: Cell, title: str) -> str:
    pairs = cell.settings.pairs
    return f"{title}, {pairs} pairs" if pairs > 1 else title


def _look(name: str) -> tuple[str, str]:
    """Colour and line style of a class of paths."""
    return color_of(name), "--" if name.startswith("PAM") else ":" if name in LINES else "-"


def _signature(cell: Cell) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean correlation of paired units before and after matching, at every layer of every pair."""
    before, after = cell.match["before"], cell.match["after"]
    return {group: (np.asarray(before[group]), np.asarray(after[group])) for group in cell.match["P"]}


def _correlation(cell: Cell, title: str) -> Iterator[Drawing]:
    match, group = cell.match["P"], next(iter(cell.match["P"]))
    before = np.asarray(cell.match["correlation"][group])
    figure = plotting.correlation(
        before, before[:, np.asarray(match[group])[0]], _signature(cell), title, group=group, method="activations"
    )
    text = "Cross-correlation of one layer of the first pair, and its mean at every layer (Figure 1)."
    yield Drawing("correlation", figure, text)


def _signatures(cell: Cell, title: str) -> Iterator[Drawing]:
    classes = {
        name: [np.asarray(values[kind]) for kind in ("curve", "linear", "matched")]
        for name, values in signatures(cell).items()
    }
    figure = plots.curve_signatures(classes, list(cell.match["P"]), _over(cell, title))
    yield Drawing("signatures", figure, "Correlation of the curves' midpoints with their ends (Figure 14).")


def _curves(cell: Cell, title: str) -> Iterator[Drawing]:
    over, settings = _over(cell, title), cell.settings
    along = {name: cell.along(name) for name in (*LINES, *settings.classes)}
    curves = {name: along[name] for name in settings.classes}
    ts = along[LINES[0]].ts

    def lines(of: Mapping[str, PathMetrics], loss: str) -> list[plotting.Line]:
        return [plotting.Line(name, getattr(m, loss), m.test_accuracy, *_look(name)) for name, m in of.items()]

    figure = plotting.along_paths(ts, lines(curves, "test_loss"), over, loss_split="test")
    yield Drawing("paths", figure, "Test loss and accuracy along the curves (Figure 2).")
    figure = plotting.along_paths(ts, lines(along, "train_loss"), over)
    yield Drawing("lines", figure, "Train loss and test accuracy along straight lines and curves.")
    history = {name: cell.fit(name)["history"] for name in curves if not name.startswith("PAM")}
    training = [
        plotting.Line(name, np.asarray(each["loss"]), np.asarray(each["accuracy"]), *_look(name))
        for name, each in history.items()
    ]
    yield Drawing("training", plots.training_classes(training, over), "Training the curves (Figures 5, 8 and 9).")
    spectra = {name: spectrum(metrics) for name, metrics in curves.items()}
    series = [plotting.Series(name, each.magnitude, *_look(name)) for name, each in spectra.items()]
    figure = plots.spectrum(spectra["aligned"].wavenumber, series, over)
    yield Drawing("spectrum", figure, "Fourier transform of the test loss along the curves (Figure 11).")


def _pam(cell: Cell, title: str) -> Iterator[Drawing]:
    config, over = cell.settings.pam, _over(cell, title)
    if config is None:
        return
    fits = {name: cell.fit(name) for name in cell.settings.classes if name.startswith("PAM")}
    losses = {name: (np.asarray(fit["history"]["loss"]), color_of(name)) for name, fit in fits.items()}
    figure = plotting.pam_training(losses, (config.permutation_epochs, config.epochs), over)
    yield Drawing("pam", figure, "Train loss over the half-steps of PAM (Figure 10).")
    steps = {}
    for name, fit in fits.items():
        objective, proposed, accepted = (np.asarray(fit["report"][of]) for of in ("objective", "proposed", "accepted"))
        steps[name] = plotting.HalfSteps(objective, proposed, accepted, color_of(name))
    yield Drawing("objective", plotting.pam_objective(steps, over), "PAM's objective after every half-step.")


def _planes(cell: Cell, title: str) -> Iterator[Drawing]:
    found, over = planes(cell), f"{title}, first pair"
    for of, label in (("test_loss", "test loss (nats)"), ("test_accuracy", "test accuracy")):
        figure = plotting.plane([[_panel(found["lines"], of, "initial lines")]], over, label=label)
        yield Drawing(f"plane_lines_{of}", figure, f"The plane of the initial lines, {label} (Figures 3, 6 and 7).")
        panels = [_panel(found[name], of, f"{name} curve") for name in ("unaligned", "aligned")]
        figure = plotting.plane([panels], over, label=label)
        text = f"The planes of the learned curves, {label} (Figures 4, 12 and 13)."
        yield Drawing(f"plane_curves_{of}", figure, text)


def _panel(plane: Mapping[str, Any], of: str, title: str) -> plotting.Plane:
    x, y = np.asarray(plane["x"]), np.asarray(plane["y"])
    # The control point lies out of the picture, as in the paper.
    points = {SIGNS[p["name"]]: (p["x"], p["y"]) for p in plane["points"] if p["name"] in SIGNS}
    curve = np.stack([plane["curve"][axis] for axis in "xy"], 1) if "curve" in plane else None
    return plotting.Plane(title, x, y, np.asarray(plane[of]), points, curve)
