"""The Fourier transform along a path: closed forms, sums written out, and what smoothness does to it."""

import numpy as np
import pytest

from mcjax import InputError, PathMetrics
from mcjax.landscape import path_spectrum

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def metrics_of(values, ts=None):
    values = np.asarray(values, np.float64)
    ts = np.linspace(0, 1, values.shape[-1], dtype=np.float32) if ts is None else np.asarray(ts)
    return PathMetrics(ts, dict.fromkeys(METRICS, values), np.broadcast_to(ts, values.shape))


@pytest.mark.parametrize("points", [3, 4, 61, 60])
def test_modes_are_the_sums_written_out_of_all_intervals(points):
    values = np.random.default_rng(0).uniform(0, 3, (2, points))
    found = path_spectrum(metrics_of(values))
    n = points - 1
    np.testing.assert_allclose(found.wavenumber, np.arange(n // 2 + 1))
    assert found.magnitude.shape == (2, n // 2 + 1)
    # Both ends with half the weight of the points between them: the trapezoid rule.
    weights = np.where((np.arange(points) == 0) | (np.arange(points) == n), 0.5, 1)
    for pair, row in zip(values, found.magnitude, strict=True):
        for k, magnitude in enumerate(row):
            total = sum(
                w * v * (np.cos(2 * np.pi * k * j / n) - 1j * np.sin(2 * np.pi * k * j / n))
                for j, (w, v) in enumerate(zip(weights, pair, strict=True))
            )
            np.testing.assert_allclose(magnitude, abs(total) / n, atol=1e-12)


def test_a_sum_of_waves_has_half_of_each_amplitude_at_its_wavenumber():
    t = np.linspace(0, 1, 61)
    values = 2 + 0.6 * np.cos(2 * np.pi * 3 * t) + 0.2 * np.sin(2 * np.pi * 17 * t)
    expected = np.zeros(31)
    expected[[0, 3, 17]] = 2, 0.3, 0.1
    np.testing.assert_allclose(path_spectrum(metrics_of(values)).magnitude, expected, atol=1e-12)


def test_a_straight_line_shows_the_difference_of_its_ends_alone():
    n, rise = 60, 0.7
    k = np.arange(1, n // 2 + 1)
    found = path_spectrum(metrics_of(0.4 + rise * np.linspace(0, 1, n + 1))).magnitude
    np.testing.assert_allclose(found[0], 0.4 + rise / 2)
    # The trapezoid sum of t exp(-2 pi i k t) is a geometric one.
    np.testing.assert_allclose(found[1:], rise / (2 * n) / np.tan(np.pi * k / n), atol=1e-12)
    np.testing.assert_allclose(found[1:4], rise / (2 * np.pi * k[:3]), rtol=0.01)
    np.testing.assert_allclose(path_spectrum(metrics_of(np.full(9, 1.5))).magnitude, [1.5, 0, 0, 0, 0], atol=1e-15)


def test_a_smoother_curve_has_less_at_high_wavenumbers():
    t = np.linspace(0, 1, 61)
    ends, bump = 0.3 + 0.1 * t, 4 * t * (1 - t)
    noise = np.random.default_rng(1).normal(size=(3, 61))
    smooth = path_spectrum(metrics_of(ends + bump + 0.001 * bump * noise)).magnitude
    rough = path_spectrum(metrics_of(ends + bump + 0.1 * bump * noise)).magnitude
    assert (smooth[:, 10:].mean(-1) < 0.2 * rough[:, 10:].mean(-1)).all()
    np.testing.assert_allclose(smooth[:, 0], rough[:, 0], rtol=0.05)
    # Narrower bumps of one height have more at every high wavenumber: a Gaussian's transform is wider.
    wide, narrow = (
        path_spectrum(metrics_of(np.exp(-(((t - 0.5) / width) ** 2) / 2))).magnitude for width in (0.12, 0.04)
    )
    assert (narrow[4:12] > wide[4:12]).all()
    width, k = 0.04, np.arange(12)
    expected = width * np.sqrt(2 * np.pi) * np.exp(-2 * (np.pi * width * k) ** 2)
    np.testing.assert_allclose(narrow[:12], expected, atol=1e-9)


def test_the_same_curve_at_twice_the_points_has_the_same_low_modes():
    coarse, fine = (path_spectrum(metrics_of(np.exp(np.sin(2 * np.pi * np.linspace(0, 1, n))))) for n in (61, 121))
    np.testing.assert_allclose(coarse.magnitude[:20], fine.magnitude[:20], atol=1e-12)


def test_a_part_of_the_path_counts_in_units_of_t():
    ts = np.linspace(0.25, 0.75, 41)
    found = path_spectrum(metrics_of(np.cos(2 * np.pi * 8 * ts), ts))
    assert found.wavenumber[np.argmax(found.magnitude)] == 8


def test_every_metric_can_be_transformed():
    values = np.random.default_rng(0).uniform(size=(4, 9))
    ts = np.linspace(0, 1, 9)
    metrics = PathMetrics(ts, dict(zip((*METRICS[:3], "test_entropy"), values, strict=True)), ts)
    for of, row in zip(metrics.values, values, strict=True):
        np.testing.assert_array_equal(path_spectrum(metrics, of).magnitude, path_spectrum(metrics_of(row)).magnitude)
    np.testing.assert_array_equal(path_spectrum(metrics).magnitude, path_spectrum(metrics, "test_loss").magnitude)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="equally spaced"):
        path_spectrum(metrics_of([1, 2, 1, 2], [0, 0.3, 0.7, 1]))
    with pytest.raises(InputError, match=r"got 2 points, expected at least 3"):
        path_spectrum(metrics_of([1, 2]))
    with pytest.raises(InputError, match=r"'loss'.*'test_loss'"):
        path_spectrum(metrics_of([1, 2, 3]), "loss")
    with pytest.raises(InputError, match="not finite"):
        path_spectrum(metrics_of([1, np.nan, 3]))
