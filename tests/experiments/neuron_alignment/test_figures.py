"""Plots of neuron alignment: signatures of layers and of curves, training by class, spectra."""

import statistics

import numpy as np
from figures import SMALL, drawn, edges

from experiments.neuron_alignment import figures
from experiments.neuron_alignment.figures import signature, spectrum, training_classes
from mcjax import plotting


def bars(axes):
    """Means and deviations of every line of a panel, by its label."""
    found = {}
    for container in axes.containers:
        points, _, (errors,) = container.lines
        half = [float(s[1, 1] - s[0, 1]) / 2 for s in errors.get_segments()]
        found[container.get_label()] = (np.float64(points.get_ydata()), np.array(half))
    return found


def test_signature_draws_mean_and_deviation_over_pairs_a_panel_a_model():
    rng = np.random.default_rng(0)
    panels = {
        name: {f"layer_{i}": tuple(rng.uniform(-0.1, 1, (2, 3))) for i in range(layers)}
        for name, layers in (("small", 3), ("deep", 18))
    }
    figure = signature(panels, "a title", method="activations")
    assert [axes.get_title() for axes in figure.axes] == ["small", "deep"]
    for axes, layers in zip(figure.axes, panels.values(), strict=True):
        found = bars(axes)
        assert list(found) == ["as trained", "matched by activations"]
        for which, (means, half) in enumerate(found.values()):
            np.testing.assert_allclose(means, [pair[which].mean() for pair in layers.values()])
            np.testing.assert_allclose(half, [sample_deviation(pair[which]) for pair in layers.values()], atol=1e-12)
    drawn(figure, SMALL)
    small, deep = figure.axes
    assert [label.get_text() for label in small.get_xticklabels()] == ["layer_0", "layer_1", "layer_2"]
    assert deep.get_xlabel() == "layer"
    at = {int(tick): label.get_text() for tick, label in zip(deep.get_xticks(), deep.get_xticklabels(), strict=True)}
    assert all(text == str(tick + 1) for tick, text in at.items())


def sample_deviation(values):
    """In the plainest way; there is none of one value."""
    return statistics.stdev(np.ravel(values).tolist()) if np.size(values) > 1 else 0


def test_curve_signatures_draw_two_endpoints_a_class():
    drawn(curve_signatures(()), SMALL)
    curve_signatures((3,))


def curve_signatures(pairs):
    """The figure of some pairs of networks, with means and deviations as given."""
    rng = np.random.default_rng(1)
    classes = {name: rng.uniform(-0.2, 1, (3, *pairs, 2, 4)) for name in ("unaligned", "aligned")}
    figure = figures.curve_signatures(classes, [f"Conv_{i}" for i in range(4)], "a title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"{name}, endpoint {end}" for name in classes for end in (0, 1)]
    for number, axes in enumerate(figure.axes):
        values = list(classes.values())[number // 2][..., number % 2, :].reshape(3, -1, 4)
        for (means, half), expected in zip(bars(axes).values(), values, strict=True):
            np.testing.assert_allclose(means, expected.mean(0))
            np.testing.assert_allclose(half, [sample_deviation(each) for each in expected.T], atol=1e-12)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["curve", "straight line", "curve, matched to the endpoint"]
    assert len({line.get_linestyle() for line in figure.axes[0].lines if line.get_marker() in ("o", "s", "^")}) == 3
    return figure


def test_training_classes_draw_one_mean_and_band_a_class():
    values = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 6))
    lines = [
        plotting.Line("unaligned", values[0], 1 - values[0], plotting.UNALIGNED, "--"),
        plotting.Line("aligned", values[1], 1 - values[1], plotting.ALIGNED),
    ]
    figure = training_classes(lines, "a title")
    left, right = figure.axes
    for axes, drawn_as in ((left, values), (right, 100 * (1 - values))):
        for line, band, expected in zip(axes.lines, axes.collections, drawn_as, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))
            np.testing.assert_allclose(line.get_ydata(), expected.mean(0))
            np.testing.assert_allclose(edges(band)[1], (expected.mean(0) + expected.std(0, ddof=1)).max())
    assert [line.get_linestyle() for line in left.lines] == ["--", "-"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unaligned", "aligned"]
    drawn(figure)


def test_a_line_a_class_with_a_band_from_least_to_greatest():
    rng = np.random.default_rng(0)
    k = np.arange(31)
    series = [
        plotting.Series("unaligned", rng.uniform(0.01, 1, (3, 31)), plotting.UNALIGNED, "--"),
        plotting.Series("aligned", rng.uniform(0.001, 0.1, (3, 31)), plotting.ALIGNED),
    ]
    figure = spectrum(k, series, "a title", of="train loss (nats)")
    (axes,) = figure.axes
    for line, band, one in zip(axes.lines, axes.collections, series, strict=True):
        np.testing.assert_allclose(line.get_ydata(), one.values.mean(0))
        np.testing.assert_array_equal(line.get_xdata(), k)
        np.testing.assert_allclose(edges(band), (one.values.min(), one.values.max()))
    assert axes.get_yscale() == "log"
    assert "train loss" in axes.get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unaligned", "aligned"]
    drawn(figure, SMALL)


def test_one_pair_has_no_band_and_zeros_stay_on_the_scale():
    values = np.array([1.0, 0.1, 0.0, 0.01])
    figure = spectrum(np.arange(4), [plotting.Series("one", values, plotting.ALIGNED)], "a title")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1, 0.1, 0.01, 0.01])
    assert len(axes.collections) == 0
