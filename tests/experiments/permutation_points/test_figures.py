"""Mergers, moves at constant loss, spectra and counts: positions and scales."""

import numpy as np
from figures import drawn

from experiments.permutation_points.figures import Approach, approaches, mergers, rearranged
from experiments.permutation_points.spectrum_figures import densities, eigenvalues, growth

DISTANCES = np.append(np.logspace(0, -4, 20), 0.0)
LOSS = np.linspace(1e-9, 6e-6, 21)


def test_weights_before_and_after_above_the_loss():
    teacher = np.random.default_rng(0).normal(size=(5, 2))

    def path(pair, teacher, point):
        both = {"teacher": teacher.tolist(), "at_point": point.tolist()}
        return {"pair": pair, "distances": DISTANCES.tolist(), "loss": LOSS.tolist(), "barrier": 7e-6, **both}

    paths = [path([0, 2], teacher, teacher[[1, 1, 2, 3, 4]]), path([2, 3], 2 * teacher, teacher)]
    figure = mergers(paths, "2-5-1")
    above, other, below, last = figure.axes
    assert [text.get_text() for text in above.texts] == list("12345")
    assert [text.get_fontweight() for text in above.texts] == ["bold", "normal", "bold", "normal", "normal"]
    for axes, vectors in ((above, teacher), (other, 2 * teacher)):
        low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
        assert (low < vectors).all()
        assert (vectors < high).all()
        np.testing.assert_allclose(*(high - low))
    assert [axes.get_title("left") for axes in (above, other)] == ["A: units 1 and 3", "B: units 3 and 4"]
    np.testing.assert_allclose(above.lines[0].get_xydata(), [[0, 0], teacher[0]])
    minima, at_zero, barrier, published = below.lines
    np.testing.assert_allclose(minima.get_xydata(), np.stack([DISTANCES, LOSS], 1)[:-1])
    # The permutation point stands left of all distances.
    np.testing.assert_allclose(at_zero.get_xydata(), [[0.5e-4, 6e-6]])
    assert (barrier.get_ydata()[0], published.get_ydata()[0]) == (7e-6, 6e-6)
    assert below.get_xscale() == "log"
    assert [len(axes.lines) for axes in (below, last)] == [4, 4]
    drawn(figure)


def test_classes_have_one_entry_in_the_legend():
    lines = [(f"H = {h}", DISTANCES, LOSS / h, "black", "-") for h in (10, 10, 15)]
    figure = approaches([Approach("A", "loss", lines, logarithmic=True), Approach("B", "accuracy", lines)], "MNIST")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["H = 10", "H = 15"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    drawn(figure)


def test_the_way_there_across_and_back():
    toy = {"paths": [{"along": [0, 1, 2, 1, 0.0], "exchange": {"loss": [2.0] * 7}}]}
    figure = rearranged({"relu": toy, "tanh": toy})
    up, across, down = figure.axes[0].lines
    np.testing.assert_allclose(up.get_xydata(), [[0, 0], [0.5, 1], [1, 2]])
    assert set(across.get_ydata()) == {2}
    assert (across.get_xdata()[0], across.get_xdata()[-1]) == (1, 2)
    np.testing.assert_allclose(down.get_ydata(), [2, 1, 0])
    drawn(figure)


def test_eigenvalues_by_sign():
    values = [-1e-3, -1e-12, 0, 1e-11, 1e-5, 2.0]
    toys = [
        {"outputs": outputs, "eigenvalues": each, "zero_tolerance": 1e-9}
        for outputs, each in ((1, values), (1, values[1:]), (3, values))
    ]
    figure = eigenvalues(toys)
    assert [axes.get_title("left") for axes in figure.axes] == ["2-5-1", "2-5-3"]
    negative, zero, positive = figure.axes[0].lines[:3]
    assert [list(line.get_ydata()) for line in (negative, zero, positive)] == [[-1e-3], [0, 0, 0], [1e-5, 2]]
    assert figure.axes[0].get_yscale() == "symlog"
    drawn(figure)


def test_densities_and_growth():
    grid = np.linspace(-1, 5, 50)
    at = {
        name: {"grid": (i + 1) * grid, "density": np.exp(-np.square(grid - i))}
        for i, name in enumerate(("theta", "point"))
    }
    figure = densities({"at": at, "parameters": 1000, "width": 4})
    assert [line.get_xdata()[-1] for line in figure.axes[0].lines[:2]] == [5, 10]
    assert figure.axes[0].get_yscale() == "log"
    drawn(figure, (400, 900))
    large = [10, 100, 1000]
    found = [{"order": k, "ratio": [1 - k / n for n in large]} for k in (1, 2)]
    figure = growth({"large": large, "growth": found})
    assert [text.get_text() for text in figure.axes[0].texts] == ["$e^{-1}$: the lemma's", "$e^{-2}$: the lemma's"]
    drawn(figure, (400, 900))
