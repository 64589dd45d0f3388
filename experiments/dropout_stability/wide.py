"""The energy gap between wide networks of one hidden layer against their width (Freeman and Bruna, Corollary 2.5)."""

from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.study import Parts
from mcjax import Dataset, data, models, supervised, trees
from mcjax.constructions import fit_units, wide_path
from mcjax.constructions.wide import sparse_problem
from mcjax.runs.tables import mean_and_std

INPUTS = 2
KAPPA = 1e-3
ROUNDING = 1e-5
"""Smaller gaps count as zero: networks are float32, and the lasso ends at a tolerance."""


def gaps(parts: Parts, key: jax.Array, widths: tuple[int, ...], pairs: int) -> dict[str, Any]:
    """The energy gaps of pairs of networks of every width, and the power law that fits.

    Args:
        parts: the parts of the study.
        key: a typed key.
        widths: hidden units, increasing.
        pairs: pairs of every width, both networks of an energy as low as was found.
    """
    x = np.random.default_rng(0).normal(size=(400, INPUTS))
    y = np.sin(2 * x[:, :1]) + 0.5 * np.abs(x.sum(1, keepdims=True))
    regression = data.regression(x, y, x, y, "wide")
    levels = []
    for units in widths:
        make = partial(_pairs, jax.random.fold_in(key, units), regression, units, pairs)
        found = parts.numbers(f"wide_{units}", make)
        levels.append({"units": units, "gap": mean_and_std([each["gap"] for each in found]), "pairs": found})
    return {"levels": levels, "slope": slope(levels), "inputs": INPUTS, "kappa": KAPPA}


def _pairs(key: jax.Array, regression: Dataset, units: int, pairs: int) -> list[dict[str, Any]]:
    task = supervised(models.create("mlp", 1, (INPUTS,), widths=(units,), bias=False), regression)
    problem, found = sparse_problem(task, KAPPA), []
    for pair in range(pairs):
        here = jax.random.fold_in(key, pair)
        ends = []
        for each in jax.random.split(here):
            low = fit_units(each, problem, units, starts=4)
            kernels = enumerate((low.units.T, low.weights[:, None]))
            ends.append(trees.nest({f"params/Dense_{i}/kernel": np.float32(kernel) for i, kernel in kernels}))
        path = wide_path(here, task, ends[0], ends[1], kappa=KAPPA)
        found.append({"gap": path.gap, "energy": max(path.ends), "units": path.units, "angle": path.angle})
    return found


def slope(levels: list[dict[str, Any]]) -> float | None:
    """The exponent of the width: least squares on logarithms of mean gaps above rounding (None: fewer than two)."""
    known = [(level["units"], level["gap"]["mean"]) for level in levels if level["gap"]["mean"] > ROUNDING]
    if len(known) < 2:
        return None
    units, means = np.log(np.array(known)).T
    return float(np.polyfit(units, means, 1)[0])
