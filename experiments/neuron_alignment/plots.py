"""The plots of the figures that only this study has: correlation signatures, training by class, Fourier spectra."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcjax.plotting import ALIGNED, UNALIGNED, Line, Series
from mcjax.plotting.correlation import Signature, before_and_after, layer_axis, layer_means
from mcjax.plotting.style import legend_below, log_if_wide, mean_and_band, new_figure, plain
from mcjax.plotting.training import epoch_axes

CURVE_SIGNATURES = (("curve", UNALIGNED), ("straight line", "0.35"), ("curve, matched to the endpoint", ALIGNED))


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
    for row, (name, signatures) in zip(rows, classes.items(), strict=True):
        for endpoint, axes in enumerate(row):
            for i, (values, (label, color)) in enumerate(zip(signatures, CURVE_SIGNATURES, strict=True)):
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
        for axes, values in ((panels[0], line.loss), (panels[1], 100 * line.accuracy)):
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
        series: values ([pairs,] modes) of each class of curves, as `mcjax.landscape.spectrum` gives them.
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
    plain(axes, xlabel="wavenumber (oscillations from $t = 0$ to $t = 1$)", ylabel=f"|Fourier coefficient| of {of}")
    legend_below(figure, axes)
    return figure
