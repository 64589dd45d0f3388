"""The figures of strings: means with bars, fitted lines, one scale of colours for all stages."""

import numpy as np
from figures import drawn
from matplotlib.collections import LineCollection

from experiments.string_sampling.figures import Stage, against_threshold, string_stages


def task(of):
    """Three thresholds; one without a connected string, at which two were given up."""

    def found(length, beads, deviation, failed=()):
        return {
            "length": {"mean": length, "std": deviation},
            "relaxed": {"mean": 0.9 * length, "std": deviation},
            "beads": None if beads is None else {"mean": beads, "std": deviation},
            "failed": [{"length": length, "beads": n} for length, n in failed],
        }

    levels = [
        {"threshold": at, "unmatched": found(*own), "matched": found(own[0] / 2 + 0.5, 3, 0.1)}
        for at, own in (
            (0.01, (4.0, 9.0, 0.5)),
            (0.05, (1.8, None, 5.0, [(5.0, 20), (6.0, 30)])),
            (0.1, (1.0, 0.0, 0.0)),
        )
    ]
    law = {"exponent": -0.5, "error": 0.1, "factor": 0.4, "low": 0.01, "high": 0.05}
    both, none = {"connected": law, "censored": {**law, "exponent": -0.75}}, {"connected": None, "censored": None}
    fitted = {"unmatched": {"length": both, "beads": none}, "matched": {"length": none, "beads": none}}
    return {"of": of, "tolerance": 0.1, "levels": levels, "laws": fitted}


def test_length_and_segments_against_the_threshold():
    cubic = task("train error")
    cubic["levels"][0]["matched"]["failed"] = [{"length": 2.0, "beads": 3}]
    figure = against_threshold({"quadratic": task("train loss"), "cubic": cubic})
    assert len(figure.axes) == 4
    left, right = figure.axes[:2]
    assert left.get_xscale() == left.get_yscale() == right.get_yscale() == "log"
    assert left.get_xlabel() == "threshold (train loss)"
    assert "1.1 thresholds" in left.get_title("left")

    def line(axes, label):
        lines = [each for each in axes.lines if each.get_label() == label]
        lines += [bars.lines[0] for bars in axes.containers if bars.get_label() == label]
        return lines[0].get_xydata()

    at = [0.01, 0.05, 0.1]
    np.testing.assert_allclose(line(left, "unmatched"), np.stack([at, [4.0, 1.8, 1.0]], 1))
    np.testing.assert_allclose(line(right, "unmatched"), np.stack([at, [10.0, np.nan, 1.0]], 1))
    np.testing.assert_allclose(line(left, "unmatched: relaxed"), np.stack([at, [3.6, 1.62, 0.9]], 1))
    # Strings that were given up, where they were.
    np.testing.assert_allclose(line(left, "unmatched: at least"), [[0.05, 5.0], [0.05, 6.0]])
    np.testing.assert_allclose(line(right, "unmatched: at least"), [[0.05, 21.0], [0.05, 31.0]])
    assert "matched: at least" not in left.get_legend_handles_labels()[1]
    # Bars end at 1, the least possible value.
    bars = next(c for c in left.collections if isinstance(c, LineCollection)).get_segments()
    np.testing.assert_allclose(bars[1][:, 1], [1.0, 6.8])
    ends = np.array([0.01, 0.05])
    fitted = [each.get_ydata() for each in left.lines if np.array_equal(each.get_xdata(), ends)]
    np.testing.assert_allclose(fitted, [0.4 * ends**-0.5, 0.4 * ends**-0.75])
    assert [text.get_text() for text in left.texts] == ["exponent -0.50 ± 0.10, all -0.75 ± 0.10"]
    # One of the matched strings of the second task alone was given up: the legend names it.
    names = [name + more for name in ("unmatched", "matched") for more in ("", ": at least", ": relaxed")]
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == sorted(names)
    drawn(figure)


def test_stages_of_a_string_share_axes_and_colours():
    rng = np.random.default_rng(0)
    stages = []
    for count in (3, 6, 9):
        at = np.linspace(0, count, 20 * count)
        points = np.stack([at, np.sin(at), np.cos(at)], 1)
        loss = 10.0 ** rng.uniform(-3, 0, 20 * count)
        stages.append(Stage(f"depth {count}", points, loss, points[::20]))
    figure = string_stages(stages, "a title", "train loss", 0.01)
    panels = figure.axes[:3]
    assert len(figure.axes) == 4  # and the scale of colours
    limits = [(axes.get_xlim(), axes.get_ylim(), axes.get_zlim()) for axes in panels]
    assert limits[0] == limits[1] == limits[2]
    norms = {id(axes.collections[0].norm) for axes in panels}
    assert len(norms) == 1
    norm = panels[0].collections[0].norm
    np.testing.assert_allclose([norm.vmin, norm.vmax], [0.005, max(stage.loss.max() for stage in stages)])
    for axes, stage in zip(panels, stages, strict=True):
        assert axes.get_title() == stage.label
        np.testing.assert_allclose(axes.collections[0].get_array(), (stage.loss[1:] + stage.loss[:-1]) / 2)
        # Three shadows on the walls.
        assert len(axes.lines) == 3
    drawn(figure, (300, 1000))
