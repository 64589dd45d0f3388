"""The figures, after those of the paper, and the plots that only this study has."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.neuron_alignment.cell import FIXED, LINES, Cell
from experiments.neuron_alignment.measures import planes, signatures
from experiments.study import Drawing
from mcjax import PathMetrics, plotting
from mcjax.commands.pam import color_of, refused
from mcjax.landscape import path_spectrum
from mcjax.plotting import ALIGNED, UNALIGNED, Line, Series
from mcjax.plotting.correlation import Signature, before_and_after, layer_axis, layer_means
from mcjax.plotting.style import legend_below, log_if_wide, mean_and_band, new_figure, style_axes
from mcjax.plotting.training import epoch_axes

CURVE_SIGNATURES = (("curve", UNALIGNED), ("straight line", "0.35"), ("curve, matched to the endpoint", ALIGNED))
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
    for name in dict.fromkeys(cell.data for cell in cells):
        panels = {cell.model.name: _signature(cell) for cell in cells if cell.data == name}
        if len(panels) > 1:
            yield Drawing(f"{name}_signature", signature(panels, name, method="activations"), f"{name}. {text}")


def _over(cell: Cell, title: str) -> str:
    pairs = cell.settings.pairs
    return f"{title}, {pairs} pairs" if pairs > 1 else title


def _look(name: str) -> tuple[str, str]:
    """Colour and line style of a class of paths."""
    style = "-." if "published" in name else "--" if "PAM" in name else ":" if name in LINES else "-"
    return color_of(name), style


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
    figure = curve_signatures(classes, list(cell.match["P"]), _over(cell, title))
    yield Drawing("signatures", figure, "Correlation of the curves' midpoints with their ends (Figure 14).")


def _curves(cell: Cell, title: str) -> Iterator[Drawing]:
    over, settings = _over(cell, title), cell.settings
    along = {name: cell.along(name) for name in (*LINES, *settings.classes)}
    curves = {name: along[name] for name in settings.classes}
    ts = along[LINES[0]].ts

    def lines(of: Mapping[str, PathMetrics], loss: str) -> list[Line]:
        return [Line(name, getattr(m, loss), m.test_accuracy, *_look(name)) for name, m in of.items()]

    figure = plotting.along_paths(ts, lines(curves, "test_loss"), over, loss_split="test")
    yield Drawing("paths", figure, "Test loss and accuracy along the curves (Figure 2).")
    figure = plotting.along_paths(ts, lines(along, "train_loss"), over)
    yield Drawing("lines", figure, "Train loss and test accuracy along straight lines and curves.")
    history = {name: cell.fit(name)["history"] for name in FIXED}
    training = [
        Line(name, np.asarray(each["loss"]), np.asarray(each["accuracy"]), *_look(name))
        for name, each in history.items()
    ]
    yield Drawing("training", training_classes(training, over), "Training the curves (Figures 5, 8 and 9).")
    spectra = {name: path_spectrum(metrics) for name, metrics in curves.items()}
    series = [Series(name, each.magnitude, *_look(name)) for name, each in spectra.items()]
    figure = spectrum(spectra["aligned"].wavenumber, series, over)
    yield Drawing("spectrum", figure, "Fourier transform of the test loss along the curves (Figure 11).")


def _pam(cell: Cell, title: str) -> Iterator[Drawing]:
    over = _over(cell, title)
    fits = {name: cell.fit(name) for name in cell.settings.classes if cell.settings.pam(name)}
    if not fits:
        return
    config = next(iter(cell.settings.pams.values()))
    losses = {name: (np.asarray(fit["history"]["loss"]), color_of(name)) for name, fit in fits.items()}
    figure = plotting.pam_training(losses, (config.permutation.epochs, config.curve.epochs), over)
    yield Drawing("pam", figure, "Train loss over the half-steps of PAM (Figure 10).")
    steps = {}
    for name, fit in fits.items():
        report = {of: np.asarray(values) for of, values in fit["report"].items()}
        not_taken = refused(report["accepted"], report["moved"])
        steps[name] = plotting.HalfSteps(report["objective"], report["proposed"], not_taken, color_of(name))
    yield Drawing("objective", plotting.pam_objective(steps, over), "PAM's objective after every half-step.")


def _planes(cell: Cell, title: str) -> Iterator[Drawing]:
    found, over = planes(cell), f"{title}, first pair"
    for of, label in (("test_loss", "test loss (nats)"), ("test_accuracy", "test accuracy")):
        figure = plotting.plane([[_panel(found["lines"], of, "initial lines")]], over, label=label)
        yield Drawing(f"plane_lines_{of}", figure, f"The plane of the initial lines, {label} (Figures 3, 6 and 7).")
        panels = [_panel(found[name], of, f"{name} curve") for name in FIXED]
        figure = plotting.plane([panels], over, label=label)
        text = f"The planes of the learned curves, {label} (Figures 4, 12 and 13)."
        yield Drawing(f"plane_curves_{of}", figure, text)


def _panel(plane: Mapping[str, Any], of: str, title: str) -> plotting.Plane:
    x, y = np.asarray(plane["x"]), np.asarray(plane["y"])
    # The control point lies out of the picture, as in the paper.
    points = {SIGNS[p["name"]]: (p["x"], p["y"]) for p in plane["points"] if p["name"] in SIGNS}
    curve = np.stack([plane["curve"][axis] for axis in "xy"], 1) if "curve" in plane else None
    return plotting.Plane(title, x, y, np.asarray(plane[of]), points, curve)


def signature(panels: Mapping[str, Signature], title: str, *, method: str | None = None) -> Figure:
    """The mean cross-correlation at each layer before and after matching, one panel a model (Figure 1b).

    Args:
        panels: model -> layer -> correlations (pairs,) before and after; means and deviations over pairs are drawn.
        title: the title of the figure.
        method: the method of matching.
    """
    size = max(4.5, 3.2 * len(panels)), 3.7
    figure, (row,) = new_figure(1, len(panels), size, title, dpi=120, sharey=True)
    matched = f"matched by {method}" if method else "matched"
    for axes, (name, layers) in zip(row, panels.items(), strict=True):
        before_and_after(axes, layers, matched)
        axes.set_title(name, fontsize=10)
    row[0].set_ylabel("mean correlation of paired units")
    legend_below(figure, row[0])
    return figure


def curve_signatures(classes: Mapping[str, Sequence[np.ndarray]], groups: Sequence[str], title: str) -> Figure:
    """The correlation of a curve's midpoint with each endpoint, layer by layer (Figure 14).

    Means and standard deviations over pairs, a row of two panels a class.

    Args:
        classes: class of curves -> correlations ([pairs,] 2 endpoints, layers) of the curve's midpoint, of the
            straight line's, and of the curve's after matching it to the endpoint.
        groups: the names of the layers.
        title: the title of the figure.
    """
    size = 7.5, 0.9 + 2.4 * len(classes)
    figure, rows = new_figure(len(classes), 2, size, title, dpi=120, sharex=True, sharey=True)
    for row, (name, correlations) in zip(rows, classes.items(), strict=True):
        for endpoint, axes in enumerate(row):
            for i, (values, (label, color)) in enumerate(zip(correlations, CURVE_SIGNATURES, strict=True)):
                one = np.asarray(values)[..., endpoint, :].reshape(-1, len(groups))
                layer_means(axes, list(one.T), color, label, i, 3)
            axes.set_title(f"{name}, endpoint {endpoint}", fontsize=10)
            layer_axis(axes, groups)
            if axes not in rows[-1]:
                axes.set_xlabel("")
        row[0].set_ylabel("mean correlation")
    legend_below(figure, rows[0, 0])
    return figure


def training_classes(lines: Sequence[Line], title: str) -> Figure:
    """Loss and accuracy against epoch, mean over the pairs of each class of curves with a band (Figures 5, 8, 9)."""
    figure, (panels,) = new_figure(1, 2, (8.4, 3.7), title, dpi=120)
    for line in lines:
        for axes, values in ((panels[0], line.loss), (panels[1], 100 * np.asarray(line.accuracy))):
            at = np.arange(1, np.shape(values)[-1] + 1)
            mean_and_band(axes, at, values, line.color, line.style, line.label)
    epoch_axes(panels)
    log_if_wide(panels[0], *(line.loss for line in lines))
    legend_below(figure, panels[0])
    return figure


def spectrum(wavenumber: np.ndarray, series: Sequence[Series], title: str, *, of: str = "test loss (nats)") -> Figure:
    """The magnitude of every mode, mean over pairs with a band from the least pair to the greatest (Figure 11).

    Args:
        wavenumber: (modes,).
        series: values ([pairs,] modes) of each class of curves, as `mcjax.landscape.path_spectrum` gives them.
        title: the title of the figure.
        of: the name of the values.
    """
    figure, ((axes,),) = new_figure(1, 1, (6.5, 4.1), title, dpi=120)
    # Zeros, of a constant loss, are below every scale.
    least = min((values[values > 0].min(initial=1) for _, values, *_ in series), default=1)
    for line in series:
        values = np.maximum(np.atleast_2d(line.values), least)
        axes.plot(wavenumber, values.mean(0), line.style, color=line.color, label=line.label, linewidth=1.8)
        if len(values) > 1:
            axes.fill_between(wavenumber, values.min(0), values.max(0), color=line.color, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(yscale="log", xlim=(float(wavenumber[0]), float(wavenumber[-1])))
    style_axes(
        axes, xlabel="wavenumber (oscillations from $t = 0$ to $t = 1$)", ylabel=f"|Fourier coefficient| of {of}"
    )
    legend_below(figure, axes)
    return figure
