"""Correlations of units: matrices, and their means at every layer."""

import numpy as np
from figures import drawn

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
