"""The energy gap between wide networks of one hidden layer against their width (Freeman and Bruna, Corollary 2.5)."""

from typing import Any

import jax
import numpy as np

from experiments.kept import Kept
from mcjax import data, models, trees
from mcjax.constructions import fit_units, sparse_problem, wide_path
from mcjax.runs.tables import mean_and_std

INPUTS = 2
KAPPA = 1e-3
ROUNDING = 1e-5
"""Gaps below that are not told from zero: networks are float32, and the lasso ends at a tolerance."""


def gaps(kept: Kept, key: jax.Array, widths: tuple[int, ...], pairs: int) -> dict[str, Any]:
    """Of every width the gap of every pair of networks, both as low as was found, and the power law that fits."""
    x = np.random.default_rng(0).normal(size=(400, INPUTS))
    y = np.sin(2 * x[:, :1]) + 0.5 * np.abs(x.sum(1, keepdims=True))
    regression = data.regression(x, y, x, y, "wide")
    problem = sparse_problem(regression, KAPPA)
    levels = []
    for units in widths:

        def make(units: int = units) -> Any:
            model = models.create("mlp", 1, (INPUTS,), widths=(units,), bias=False)
            found = []
            for pair in range(pairs):
                here = jax.random.fold_in(jax.random.fold_in(key, units), pair)
                ends = []
                for each in jax.random.split(here):
                    low = fit_units(each, problem, units, starts=4)
                    kernels = enumerate((low.units.T, low.weights[:, None]))
                    ends.append(trees.nest({f"params/Dense_{i}/kernel": np.float32(kernel) for i, kernel in kernels}))
                path = wide_path(here, model, ends[0], ends[1], regression, kappa=KAPPA)
                found.append({"gap": path.gap, "energy": max(path.ends), "units": path.units, "angle": path.angle})
            return found

        known = kept.numbers(f"wide_{units}", make)
        levels.append({"units": units, "gap": mean_and_std([each["gap"] for each in known]), "pairs": known})
    return {"levels": levels, "slope": slope(levels), "inputs": INPUTS, "kappa": KAPPA}


def slope(levels: list[dict[str, Any]]) -> float | None:
    """The exponent of the width, by least squares on logarithms of those mean gaps that are no rounding.

    None with fewer than two.
    """
    known = [(level["units"], level["gap"]["mean"]) for level in levels if level["gap"]["mean"] > ROUNDING]
    if len(known) < 2:
        return None
    units, means = np.log(np.array(known)).T
    return float(np.polyfit(units, means, 1)[0])


def costs(widths: tuple[int, ...]) -> dict[str, tuple[float, int]]:
    """What every stage costs, in parts of the whole."""
    return {f"wide_{units}": (float(units), 0) for units in widths}
