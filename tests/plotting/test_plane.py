"""Planes drawn: levels that are dense where the values are best, one scale, the curve and its points."""

import numpy as np
import pytest
from figures import SMALL, drawn

from mcjax import plotting
from mcjax.plotting.plane import contour_levels

X, Y = np.linspace(-1, 3, 21), np.linspace(-1, 2, 16)
POINTS = {r"$\theta_1$": (0.0, 0.0), r"$\theta_2$": (2.0, 0.0), r"$\theta_c$": (1.0, 1.9)}
CURVE = np.array([[0.0, 0.0], [1.0, 0.9], [2.0, 0.0]])


def bowl(lowest, steep=1.0):
    return lowest + steep * ((X[None] - 1) ** 2 + Y[:, None] ** 2)


@pytest.mark.parametrize(("lowest", "limit"), [(0.0123, 4.0), (1.5, 80.0), (2.3, 2.31)])
def test_levels_are_geometric_in_the_distance_to_the_best(lowest, limit):
    values = np.append(np.linspace(lowest, 3 * limit, 1000), np.inf)
    levels = contour_levels(values, limit, 12)
    span = limit - lowest
    expected = lowest + span * (1 / 60) ** np.linspace(1, 0, 11)
    assert len(levels) == 12
    assert levels[0] <= lowest
    np.testing.assert_allclose(levels[1:], expected, atol=0.06 * span, rtol=0)
    np.testing.assert_allclose(levels[1:] - lowest, expected - lowest, rtol=0.2)
    assert (np.diff(levels) > 0).all()
    mirrored = contour_levels(-values, -limit, 12, highest=True)
    np.testing.assert_array_equal(mirrored, -levels[::-1])


def test_levels_of_little_are_still_increasing():
    for values in (np.full(9, 0.7), np.full(9, np.nan), np.zeros(4), np.array([1e4, 1e4 + 1e-6])):
        levels = contour_levels(values, None, 12)
        assert len(levels) >= 2
        assert (np.diff(levels) > 0).all()


def test_by_default_a_quarter_of_the_points_is_beyond_the_scale():
    values = np.geomspace(1, 1e6, 1001)
    levels = contour_levels(values, None, 12)
    np.testing.assert_allclose((values > levels[-1]).mean(), 0.25, atol=0.01)


def test_all_planes_share_a_scale_and_show_curve_and_points():
    rows = [
        [
            plotting.Plane(f"{name}, {kind}", X, Y, bowl(a), POINTS, CURVE)
            for kind, a in (("unaligned", 1), ("aligned", 2))
        ]
        for name in ("one", "two")
    ]
    figure = plotting.plane(rows, "a title")
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == [one.title for row in rows for one in row]
    scales = {tuple(axes.collections[0].levels) for axes in panels}
    assert len(scales) == 1
    for axes in panels:
        curve, *marks = axes.lines
        np.testing.assert_allclose(np.transpose(curve.get_data()), CURVE)
        np.testing.assert_allclose([np.ravel(mark.get_data()) for mark in marks], list(POINTS.values()))
        assert [text.get_text() for text in axes.texts] == list(POINTS)
        assert axes.get_aspect() == 1
    assert bar.get_ylabel() == "test loss (nats)"
    assert [float(label.get_text()) for label in bar.get_yticklabels()] == list(next(iter(scales)))
    drawn(figure, SMALL)
    for axes in panels:
        for text in axes.texts:
            box, frame = text.get_window_extent(), axes.get_window_extent()
            assert box.y0 >= frame.y0 - 1
            assert box.y1 <= frame.y1 + 1


def test_accuracies_are_light_where_high_in_per_cent():
    plane = plotting.Plane("one", X, Y, np.clip(0.9 - 0.1 * bowl(0), 0, 1), POINTS)
    figure = plotting.plane([[plane]], "a title", label="test accuracy")
    axes, bar = figure.axes
    filled = axes.collections[0]
    assert bar.get_ylabel() == "test accuracy (%)"
    assert filled.levels[-1] >= 90
    low, high = (np.dot(filled.cmap(filled.norm(value))[:3], (0.299, 0.587, 0.114)) for value in (10, 89.9))
    assert high > low + 0.4


def test_values_that_are_not_finite_and_flat_planes_are_drawn():
    values = bowl(1)
    values[0, 0], values[-1, -1] = np.inf, np.nan
    thin = plotting.Plane("thin", X, Y / 50, values)
    figure = plotting.plane([[thin]], "a title", limit=3.0)
    assert figure.axes[0].get_aspect() == "auto"
    np.testing.assert_allclose(figure.axes[0].collections[0].levels[-1], 3, rtol=0.05)
    drawn(figure, SMALL)
