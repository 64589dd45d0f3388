"""The Hessian at permutation points: how many of its eigenvalues are negative and zero, beside the paper's claims.

With D the offset of the two units' parameter vectors and a that of their output weights, the Hessian at a permutation
point is block diagonal in all else | (D, a), and the second block is [[S, G^T], [G, 0]], G = d^2 L / da dD. So it has
rank(G) negative eigenvalues and those of S on the kernel of G, and n_{k+1} - rank(G) zeros or more. With one output
weight a unit G is the gradient of the merged unit, which vanishes; of several only their sum does, weighted by what
reads the unit, so that rank(G) < n_{k+1}.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.permutation_points.paths import Networks, pair_path
from experiments.permutation_points.tasks import INPUTS, MERGED, Merged, Setting, Size, toy
from experiments.study import Parts
from mcjax import full_batch_loss, trees
from mcjax.hessian import extreme_eigenpairs, hessian_trace, spectral_density
from mcjax.permutation_points import merge_units, merged_hessian, similar_pairs

ZERO = 1e-9
"""Eigenvalues and singular values up to this share of the largest eigenvalue are zero."""
CRITICAL = 1e-8
"""The largest gradient norm of a critical point."""
TOLERANCE, BUMP, KNOTS = 1e-5, 100.0, 5000
"""Settings of these toys' paths, of which only the ends count; fewer knots where the toy has fewer."""
STEPS = 20
"""Distances of every merger of `merged_spectra`, at most."""
ENDS, GRID = 5, 1000
"""Eigenvalues of each end of MNIST's spectrum, and points of its density."""
BROADENING = 0.004
"""The deviation of the Gaussian that an eigenvalue is drawn as, as a share of the whole spectrum."""


def toy_spectra(parts: Parts, key: jax.Array, size: Size) -> list[dict[str, Any]]:
    """The Hessian where the most similar units of a random teacher are merged, toy by toy."""
    found = []
    for outputs in size.toy_outputs:
        for i in range(size.toy_networks):
            here = jax.random.fold_in(jax.random.fold_in(key, outputs), i)
            make = partial(_of_toy, toy(here, "tanh", outputs, size), outputs)
            found.append(parts.numbers(f"spectrum_toy_{outputs}_{i}", make))
    return found


def _of_toy(setting: Setting, outputs: int) -> dict[str, Any]:
    pair = similar_pairs(setting.model, setting.theta, setting.group)[0]
    found, _ = pair_path(
        setting, pair, tolerance=TOLERANCE, rise_tolerance=BUMP, knots=min(KNOTS, setting.config.knots)
    )
    return {"outputs": outputs, **hessian_at_point(setting, found.point, [found.units])}


def merged_spectra(parts: Parts, key: jax.Array, size: Size) -> list[dict[str, Any]]:
    """The Hessian at permutation points of higher order, and in deeper networks, toy by toy."""
    found = []
    for number, case in enumerate(MERGED):
        for i in range(size.merged_networks):
            here = jax.random.fold_in(jax.random.fold_in(key, number), i)
            found.append(parts.numbers(f"{case.name}_{i}", partial(_of_merged, here, case, size)))
    return found


def _of_merged(key: jax.Array, case: Merged, size: Size) -> dict[str, Any]:
    setting = toy(key, "tanh", case.outputs, size, case.widths, case.layer)
    config = replace(
        setting.config, iterations=3 * size.toy_iterations, steps=min(size.toy_steps, STEPS), tolerance=TOLERANCE,
        rise_tolerance=BUMP, knots=min(KNOTS, setting.config.knots),
    )  # fmt: skip
    pairs = chosen_pairs(similar_pairs(setting.model, setting.theta, setting.group), case.clusters)
    merged = merge_units(setting.task, setting.theta, setting.group, pairs, config)
    network = "-".join(map(str, (INPUTS, *case.widths, case.outputs)))
    read = (*case.widths, case.outputs)[case.layer + 1]
    return {
        "network": network, "layer": case.layer + 1, "clusters": case.clusters, "order": merged.order, "read": read,
        **hessian_at_point(setting, merged.point, merged.clusters),
    }  # fmt: skip


def chosen_pairs(similar: Any, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs that merge clusters of these sizes: the most similar pair of units left, and then those most like it."""
    pairs, used = list[tuple[int, int]](), set[int]()
    similar = [(int(first), int(second)) for first, second in similar]
    for size in sizes:
        first, second = next(pair for pair in similar if not used & set(pair))
        nearest = [sum(pair) - first for pair in similar if first in pair and not used & set(pair)]
        others = [second, *(unit for unit in nearest if unit != second)][: size - 1]
        pairs += [(first, other) for other in others]
        used |= {first, *others}
    return pairs


def hessian_at_point(setting: Setting, point: trees.Tree, clusters: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The kind of a permutation point, and the block of its Hessian in which equal units part."""
    with jax.enable_x64(True):
        loss = full_batch_loss(setting.task)
        value = float(loss(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), point)))
    found = merged_hessian(
        loss, setting.model, point, setting.group, clusters, gradient_tolerance=CRITICAL, zero_share=ZERO
    )
    kind = found.point
    return {
        "loss": value, "gradient_norm": kind.gradient_norm, "kind": kind.kind,
        "negative": kind.index, "zeros": kind.zeros, "positive": len(kind.eigenvalues) - kind.index - (kind.zeros or 0),
        "eigenvalues": kind.eigenvalues, "rank": found.rank, "negative_S": found.negative_S,
        "predicted": found.parting.negative, "parting": list(found.parting), "smaller": list(found.smaller),
        "zero_tolerance": kind.zero_tolerance,
    }  # fmt: skip


def mnist_spectra(networks: Networks) -> dict[str, Any]:
    """The ends and the density of the Hessian's spectrum of MNIST's least network: at theta, and at the point."""
    width = networks.problem.size.widths[0]
    numbers, point = networks.path(width, 0)
    setting = networks.setting(width, 0)
    at = {
        name: networks.parts.numbers(f"spectrum_mnist_{name}", partial(_lanczos, networks, setting, theta))
        for name, theta in (("theta", setting.theta), ("point", point))
    }
    return {
        "width": width, "parameters": trees.parameter_count(point), "barrier": numbers["barrier"],
        "images": len(networks.problem.data.train_labels), "outputs": networks.problem.data.num_classes, "at": at,
    }  # fmt: skip


def _lanczos(networks: Networks, setting: Setting, theta: trees.Tree) -> dict[str, Any]:
    size = networks.problem.size
    keys = jax.random.split(jax.random.fold_in(networks.key, 0), 3)
    with jax.enable_x64(True):
        loss = full_batch_loss(setting.task)
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), theta)
        steps = min(2 * size.lanczos, trees.parameter_count(theta))
        ends = extreme_eigenpairs(keys[0], loss, theta, count=ENDS, steps=steps)
        density = spectral_density(keys[1], loss, theta, draws=size.draws, steps=size.lanczos)
        trace = hessian_trace(keys[2], loss, theta)
        values = np.asarray(ends.values)
        width = BROADENING * (values.max() - values.min())
        grid = np.linspace(values.min() - 6 * width, values.max() + 6 * width, GRID)
        return {
            "loss": loss(theta), "largest": values[:ENDS], "smallest": values[ENDS:], "residuals": ends.residuals,
            "trace": trace.estimate, "trace_error": trace.standard_error,
            "negative_share": (density.weights * (density.nodes < 0)).sum(1).mean(),
            "grid": grid, "density": density.on_grid(grid, width), "broadening": width,
        }  # fmt: skip


def merged_parts(size: Size) -> list[str]:
    """The parts of `merged_spectra`."""
    return [f"{case.name}_{i}" for case in MERGED for i in range(size.merged_networks)]


def parts_of(size: Size) -> list[str]:
    """The parts of the spectra, without the paths of MNIST."""
    toys = [f"spectrum_toy_{outputs}_{i}" for outputs in size.toy_outputs for i in range(size.toy_networks)]
    return [*toys, "spectrum_mnist_theta", "spectrum_mnist_point"]
