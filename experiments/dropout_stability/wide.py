"""The energy gap between wide networks of one hidden layer against their width (Freeman and Bruna, Corollary 2.5)."""

from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.study import Parts
from mcjax import Dataset, data, models, supervised, trees
from mcjax.constructions import SparseNetwork, SparseProblem, fit_units, wide_path
from mcjax.constructions.sparse import lasso, rotate_units
from mcjax.constructions.wide import sparse_problem
from mcjax.runs.tables import mean_and_std

KAPPA = 1e-3
ROUNDING = 1e-5
"""Smaller gaps count as zero: networks are float32, and the lasso ends at a tolerance."""
ENDS = {
    "fitted": "of an energy as low as was found",
    "descended": "drawn at random, descended",
    "arbitrary": "drawn at random, best output weights",
}
"""Kinds of ends. Output weights are the lasso's: any others are higher, and part 1 of the path leads to these."""


def gaps(parts: Parts, key: jax.Array, widths: tuple[int, ...], pairs: int, inputs: tuple[int, ...]) -> dict[str, Any]:
    """The energy gaps of pairs of networks of every width, and the power laws that fit.

    Args:
        parts: the parts of the study.
        key: a typed key.
        widths: hidden units, increasing.
        pairs: pairs of every width, for every kind of ends.
        inputs: numbers of inputs.
    """
    curves = []
    for n in inputs:
        x = np.random.default_rng(0).normal(size=(100 * 2**n, n))
        y = np.sin(2 * x[:, :1]) + 0.5 * np.abs(x.sum(1, keepdims=True))
        regression = data.regression(x, y, x, y, "wide")
        for ends in ENDS:
            levels = []
            for units in widths:
                make = partial(_pairs, jax.random.fold_in(key, units), regression, units, pairs, ends)
                found = parts.numbers(part(n, ends, units), make)
                means = {name: mean_and_std([each[name] for each in found]) for name in ("gap", "promised")}
                levels.append({"units": units, **means, "pairs": found})
            slopes = {name: slope(levels, name) for name in ("gap", "promised")}
            curves.append({"inputs": n, "ends": ends, "levels": levels, "slopes": slopes})
    return {"curves": curves, "kappa": KAPPA}


def part(inputs: int, ends: str, units: int) -> str:
    """The name of the part of one width."""
    return f"wide_{inputs}_{ends}_{units}"


def _pairs(key: jax.Array, regression: Dataset, units: int, pairs: int, ends: str) -> list[dict[str, Any]]:
    shape = regression.image_shape
    task = supervised(models.create("mlp", 1, shape, widths=(units,), bias=False), regression)
    problem, found = sparse_problem(task, KAPPA), []
    for pair in range(pairs):
        here = jax.random.fold_in(key, pair)
        both = [_theta(_end(each, problem, units, ends)) for each in jax.random.split(here)]
        path = wide_path(here, task, *both, kappa=KAPPA)
        energy = max(path.ends)
        numbers = {"energy": energy, "height": path.height, "bound": path.bound, "gap": path.gap}
        found.append({**numbers, "promised": path.bound - energy, "units": path.units, "angle": path.angle})
    return found


def _end(key: jax.Array, problem: SparseProblem, units: int, ends: str) -> SparseNetwork:
    """One network of a kind."""
    if ends == "fitted":
        return fit_units(key, problem, units, starts=4)
    rows = np.asarray(jax.random.normal(key, (units, problem.x.shape[1])), np.float64)
    drawn = lasso(problem, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    # A unit may turn by any angle.
    return rotate_units(problem, drawn, np.pi) if ends == "descended" else drawn


def _theta(network: SparseNetwork) -> trees.Tree:
    kernels = enumerate((network.units.T, network.weights[:, None]))
    return trees.nest({f"params/Dense_{i}/kernel": np.float32(kernel) for i, kernel in kernels})


def slope(levels: list[dict[str, Any]], name: str) -> float | None:
    """The exponent of the width: least squares on logarithms of means above rounding (None: fewer than two)."""
    known = [(level["units"], level[name]["mean"]) for level in levels if level[name]["mean"] > ROUNDING]
    if len(known) < 2:
        return None
    units, means = np.log(np.array(known)).T
    return float(np.polyfit(units, means, 1)[0])
