"""Barriers against parameters: rows and columns, scales with a zero, heights of many sizes."""

import numpy as np
from figures import drawn

from mcjax import plotting


def panel(at, values, **more):
    lines = [
        plotting.Series("before", np.asarray(values), plotting.UNALIGNED),
        plotting.Series("after", np.asarray(values) / 3, plotting.ALIGNED, "--"),
    ]
    return plotting.ParameterPanel(
        "title", "spawned after step", "barrier (nats)", np.asarray(at, float), lines, **more
    )


def test_a_step_of_zero_has_a_place_on_a_logarithmic_axis():
    at = [0, 20, 50, 100, 500, 1000]
    values = np.abs(np.random.default_rng(0).normal(size=(3, 6)))
    panels = [panel(at, values, x_scale="symlog", reference=0.5), panel([0], [[1.0]], x_scale="symlog")]
    figure = plotting.against_parameter(panels, "spawning")
    drawn(figure)
    axes = figure.axes[0]
    places = axes.transData.transform([(x, 0) for x in at])[:, 0]
    assert (np.diff(places) > 20).all()
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "20", "50", "100", "500", "1000"]
    assert axes.get_ylim()[0] == 0
    assert 0.5 in {line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2}
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["0"]


def test_many_panels_are_two_columns_and_ratios_have_a_scale():
    values = np.array([[1.0, 0.1, 0.001]])
    panels = [panel([1, 2, 4], values, x_scale="log", log_y=i > 0) for i in range(5)]
    figure = plotting.against_parameter(panels, "barriers")
    assert len(figure.axes) == 5
    drawn(figure)
    assert [axes.get_yscale() for axes in figure.axes] == ["linear"] + ["log"] * 4


def test_a_few_sizes_are_all_named():
    few, many = (
        plotting.against_parameter([panel(at, np.ones((2, len(at))))], "") for at in ([10, 15, 25], np.arange(9))
    )
    assert [text.get_text() for text in few.axes[0].get_xticklabels()] == ["10", "15", "25"]
    assert len(many.axes[0].get_xticklabels()) != 9
