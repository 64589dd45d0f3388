"""The Fourier transform of a loss along t: a measure of the roughness of a path."""

from typing import NamedTuple

import numpy as np

from mcjax.errors import InputError
from mcjax.landscape.along import PathMetrics, check_metrics
from mcjax.shown import short_repr


@short_repr
class PathSpectrum(NamedTuple):
    """The absolute Fourier transform of a metric along a path.

    Attributes:
        wavenumber: Oscillations per unit of t, 0, 1, ... for a path measured from 0 to 1, float64 (modes,).
        magnitude: The absolute value of every mode's coefficient, in the metric's units, float64 ([pairs,] modes);
            that of wavenumber 0 is the mean over t.
    """

    wavenumber: np.ndarray
    magnitude: np.ndarray


def path_spectrum(metrics: PathMetrics, metric: str = "test_loss") -> PathSpectrum:
    """The absolute Fourier transform of a metric along a path: rough paths have large values at high wavenumbers.

    For n intervals between equally spaced ts, mode k is |sum_j values_j exp(-2 pi i jk / n)| / n, for k up to n // 2:
    the trapezoid rule for the Fourier coefficients on [0, 1]. In the periodic continuation t = 0 and t = 1 are one
    point, whose value is the mean of both. There is no window, so a difference between the ends contributes about
    |difference| / (2 pi k) to mode k. It is the same for all curves between the same ends, so compare only these.
    Source: Neuron Alignment, Figure 11, with 60 intervals.

    Args:
        metrics: The metrics of a path at equally spaced ts.
        metric: A name in `metrics.values`.

    Returns:
        Wavenumbers and magnitudes.

    Raises:
        InputError: For fewer than 3 points, ts that are not equally spaced, an unknown metric, or values that are not
            finite.

    Example::

        aligned, unaligned = (path_spectrum(evaluate_path(task, fit.path)) for fit in fits)
        print(aligned.magnitude[..., 5:].mean() < unaligned.magnitude[..., 5:].mean())
    """
    check_metrics(metrics, metric)
    ts = np.asarray(metrics.ts, np.float64)
    n = len(ts) - 1
    if n < 2:
        raise InputError(f"got {len(ts)} points, expected at least 3 for a spectrum: measure the path at more ts.")
    equal = np.linspace(ts[0], ts[-1], n + 1)
    if np.abs(ts - equal).max() > 1e-3 * (equal[1] - equal[0]) + 1e-7:
        raise InputError(
            f"got ts={np.array2string(ts, threshold=8)}, expected them equally spaced: give evaluate_path their number."
        )
    values = np.asarray(metrics.values[metric], np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"got {metric} that is not finite, expected finite values along the path.")
    # The trapezoid rule: both ends are one point of the period.
    period = values[..., :-1].copy()
    period[..., 0] = (values[..., 0] + values[..., -1]) / 2
    magnitude = np.abs(np.fft.rfft(period, axis=-1)) / n
    return PathSpectrum(np.arange(n // 2 + 1) / (ts[-1] - ts[0]), magnitude)
