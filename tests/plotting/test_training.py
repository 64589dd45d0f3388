"""Training drawn: networks, classes of curves, PAM's half-steps."""

import numpy as np
import pytest
from figures import band_edges, drawn, edges
from matplotlib.colors import to_hex

from mcjax import plotting


def test_training_draws_a_line_a_fit():
    drawn([training(shape) for shape in ((1, 1), (4,), (3, 10))][-1])


def training(shape):
    """The figure of fits, with a line for each."""
    loss, accuracy = np.random.default_rng(0).uniform(0.1, 1, (2, *shape))
    figure = plotting.training({"loss": loss, "accuracy": accuracy}, "a title")
    left, right = figure.axes
    for axes, values in ((left, np.atleast_2d(loss)), (right, 100 * np.atleast_2d(accuracy))):
        assert len(axes.lines) == len(values)
        for line, expected in zip(axes.lines, values, strict=True):
            np.testing.assert_allclose(line.get_ydata(), expected)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(expected) + 1))
    assert (left.get_ylabel(), right.get_ylabel()) == ("train loss (nats)", "train accuracy (%)")
    return figure


def test_training_is_logarithmic_where_losses_differ_widely():
    for lowest, scale in ((0.001, "log"), (0.5, "linear"), (0.0, "linear")):
        figure = plotting.training({"loss": np.array([[1.0, lowest]]), "accuracy": np.ones((1, 2))}, "a title")
        assert figure.axes[0].get_yscale() == scale


def test_training_has_a_panel_for_each_metric():
    history = {"error": np.array([0.5, 0.3]), "loss": np.array([2.0, 1.0])}
    figure = plotting.training(history, "a regression")
    assert [axes.get_ylabel() for axes in figure.axes] == ["train loss", "train error"]
    for axes, name in zip(figure.axes, ("loss", "error"), strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), history[name])
    assert len(plotting.training({"loss": np.ones(2)}, "a loss alone").axes) == 1


def half_steps(pairs=2, iterations=2, seed=0, color=plotting.ALIGNED):
    """PAM's half-steps of some pairs, of which the last refused its first two P."""
    rng = np.random.default_rng(seed)
    objective = np.sort(rng.uniform(0.5, 3, (pairs, 1 + 2 * iterations)))[:, ::-1]
    refused = np.zeros((pairs, 2 * iterations), bool)
    proposed = objective[:, 1:].copy()
    refused[-1, :3:2] = True
    proposed[-1, :3:2] = (4.0, 5.0)[: len(proposed[-1, :3:2])]
    return plotting.HalfSteps(objective, proposed, refused, color)


def test_alternation_draws_the_mean_and_a_cross_for_every_refusal():
    fits = {"unaligned": half_steps(color=plotting.UNALIGNED), "aligned": half_steps(3, seed=1)}
    figure = plotting.pam_objective(fits, "a title")
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
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == [
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
    figure = plotting.pam_objective(
        {"one": fit._replace(**{n: getattr(fit, n)[0] for n in fit._fields[:3]})}, "a title"
    )
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), fit.objective[0])
    refused = np.flatnonzero(fit.refused[0])
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), refused + 1)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "start"
    assert labels[-2:] == [f"P {iterations}", f"curve {iterations}"]


def test_alternation_tells_what_only_looking_ahead_refused():
    fit = half_steps()
    proposed = fit.proposed.copy()
    proposed[-1, 0] = fit.objective[-1, 0] - 0.1
    (axes,) = plotting.pam_objective({"one": fit._replace(proposed=proposed)}, "a title").axes
    higher, lower = axes.lines[1:3]
    np.testing.assert_array_equal(higher.get_xdata(), [3])
    np.testing.assert_array_equal(lower.get_xdata(), [1])
    assert lower.get_marker() == "+"
    assert "refused: lower, but the curve was better without" in [
        t.get_text() for t in axes.figure.legends[0].get_texts()
    ]


def test_alternation_where_all_was_accepted_has_no_cross():
    fit = half_steps()
    figure = plotting.pam_objective({"one": fit._replace(refused=np.zeros_like(fit.refused))}, "a title")
    assert not any(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "x")


def test_alternating_training_draws_mean_band_and_where_p_is_learned():
    drawn([pam_training(epochs) for epochs in ((1, 9), (5, 5), (2, 3))][-1])


def pam_training(epochs):
    """The figure of PAM's losses, with half-steps of so many epochs for the permutation and for the curve."""
    rng = np.random.default_rng(0)
    losses = {
        "unaligned": (rng.uniform(0.5, 2, (3, 10)), plotting.UNALIGNED),
        "aligned": (rng.uniform(0.2, 1, (3, 10)), plotting.ALIGNED),
    }
    figure = plotting.pam_training(losses, epochs, "a title")
    (axes,) = figure.axes
    for line, band, (values, color) in zip(axes.lines[:2], axes.collections, losses.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 11))
        np.testing.assert_allclose(line.get_ydata(), values.mean(0), rtol=1e-12)
        assert to_hex(line.get_color()) == color
        np.testing.assert_allclose(edges(band), band_edges(values), rtol=1e-12)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    period = sum(epochs)
    np.testing.assert_allclose(spans, [(k * period + 0.5, k * period + epochs[0] + 0.5) for k in range(10 // period)])
    marks = [line.get_xdata()[0] for line in axes.lines[2:]]
    changes = sorted({k * period + part for k in range(10 // period) for part in (0, epochs[0])} - {0})
    np.testing.assert_allclose(marks, np.add(changes, 0.5))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["unaligned", "aligned", "learning P"]
    assert axes.get_xlim() == (0.5, 10.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "train loss (nats)")
    return figure


def test_alternating_training_of_one_pair():
    figure = plotting.pam_training({"one": (np.linspace(2, 1, 6), plotting.ALIGNED)}, (1, 2), "a title")
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), np.linspace(2, 1, 6))


def test_a_few_fits_can_be_told_apart_and_many_have_their_mean():
    loss = np.random.default_rng(0).uniform(0.5, 1, (12, 5))
    names = [f"network {i}" for i in range(12)]
    few = plotting.training({"loss": loss[:8], "accuracy": loss[:8]}, "a title", labels=names[:8])
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in few.axes[0].lines}
    assert len(looks) == 8
    assert [text.get_text() for text in few.legends[0].get_texts()] == names[:8]
    many = plotting.training({"loss": loss, "accuracy": loss}, "a title", labels=names)
    assert len(many.axes[0].lines) == 13
    np.testing.assert_allclose(many.axes[0].lines[-1].get_ydata(), loss.mean(0))
    assert [text.get_text() for text in many.legends[0].get_texts()] == ["mean of 12"]
    drawn(few)
