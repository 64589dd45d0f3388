"""Fourier spectra of the loss along curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcjax.plotting.style import SMALL, Series, legend_below, plain


def spectrum(wavenumber: np.ndarray, series: Sequence[Series], title: str, *, of: str = "test loss (nats)") -> Figure:
    """The magnitude of every mode, mean over pairs with a band from minimum to maximum (Neuron Alignment, Figure 11).

    Args:
        wavenumber: Oscillations from t = 0 to t = 1, (modes,).
        series: Magnitudes of each class of curves, ([pairs,] modes), from `mcjax.landscape.spectrum`.
        title: The title of the figure.
        of: The name of the transformed quantity, for the label.
    """
    figure = Figure(figsize=(6.5, 4.1), **SMALL)
    axes = figure.subplots()
    # A constant loss has zero magnitudes, which a logarithmic scale cannot show.
    least = min((values[values > 0].min(initial=1) for _, values, *_ in series), default=1)
    for line in series:
        values = np.maximum(np.atleast_2d(line.values), least)
        axes.plot(wavenumber, values.mean(0), line.style, color=line.color, label=line.label, linewidth=1.8)
        if len(values) > 1:
            axes.fill_between(wavenumber, values.min(0), values.max(0), color=line.color, alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.set_xlim(float(wavenumber[0]), float(wavenumber[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("wavenumber (oscillations from $t = 0$ to $t = 1$)")
    axes.set_ylabel(f"|Fourier coefficient| of {of}")
    plain(axes)
    legend_below(figure, axes)
    figure.suptitle(title, fontsize=11)
    return figure
