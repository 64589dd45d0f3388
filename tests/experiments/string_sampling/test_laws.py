"""Power laws with censored observations: a planted exponent, scipy's optimiser, and which strings are fitted."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from experiments.string_sampling.laws import laws, power_law

EXPONENT, FACTOR, DEVIATION = -0.6, 1.3, 0.4


def planted(most, count=25, seed=0):
    """Observations of a power law with a normal deviation of the logarithm, cut where they exceed `most`."""
    at = np.repeat(np.geomspace(0.01, 1, 8), count)
    rng = np.random.default_rng(seed)
    values = FACTOR * at**EXPONENT * np.exp(DEVIATION * rng.normal(size=at.size))
    return at, np.minimum(values, most), values > most


def test_without_censored_observations_it_is_least_squares():
    at, values, none = planted(np.inf)
    law = power_law(at, values, none)
    exponent, offset = np.polyfit(np.log(at), np.log(values), 1)
    residual = np.log(values) - offset - exponent * np.log(at)
    assert law["exponent"] == pytest.approx(exponent, rel=1e-6)
    assert law["factor"] == pytest.approx(np.exp(offset), rel=1e-6)
    assert law["deviation"] == pytest.approx(residual.std(), rel=1e-6)
    assert law["error"] == pytest.approx(residual.std() / np.log(at).std() / np.sqrt(at.size), rel=1e-6)
    assert (law["low"], law["high"], law["strings"], law["censored"]) == (at[0], at[-1], 200, 0)
    # Also of points that lie on it exactly.
    assert power_law([0.01, 0.02, 0.04], [4.0, 2.0, 1.0], [False] * 3)["exponent"] == pytest.approx(-1)


@pytest.mark.parametrize("most", [8.0, 4.0])
def test_the_exponent_of_censored_observations_is_found(most):
    laws_of, alone = [], []
    for seed in range(20):
        at, values, censored = planted(most, seed=seed)
        assert censored.mean() > 0.25
        laws_of.append(power_law(at, values, censored))
        alone.append(power_law(at[~censored], values[~censored], censored[~censored]))
    found, errors = (np.array([law[name] for law in laws_of]) for name in ("exponent", "error"))
    # Unbiased over draws, and the errors are those of single draws; without the censored ones it is far off.
    assert abs(found.mean() - EXPONENT) < 3 * errors.mean() / np.sqrt(20)
    np.testing.assert_allclose(found.std(), errors.mean(), rtol=0.4)
    assert np.mean([law["deviation"] for law in laws_of]) == pytest.approx(DEVIATION, rel=0.05)
    assert np.mean([law["exponent"] for law in alone]) > EXPONENT + 0.1


def test_the_likelihood_is_that_of_scipy():
    at, values, censored = planted(5.0, count=4, seed=3)

    def minus(parameters):
        mean, deviation = parameters[0] + parameters[1] * np.log(at), np.exp(parameters[2])
        of = np.where(
            censored, norm.logsf(np.log(values), mean, deviation), norm.logpdf(np.log(values), mean, deviation)
        )
        return -of.sum()

    options = {"xatol": 1e-8, "fatol": 1e-11, "maxiter": 5000}
    best = minimize(minus, [0, -0.5, 0], method="Nelder-Mead", options=options).x
    law = power_law(at, values, censored)
    got = [law["exponent"], law["factor"], law["deviation"]]
    np.testing.assert_allclose(got, [best[1], np.exp(best[0]), np.exp(best[2])], rtol=1e-5)


def level(threshold, lengths=(), beads=(), failed=()):
    """A threshold with the lengths and beads of connected strings, and those of the others."""

    def of(values):
        return {"mean": float(np.mean(values)), "values": list(values)} if len(values) else None

    given_up = [{"length": length, "beads": n} for length, n in failed]
    return {"threshold": threshold, "all": {"length": of(lengths), "beads": of(beads), "failed": given_up}}


def test_laws_are_of_strings_below_the_onset():
    at = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32]
    lengths, segments = [0.7 * t**-0.3 for t in at], [2 * t**-0.5 for t in at]
    levels = [level(t, [a], [n - 1]) for t, a, n in zip(at[:4], lengths, segments, strict=False)]
    # From the first threshold at which strings have less than one bead, none counts, however long.
    levels += [level(0.16, [9.0], [0.4]), level(0.32, [9.0], [9.0])]
    for what, exponent, factor in (("length", -0.3, 0.7), ("beads", -0.5, 2.0)):
        found = laws(levels, "all", what)
        for which in ("connected", "censored"):
            law = found[which]
            assert law["exponent"] == pytest.approx(exponent)
            assert law["factor"] == pytest.approx(factor)
            assert (law["low"], law["high"], law["strings"], law["censored"]) == (0.01, 0.08, 4, 0)
    # Strings that were given up count as longer; a threshold may have no others.
    levels[1] = level(0.02, [lengths[1]], [segments[1] - 1], failed=[(5.0, 30)])
    levels.insert(0, level(0.005, failed=[(4.0, 40), (5.0, 50)]))
    found = laws(levels, "all", "length")
    assert found["connected"]["low"] == 0.01
    assert found["connected"]["exponent"] == pytest.approx(-0.3)
    assert (found["censored"]["low"], found["censored"]["strings"], found["censored"]["censored"]) == (0.005, 7, 3)
    assert found["censored"]["exponent"] < -0.35
    # Beads are one fewer than segments, also of those given up: exactly on the law they add little.
    assert laws(levels, "all", "beads")["censored"]["censored"] == 3
    assert laws(levels[:3], "all", "length") == {"connected": None, "censored": None}
