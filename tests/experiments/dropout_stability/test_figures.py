"""The figures of dropout stability: loss above accuracy, boxes by layer, paths segment by segment, the energy gap."""

import numpy as np
from figures import SMALL, drawn

from experiments.dropout_stability.figures import (
    BESIDE,
    Column,
    chances,
    columns,
    constructed_paths,
    distributions,
    gap_against_width,
)
from mcjax.plotting import ALIGNED, Line


def test_loss_above_accuracy():
    at, ts = np.array([0.1, 0.2, 0.5]), np.linspace(0, 1, 30)
    losses = [[0.1, 0.2, 2.0], [0.3, 0.4, 4.0]]
    panels = [
        Column("best", "share dropped", at, [Line("searched", np.array(losses), 1 - at, ALIGNED)] * 2),
        Column("line", "t", ts, [Line("searched", 1 + ts, ts, ALIGNED)]),
    ]
    figure = columns(panels, "a network")
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
    found = {"layer_cushion": values, "contraction": values, "interlayer_cushion": values, "smoothness": values[1:]}
    figure = distributions({name: each.tolist() for name, each in found.items()}, "VGG11")
    first, *_, last = figure.axes
    assert first.get_yscale() == "log"
    assert [text.get_text() for text in last.get_xticklabels()] == ["2", "3"]
    medians = [
        line.get_ydata()[0] for line in first.lines if len(set(line.get_ydata())) == 1 and line.get_color() == "black"
    ]
    assert all(any(np.isclose(median, each) for each in medians) for median in np.median(values, axis=1))
    drawn(figure)


def test_a_constructed_path_beside_others():
    at, loss = np.array([0, 0.5, 1, 2, 2.5, 3]), np.array([0.1, 0.2, 0.5, 0.5, 0.3, 0.1])
    beside = {"train_loss": [0.1, 2.0, 0.1], "train_accuracy": [1, 0.2, 1], "test_accuracy": [0.9, 0.1, 0.9]}
    path = {
        "ts": (at / 3) ** 2, "knots": (np.arange(4) / 3) ** 2, "train_loss": loss.tolist(),
        "train_accuracy": (1 - loss / 2).tolist(), "test_accuracy": (1 - loss).tolist(),
        "kinds": ["a", "b", "line"], "segments": 5,
    }  # fmt: skip
    figure = constructed_paths({**dict.fromkeys(BESIDE, beside), "Theorem 1": path, "Theorem 2": path}, "MNIST")
    left, middle, right = figure.axes[:3]
    # Knots are at whole numbers, whatever t they have.
    np.testing.assert_allclose(left.lines[0].get_xdata()[[0, 2, 3, 5]], [0, 1, 2, 3], atol=1e-12)
    np.testing.assert_allclose(middle.lines[0].get_ydata(), 100 * (1 - loss / 2))
    np.testing.assert_allclose(right.lines[0].get_ydata(), 100 * (1 - loss))
    np.testing.assert_allclose(left.lines[1].get_xdata(), [0, 1.5, 3])
    colors = [line.get_color() for line in left.lines[5:8]]
    assert len(set(colors)) == 3
    assert left.get_xlim() == (0, 3)
    assert left.get_title("left") == "Theorem 1: 5 segments, 3 of them with something to do"
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[:2] == ["constructed", "straight line"]
    assert "(a): the top moves" in said
    drawn(figure)


def curve(inputs, units, gaps, slope):
    levels = [
        {"units": n, "gap": {"mean": gap}, "promised": {"mean": 2 * gap}} for n, gap in zip(units, gaps, strict=True)
    ]
    return {"inputs": inputs, "ends": "fitted", "levels": levels, "slopes": {"gap": slope, "promised": slope}}


def test_gaps_that_are_zero_are_left_out():
    units, gaps = (2, 4, 8), (0.3, 0.05, 0.0)
    figure = gap_against_width([curve(2, units, gaps, -2.0), curve(4, units, gaps, None)])
    left, right = figure.axes
    gap, bound = left.lines
    np.testing.assert_allclose(gap.get_ydata(), [0.3, 0.05])
    np.testing.assert_allclose(bound.get_ydata(), [0.6, 0.1])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fitted: gap", "fitted: bound"]
    assert [text.get_text() for text in right.get_xticklabels()] == ["2", "4", "8"]
    drawn(figure)


def test_probabilities_by_rate_and_rises_by_width():
    levels = [
        {"width": width, "rates": [{"rate": p, "probability": 1 - p, "rise": p / width} for p in (0.1, 0.5)]}
        for width in (4, 8)
    ]
    left, right = chances(levels).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.9, 0.5])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [0.5 / 4, 0.5 / 8])
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["4 units", "8 units"]
    drawn(chances(levels), SMALL)
