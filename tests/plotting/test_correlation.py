"""Correlations of units: matrices, signatures of layers and of curves."""

import statistics

import numpy as np
from figures import SMALL, drawn

from mcjax import plotting


def test_correlation_shows_both_matrices_on_one_scale_and_the_signature():
    rng = np.random.default_rng(0)
    before = rng.uniform(-0.4, 0.9, (6, 6))
    after = before[:, ::-1]
    signature = {f"layer_{i}": (rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)) for i in range(5)}
    figure = plotting.correlation(before, after, signature, "a title")
    images = [axes.images[0] for axes in figure.axes[:2]]
    for image, matrix in zip(images, (before, after), strict=True):
        np.testing.assert_array_equal(image.get_array(), matrix)
        assert image.get_clim() == (-np.abs(before).max(), np.abs(before).max())
    panel = figure.axes[2]
    assert [label.get_text() for label in panel.get_xticklabels()] == list(signature)
    for which, container in enumerate(panel.containers):
        points = container.lines[0].get_ydata()
        np.testing.assert_allclose(np.float64(points), [values[which].mean() for values in signature.values()])
        bars = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
        half = [values[which].std(ddof=1) for values in signature.values()]
        np.testing.assert_allclose([float(bar[1] - bar[0]) / 2 for bar in bars], half)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["as trained", "matched"]
    drawn(figure)


def test_correlation_of_one_pair_and_of_nothing_that_correlates():
    zeros = np.zeros((4, 4))
    figure = plotting.correlation(zeros, zeros, {"dense": (np.float32(0), np.float32(0))}, "dead units")
    low, high = figure.axes[0].images[0].get_clim()
    assert low < 0 < high


def test_long_names_of_layers_leave_room_for_the_panels():
    names = [
        f"Encoder_{i}.MultiHeadDotProductAttention_0.{end}" for i in (0, 1) for end in ("query:1", "query:2", "value")
    ]
    signature = {name: (np.zeros(1), np.ones(1)) for name in names}
    figure = plotting.correlation(np.eye(4), np.eye(4), signature, "title")
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert len(set(labels)) == len(names)
    assert all(panel.get_position().height > 0.4 for panel in figure.axes[:3])


def test_correlation_says_which_layer_and_how_it_was_matched():
    signature = {"Conv_0": (np.zeros(1), np.ones(1)), "Conv_1": (np.zeros(1), np.ones(1))}
    figure = plotting.correlation(np.eye(4), np.eye(4), signature, "title", group="Conv_0", method="weights")
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["Conv_0, as trained", "Conv_0, matched by weights", "every layer"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["as trained", "matched by weights"]


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
    figure = plotting.signature(panels, "a title", method="activations")
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
    figure = plotting.curve_signatures(classes, [f"Conv_{i}" for i in range(4)], "a title")
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
