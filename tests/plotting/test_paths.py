"""Loss and accuracy along paths: the drawn values are the given ones."""

import numpy as np
from figures import band_edges, drawn, edges
from matplotlib.colors import to_hex, to_rgb

from mcjax import plotting

TS = np.linspace(0, 1, 5)


def curves(pairs, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 2, (pairs, 5)), rng.uniform(0, 1, (pairs, 5))


def test_along_paths_draws_mean_and_band():
    (loss_1, accuracy_1), (loss_2, accuracy_2) = curves(3), curves(3, 1)
    lines = [
        plotting.Line("linear", loss_1, accuracy_1, plotting.UNALIGNED, "--"),
        plotting.Line("Bezier", loss_2, accuracy_2, plotting.ALIGNED),
    ]
    figure = plotting.along_paths(TS, lines, "a title")
    left, right = figure.axes
    for axes, values in ((left, (loss_1, loss_2)), (right, (100 * accuracy_1, 100 * accuracy_2))):
        for line, band, expected in zip(axes.lines, axes.collections, values, strict=True):
            np.testing.assert_allclose(line.get_xdata(), TS)
            np.testing.assert_allclose(line.get_ydata(), expected.mean(0), rtol=1e-12)
            np.testing.assert_allclose(edges(band), band_edges(expected), rtol=1e-12)
    assert [line.get_linestyle() for line in left.lines] == ["--", "-"]
    assert [to_hex(line.get_color()) for line in left.lines] == [plotting.UNALIGNED, plotting.ALIGNED]
    assert left.get_ylabel() == "train loss (nats)"
    assert right.get_ylabel() == "test accuracy (%)"
    assert left.get_xlim() == (0, 1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["linear", "Bezier"]
    assert figure.get_suptitle() == "a title"
    drawn(figure)


def test_along_paths_is_logarithmic_where_it_can_be_and_says_which_images():
    for lowest, scale in ((0.1, "log"), (0.0, "linear"), (-1.0, "linear")):
        line = plotting.Line("one", np.array([lowest, 1, 2, 1, 1]), np.full(5, 0.5), plotting.ALIGNED)
        figure = plotting.along_paths(TS, [line], "one path", loss_split="test", accuracy_split="train")
        assert figure.axes[0].get_yscale() == scale
        np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), line.loss)
        assert [axes.get_ylabel() for axes in figure.axes] == ["test loss (nats)", "train accuracy (%)"]


def test_along_paths_of_losses_alone_has_one_panel():
    line = plotting.Line("one", np.linspace(1, 2, 5), None, plotting.ALIGNED)
    (panel,) = plotting.along_paths(TS, [line], "a regression").axes
    np.testing.assert_allclose(panel.lines[0].get_ydata(), line.loss)
    assert panel.get_ylabel() == "train loss"


def test_the_colours_differ_in_greyscale_and_wide_losses_have_plain_numbers():
    unaligned, aligned = (
        np.dot(to_rgb(color), (0.299, 0.587, 0.114)) for color in (plotting.UNALIGNED, plotting.ALIGNED)
    )
    assert unaligned - aligned > 0.2
    line = plotting.Line("one", np.array([0.1, 1, 2, 4, 1]), np.full(5, 0.5), plotting.ALIGNED)
    figure = plotting.along_paths(TS, [line], "one path")
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels(which="both")]
    assert {"0.1", "0.5", "1", "2"} <= set(labels)
    assert not any("10^" in label for label in labels)
