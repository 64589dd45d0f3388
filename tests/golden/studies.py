"""Slow golden cases: a tiny run of each study, by the numbers in its results.json."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.dropout_stability import study as dropout_stability
from experiments.linear_connectivity import study as linear_connectivity
from experiments.linear_connectivity import tractable
from experiments.neuron_alignment import study as neuron_alignment
from experiments.options import Sources, changes_of
from experiments.permutation_points import study as permutation_points
from experiments.string_sampling import study as string_sampling
from golden.small import bars
from golden.store import HERE


def numbers(found: Any, name: str = "") -> dict[str, list[float]]:
    """The numbers of some JSON, by the names on the way to them: those of a list, or of mean_and_std, are one list."""
    if isinstance(found, str):
        return {}
    if not isinstance(found, dict | list):
        return {name: [np.nan if found is None else float(found)]}
    joined: dict[str, list[float]] = {}
    parts = found if isinstance(found, dict) else dict(enumerate(found))
    unnamed = isinstance(found, list) or parts.keys() == {"mean", "std", "values"}
    for part, each in parts.items():
        for path, values in numbers(each, name if unnamed else f"{name}.{part}".lstrip(".")).items():
            joined.setdefault(path, []).extend(values)
    return joined


def of(results: Any, here: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Numbers as arrays; those whose names begin with one of `here` are compared where they were made alone."""
    arrays = {name: np.array(values, np.float32) for name, values in numbers(results).items()}
    return {f"{HERE if name.startswith(here) else ''}{name}": array for name, array in arrays.items()}


def run(main: Any, config: Any, part: str, here: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The numbers that a study leaves; `part` is where in its results.json, apart from what its page shows."""
    with tempfile.TemporaryDirectory() as folder:
        main(replace(config, out=f"{folder}/run"))
        return of(json.loads(Path(folder, "run", "results.json").read_text())[part], here)


def alignment() -> dict[str, np.ndarray]:
    sizes = {"epochs": 1, "curve_epochs": 2, "points": 5, "plane_points": 3, "pairs": 1, "batch_size": 20}
    pam = neuron_alignment.PamOptions(iterations=2, permutation_epochs=1)
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/bars.npz", **{name: getattr(bars(), name) for name in names})
        options = {"data": (f"{folder}/bars.npz",), "models": ("mlp",), "widths": (6, 5), "exchanges": "off"}
        config = neuron_alignment.Config(alternation=pam, **options, **sizes)
        return run(neuron_alignment.main, config, "cells")


def strings() -> dict[str, np.ndarray]:
    size = changes_of(string_sampling.Size, thresholds=(0.1,), pairs=2)
    string = string_sampling.StringOptions(epochs=20)
    config = string_sampling.Config(tasks=("quadratic",), size=size, string=string)
    return run(string_sampling.main, config, "tasks")


def dropout() -> dict[str, np.ndarray]:
    size = changes_of(
        dropout_stability.Size, width=0.2, train_images=300, test_images=60, epochs=1, curve_epochs=1, draws=2,
        measured=60, search_images=30, string_beads=1, shares=(0.5,), narrow_widths=(1,),
    )  # fmt: skip
    options = {"tasks": ("mnist", "wide"), "units": (2, 4), "pairs": 1, "inputs": (2,)}
    config = dropout_stability.Config(**options, sources=Sources(mnist="digits"), size=size)
    # What turns units is no smooth descent.
    return run(dropout_stability.main, config, "tasks", ("wide.",))


def permutations() -> dict[str, np.ndarray]:
    size = changes_of(
        permutation_points.Size, toys=("tanh",), toy_steps=4, toy_samples=40, toy_tolerance=1e-5, toy_iterations=50,
        toy_knots=1000, toy_bump=1e3, toy_networks=1, toy_outputs=(1,), pool=2, train_images=100, widths=(4,), seeds=1,
        epochs=2, precision="float64", steps=3, tolerance=1e-8, point_tolerance=1e-9, iterations=50, products=60,
        knots=500,
    )  # fmt: skip
    # Which pair of the toy is lowest, and by which way, is told by little; many ReLU networks are one and the same.
    here = ("toy.", "mnist.levels.paths.knots", "mnist.levels.paths.products", "spectrum.mnist.at.point.")
    config = permutation_points.Config(tasks=("toy", "mnist", "spectrum", "count"), mnist="digits", size=size)
    return run(permutation_points.main, config, "tasks", here)


def connectivity() -> dict[str, np.ndarray]:
    # PAM compiles for as long as everything else.
    size = changes_of(
        linear_connectivity.Size, seeds=2, steps=12, spawn_steps=(0, 4), snapshot_steps=(12,), width=0.03,
        widths=(0.03,), train_images=400, test_images=60, matching_steps=2, measured=60, tested=60, points=3,
        methods=("activations", "weights", "straight-through"),
    )  # fmt: skip
    options = {"tasks": ("spawning", "conjecture", "merging"), "data": ("mnist",)}
    config = linear_connectivity.Config(**options, sources=Sources(mnist="digits"), size=size)
    return run(linear_connectivity.main, config, "found")


def landscapes() -> dict[str, np.ndarray]:
    """Results of the tractable landscapes."""
    fineness = tractable.Fineness(samples=200, starts=6, descent=100, searches=60, grid=10)
    return run(linear_connectivity.main, linear_connectivity.Config(tasks=("tractable",), fineness=fineness), "found")


STUDIES = (alignment, strings, dropout, permutations, connectivity, landscapes)
