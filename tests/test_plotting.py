"""Figures: what is drawn is what was given."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from mcjax import plotting

TS = np.linspace(0, 1, 5)


def drawn(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("L"))
    assert image.shape[0] > 400
    assert image.shape[1] > 1000
    assert image.std() > 5
    return image


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
            low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
            np.testing.assert_allclose(low, (expected.mean(0) - expected.std(0)).min(), rtol=1e-12)
            np.testing.assert_allclose(high, (expected.mean(0) + expected.std(0)).max(), rtol=1e-12)
    assert [line.get_linestyle() for line in left.lines] == ["--", "-"]
    assert [to_hex(line.get_color()) for line in left.lines] == [plotting.UNALIGNED, plotting.ALIGNED]
    assert left.get_ylabel() == "train loss (nats)"
    assert right.get_ylabel() == "test accuracy (%)"
    assert left.get_xlim() == (0, 1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["linear", "Bezier"]
    assert figure.get_suptitle() == "a title"
    drawn(figure)


@pytest.mark.parametrize(("lowest", "scale"), [(0.1, "log"), (0.0, "linear"), (-1.0, "linear")])
def test_along_paths_is_logarithmic_where_it_can_be(lowest, scale):
    line = plotting.Line("one", np.array([lowest, 1, 2, 1, 1]), np.full(5, 0.5), plotting.ALIGNED)
    figure = plotting.along_paths(TS, [line], "one path")
    assert figure.axes[0].get_yscale() == scale
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), line.loss)
    drawn(figure)


def test_along_paths_says_which_images():
    loss, accuracy = curves(1)
    line = plotting.Line("one", loss, accuracy, plotting.ALIGNED)
    figure = plotting.along_paths(TS, [line], "t", loss_of="test", accuracy_of="train")
    assert [axes.get_ylabel() for axes in figure.axes] == ["test loss (nats)", "train accuracy (%)"]


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
        half = [values[which].std() for values in signature.values()]
        np.testing.assert_allclose([float(bar[1] - bar[0]) / 2 for bar in bars], half)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["as trained", "matched"]
    drawn(figure)


def test_correlation_of_one_pair_and_of_nothing_that_correlates():
    zeros = np.zeros((4, 4))
    figure = plotting.correlation(zeros, zeros, {"dense": (np.float32(0), np.float32(0))}, "dead units")
    low, high = figure.axes[0].images[0].get_clim()
    assert low < 0 < high
    drawn(figure)


@pytest.mark.parametrize("shape", [(3, 10), (1, 1), (4,)])
def test_training_draws_a_line_a_fit(shape):
    loss, accuracy = np.random.default_rng(0).uniform(0.1, 1, (2, *shape))
    figure = plotting.training({"loss": loss, "accuracy": accuracy}, "a title")
    left, right = figure.axes
    for axes, values in ((left, np.atleast_2d(loss)), (right, 100 * np.atleast_2d(accuracy))):
        assert len(axes.lines) == len(values)
        for line, expected in zip(axes.lines, values, strict=True):
            np.testing.assert_allclose(line.get_ydata(), expected)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(expected) + 1))
    assert (left.get_ylabel(), right.get_ylabel()) == ("train loss (nats)", "train accuracy (%)")
    drawn(figure)


@pytest.mark.parametrize(("lowest", "scale"), [(0.001, "log"), (0.5, "linear"), (0.0, "linear")])
def test_training_is_logarithmic_where_losses_differ_widely(lowest, scale):
    figure = plotting.training({"loss": np.array([[1.0, lowest]]), "accuracy": np.ones((1, 2))}, "a title")
    assert figure.axes[0].get_yscale() == scale
    drawn(figure)


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


def half_steps(pairs=2, iterations=2, seed=0, color=plotting.ALIGNED):
    """PAM's half-steps of some pairs, of which the last refused its first two P."""
    rng = np.random.default_rng(seed)
    objective = np.sort(rng.uniform(0.5, 3, (pairs, 1 + 2 * iterations)))[:, ::-1]
    accepted = np.ones((pairs, 2 * iterations), bool)
    proposed = objective[:, 1:].copy()
    accepted[-1, :3:2] = False
    proposed[-1, :3:2] = (4.0, 5.0)[: len(proposed[-1, :3:2])]
    return plotting.HalfSteps(objective, proposed, accepted, color)


def test_alternation_draws_the_mean_and_a_cross_for_every_refusal():
    fits = {"unaligned": half_steps(color=plotting.UNALIGNED), "aligned": half_steps(3, seed=1)}
    figure = plotting.alternation(fits, "a title")
    (axes,) = figure.axes
    means, crosses = axes.lines[0:6:3], axes.lines[1:6:3]
    for line, cross, fit in zip(means, crosses, fits.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(5))
        np.testing.assert_allclose(line.get_ydata(), fit.objective.mean(0), rtol=1e-12)
        np.testing.assert_array_equal(cross.get_xdata(), [1, 3])
        np.testing.assert_array_equal(cross.get_ydata(), [4.0, 5.0])
        assert cross.get_marker() == "x"
        assert cross.get_linestyle() == "None"
        assert to_hex(line.get_color()) == to_hex(cross.get_color()) == fit.color
    assert [label.get_text() for label in axes.get_xticklabels()] == ["start", "P 1", "curve 1", "P 2", "curve 2"]
    np.testing.assert_array_equal(axes.get_xticks(), np.arange(5))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "unaligned",
        "aligned",
        "refused: higher",
    ]
    assert axes.get_ylabel() == "$Q + R$ (nats)"
    assert figure.get_suptitle() == "a title"
    drawn(figure)


@pytest.mark.parametrize("iterations", [1, 4])
def test_alternation_of_one_pair_without_its_axis(iterations):
    fit = half_steps(1, iterations)
    figure = plotting.alternation({"one": fit._replace(**{n: getattr(fit, n)[0] for n in fit._fields[:3]})}, "a title")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), fit.objective[0])
    refused = np.flatnonzero(~fit.accepted[0])
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), refused + 1)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "start"
    assert labels[-2:] == [f"P {iterations}", f"curve {iterations}"]
    drawn(figure)


def test_alternation_tells_what_only_looking_ahead_refused():
    fit = half_steps()
    proposed = fit.proposed.copy()
    proposed[-1, 0] = fit.objective[-1, 0] - 0.1
    (axes,) = plotting.alternation({"one": fit._replace(proposed=proposed)}, "a title").axes
    higher, lower = axes.lines[1:3]
    np.testing.assert_array_equal(higher.get_xdata(), [3])
    np.testing.assert_array_equal(lower.get_xdata(), [1])
    assert lower.get_marker() == "+"
    assert "refused: lower, but the curve was better without" in [t.get_text() for t in axes.get_legend().get_texts()]


def test_alternation_where_all_was_accepted_has_no_cross():
    fit = half_steps()
    figure = plotting.alternation({"one": fit._replace(accepted=np.ones_like(fit.accepted))}, "a title")
    assert not any(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "x")
    drawn(figure)


@pytest.mark.parametrize("epochs", [(2, 3), (1, 9), (5, 5)])
def test_alternating_training_draws_mean_band_and_where_p_is_learned(epochs):
    rng = np.random.default_rng(0)
    losses = {
        "unaligned": (rng.uniform(0.5, 2, (3, 10)), plotting.UNALIGNED),
        "aligned": (rng.uniform(0.2, 1, (3, 10)), plotting.ALIGNED),
    }
    figure = plotting.alternating_training(losses, epochs, "a title")
    (axes,) = figure.axes
    for line, band, (values, color) in zip(axes.lines, axes.collections, losses.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 11))
        np.testing.assert_allclose(line.get_ydata(), values.mean(0), rtol=1e-12)
        assert to_hex(line.get_color()) == color
        heights = band.get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose(heights.min(), (values.mean(0) - values.std(0)).min(), rtol=1e-12)
        np.testing.assert_allclose(heights.max(), (values.mean(0) + values.std(0)).max(), rtol=1e-12)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    period = sum(epochs)
    np.testing.assert_allclose(spans, [(k * period + 0.5, k * period + epochs[0] + 0.5) for k in range(10 // period)])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["unaligned", "aligned", "learning P"]
    assert axes.get_xlim() == (0.5, 10.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "train loss (nats)")
    drawn(figure)


def test_alternating_training_of_one_pair():
    figure = plotting.alternating_training({"one": (np.linspace(2, 1, 6), plotting.ALIGNED)}, (1, 2), "a title")
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), np.linspace(2, 1, 6))
    drawn(figure)
