"""Spectra drawn: means, bands that stay positive, a logarithmic scale."""

import numpy as np
from figures import SMALL, drawn, edges

from mcjax import plotting


def test_a_line_a_class_with_a_band_from_least_to_greatest():
    rng = np.random.default_rng(0)
    k = np.arange(31)
    series = [
        plotting.Series("unaligned", rng.uniform(0.01, 1, (3, 31)), plotting.UNALIGNED, "--"),
        plotting.Series("aligned", rng.uniform(0.001, 0.1, (3, 31)), plotting.ALIGNED),
    ]
    figure = plotting.spectrum(k, series, "a title", of="train loss (nats)")
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
    figure = plotting.spectrum(np.arange(4), [plotting.Series("one", values, plotting.ALIGNED)], "a title")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1, 0.1, 0.01, 0.01])
    assert len(axes.collections) == 0
