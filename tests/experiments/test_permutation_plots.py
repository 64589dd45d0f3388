"""Mergers, moves at constant loss, spectra and counts drawn: what is where, on which scale."""

import numpy as np
from figures import drawn

from experiments.permutation_points.plots import (
    Approached,
    Merger,
    approached,
    eigenvalues,
    growth,
    mergers,
    rearranged,
    spectral_densities,
)
from mcjax.plotting import ALIGNED, UNALIGNED, Series

DISTANCES = np.append(np.logspace(0, -4, 20), 0.0)
LOSS = np.linspace(1e-9, 6e-6, 21)


def test_weights_before_and_after_above_the_loss():
    teacher = np.random.default_rng(0).normal(size=(5, 2))
    panels = [
        Merger("A", (0, 2), teacher, teacher[[1, 1, 2, 3, 4]], DISTANCES, LOSS, 7e-6, 6e-6),
        Merger("B", (2, 3), 2 * teacher, teacher, DISTANCES, LOSS, 7e-6),
    ]
    figure = mergers(panels, "2-5-1")
    above, other, below, last = figure.axes
    assert [text.get_text() for text in above.texts] == list("12345")
    assert [text.get_fontweight() for text in above.texts] == ["bold", "normal", "bold", "normal", "normal"]
    assert above.get_xlim() == other.get_xlim()
    np.testing.assert_allclose(above.lines[0].get_xydata(), [[0, 0], teacher[0]])
    minima, at_zero = below.lines[:2]
    np.testing.assert_allclose(minima.get_xydata(), np.stack([DISTANCES, LOSS], 1)[:-1])
    # The permutation point stands left of all distances.
    np.testing.assert_allclose(at_zero.get_xydata(), [[0.5e-4, 6e-6]])
    assert below.get_xscale() == "log"
    assert [len(axes.lines) for axes in (below, last)] == [4, 3]
    drawn(figure)


def test_classes_have_one_entry_in_the_legend():
    lines = [(f"H = {h}", DISTANCES, LOSS / h, "black", "-") for h in (10, 10, 15)]
    panels = [Approached("A", "loss", lines, logarithmic=True), Approached("B", "accuracy", lines)]
    figure = approached(panels, "MNIST")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["H = 10", "H = 15"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    drawn(figure)


def test_the_way_there_across_and_back():
    figure = rearranged([("relu", np.array([0, 1, 2, 1, 0.0]), np.full(7, 2.0))] * 2, "orders")
    up, across, down = figure.axes[0].lines
    np.testing.assert_allclose(up.get_xydata(), [[0, 0], [0.5, 1], [1, 2]])
    assert set(across.get_ydata()) == {2}
    assert (across.get_xdata()[0], across.get_xdata()[-1]) == (1, 2)
    np.testing.assert_allclose(down.get_ydata(), [2, 1, 0])
    drawn(figure)


def test_eigenvalues_by_sign():
    values = np.array([-1e-3, -1e-12, 0, 1e-11, 1e-5, 2.0])
    figure = eigenvalues([("2-5-1", [values, values[1:]], 1e-9), ("2-5-3", [values], 1e-9)], "toys")
    negative, zero, positive = figure.axes[0].lines[:3]
    assert [list(line.get_ydata()) for line in (negative, zero, positive)] == [[-1e-3], [0, 0, 0], [1e-5, 2]]
    assert figure.axes[0].get_yscale() == "symlog"
    drawn(figure)


def test_densities_and_growth():
    grid = np.linspace(-1, 5, 50)
    lines = [
        Series(name, np.exp(-np.square(grid - i)), color)
        for i, (name, color) in enumerate((("theta", ALIGNED), ("point", UNALIGNED)))
    ]
    figure = spectral_densities(lines, [grid, 2 * grid], "Hessian")
    assert [line.get_xdata()[-1] for line in figure.axes[0].lines[:2]] == [5, 10]
    assert figure.axes[0].get_yscale() == "log"
    drawn(figure, (400, 900))
    ratios = [Series(f"K = {k}", 1 - k / np.array([10, 100, 1000.0]), "black") for k in (1, 2)]
    figure = growth(np.array([10, 100, 1000]), ratios, [np.exp(-1), np.exp(-2)], "counts")
    assert [text.get_text() for text in figure.axes[0].texts] == ["$e^{-1}$: the lemma's", "$e^{-2}$: the lemma's"]
    drawn(figure, (400, 900))
