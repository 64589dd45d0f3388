"""Dropout and noise stability drawn, and paths segment by segment."""

import numpy as np
from figures import SMALL, drawn

from mcjax import plotting


def series(values):
    return [plotting.Series("searched", np.atleast_2d(values), plotting.ALIGNED)]


def test_loss_above_accuracy():
    at, ts = np.array([0.1, 0.2, 0.5]), np.linspace(0, 1, 30)
    losses = [[0.1, 0.2, 2.0], [0.3, 0.4, 4.0]]
    panels = [
        plotting.Against("best", "share dropped", at, series(losses) * 2, series(1 - at) * 2),
        plotting.Against("line", "t", ts, series(1 + ts), series(ts)),
    ]
    figure = plotting.columns(panels, "a network")
    loss, line, accuracy, _ = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.2, 0.3, 3.0])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [90, 80, 50])
    assert (loss.get_yscale(), line.get_yscale()) == ("log", "linear")
    assert accuracy.get_xlabel() == "share dropped"
    assert loss.get_legend() is not None
    assert line.get_legend() is None
    drawn(figure)


def test_boxes_by_layer():
    values = np.random.default_rng(0).uniform(0.1, 1, (3, 50))
    figure = plotting.distributions([("layer cushion", (1, 2, 3), values), ("smoothness", (2, 3), values[1:])], "VGG11")
    first, second = figure.axes
    assert first.get_yscale() == "log"
    assert [text.get_text() for text in second.get_xticklabels()] == ["2", "3"]
    medians = [
        line.get_ydata()[0] for line in first.lines if len(set(line.get_ydata())) == 1 and line.get_color() == "black"
    ]
    assert all(any(np.isclose(median, each) for each in medians) for median in np.median(values, axis=1))
    drawn(figure)


def test_a_constructed_path_beside_others():
    at, loss = np.array([0, 0.5, 1, 2, 2.5, 3]), np.array([0.1, 0.2, 0.5, 0.5, 0.3, 0.1])
    beside = [("straight line", np.array([0.1, 2.0, 0.1]), np.array([0.9, 0.1, 0.9]), plotting.UNALIGNED, "-")]
    path = plotting.Constructed("Theorem 1", at, loss, 1 - loss, ("a", "b", "line"), beside)
    figure = plotting.constructed_paths([path, path], "MNIST")
    left, right = figure.axes[:2]
    np.testing.assert_allclose(left.lines[0].get_xdata(), at)
    np.testing.assert_allclose(right.lines[0].get_ydata(), 100 * (1 - loss))
    np.testing.assert_allclose(left.lines[1].get_xdata(), [0, 1.5, 3])
    colors = [line.get_color() for line in left.lines[2:5]]
    assert len(set(colors)) == 3
    assert left.get_xlim() == (0, 3)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[:2] == ["constructed", "straight line"]
    assert "(a): the top moves" in said
    drawn(figure)


def test_gaps_that_are_zero_are_left_out():
    units, gaps = np.array([2, 4, 8]), np.array([[0.4, 0.2], [0.1, 0.0], [0.0, 0.0]])
    figure = plotting.gap_against_width(units, gaps, -2.0, "a gap")
    (axes,) = figure.axes
    mean = next(line for line in axes.lines if line.get_label() == "mean of pairs")
    np.testing.assert_allclose(mean.get_ydata(), [0.3, 0.05])
    fitted = next(line for line in axes.lines if line.get_label() == "slope -2.00")
    np.testing.assert_allclose(fitted.get_ydata()[1] / fitted.get_ydata()[0], 0.25)
    drawn(figure, SMALL)
    assert len(plotting.gap_against_width(units, gaps, None, "a gap").axes[0].lines) == 3
