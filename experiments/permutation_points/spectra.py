"""The Hessian at permutation points: how many of its eigenvalues are negative and zero, beside the paper's claims.

With D the offset of the two units' parameter vectors and a that of their output weights, the Hessian at a permutation
point is block diagonal in all else | (D, a), and the second block is [[S, G^T], [G, 0]], G = d^2 L / da dD. So it has
rank(G) negative eigenvalues and those of S on the kernel of G, and n_{k+1} - rank(G) zeros or more. With one output
weight a unit G is the gradient of the merged unit, which vanishes; of several only their sum does, weighted by what
reads the unit, so that rank(G) < n_{k+1}.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.permutation_points.paths import Networks, pair_path
from experiments.permutation_points.tasks import Setting, Size, toy
from experiments.study import Parts
from mcjax import full_batch_loss, trees
from mcjax.constructions.unit_layers import unit_layer
from mcjax.hessian import classify_point, dense_hessian, extreme_eigenpairs, hessian_trace, spectral_density
from mcjax.permutation_points import similar_pairs

ZERO = 1e-9
"""Eigenvalues and singular values up to this share of the largest eigenvalue are zero."""
CRITICAL = 1e-8
"""The largest gradient norm of a critical point."""
TOLERANCE, BUMP, KNOTS = 1e-5, 100.0, 5000
"""Settings of these toys' paths, of which only the ends count; fewer knots where the toy has fewer."""
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
    return {"outputs": outputs, **hessian_at_point(setting, found.point, found.units)}


def hessian_at_point(setting: Setting, point: trees.Tree, pair: tuple[int, int]) -> dict[str, Any]:
    """The kind of a permutation point, and the block of its Hessian in which the two units part."""
    with jax.enable_x64(True):
        loss = full_batch_loss(setting.task)
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), point)
        hessian = np.asarray(dense_hessian(loss, theta))
        value = float(loss(theta))
        largest = float(np.abs(np.linalg.eigvalsh(hessian)).max())
        kind = classify_point(loss, theta, gradient_tolerance=CRITICAL, zero_tolerance=ZERO * largest)
    offset, read = _differences(setting, point, pair)
    S, G = offset @ hessian @ offset.T, read @ hessian @ offset.T
    _, values, rows = np.linalg.svd(G)
    rank = int((values > ZERO * largest).sum())
    negative = partial(_negative, least=ZERO * largest)
    return {
        "loss": value, "gradient_norm": kind.gradient_norm, "kind": kind.kind,
        "negative": kind.index, "zeros": kind.zeros, "positive": len(kind.eigenvalues) - kind.index - (kind.zeros or 0),
        "eigenvalues": kind.eigenvalues, "rank": rank, "negative_S": negative(S),
        "predicted": rank + negative(rows[rank:] @ S @ rows[rank:].T), "zero_tolerance": kind.zero_tolerance,
    }  # fmt: skip


def _negative(matrix: np.ndarray, least: float) -> int:
    return int((np.linalg.eigvalsh(matrix) < -least).sum()) if len(matrix) else 0


def _differences(setting: Setting, theta: trees.Tree, pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along which the parameters, and the output weights, of two units part: (p, n) and (q, n)."""
    layer = unit_layer(setting.model, setting.group)
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(trees.params(theta))
        where = trees.flatten(trees.with_params(theta, unravel(jnp.arange(len(flat), dtype=flat.dtype))))
    both = []
    for of in (layer.parameters, layer.outputs):
        with jax.enable_x64(True):
            one, two = (np.asarray(of(where, unit)).astype(int) for unit in pair)
        vectors = np.zeros((len(one), len(flat)))
        vectors[np.arange(len(one)), one], vectors[np.arange(len(one)), two] = -np.sqrt(0.5), np.sqrt(0.5)
        both.append(vectors)
    return both[0], both[1]


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


def parts_of(size: Size) -> list[str]:
    """The parts of the spectra, without the paths of MNIST."""
    toys = [f"spectrum_toy_{outputs}_{i}" for outputs in size.toy_outputs for i in range(size.toy_networks)]
    return [*toys, "spectrum_mnist_theta", "spectrum_mnist_point"]
