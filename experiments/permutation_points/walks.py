"""Paths to permutation points, and what is known of the networks at the minima of every distance."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from experiments.permutation_points.tasks import Setting
from mcjax import trees
from mcjax.constructions.chain import Place
from mcjax.constructions.unit_layers import unit_layer
from mcjax.permutation_points import PermutationPath, permutation_path

APART = 1e-3
"""Distances that differ by less than this share are one."""
SETTLED = 1e-3
"""A loss that falls by less than this share of the highest does not fall: minimisations end at a tolerance."""


def walked(setting: Setting, pair: Any, **changes: Any) -> tuple[PermutationPath, dict[str, Any]]:
    """The path of a pair of units, and what was measured of it, as numbers."""
    first, second = (int(unit) for unit in pair)
    config = replace(setting.config, **changes)
    found = permutation_path(setting.model, setting.theta, setting.data, setting.group, (first, second), config)
    return found, {
        "pair": [first, second],
        "distances": found.distances.tolist(),
        "loss": found.loss.tolist(),
        "gradient_norm": float(found.gradient_norm[-1]),
        "minimised": int(found.converged[1:].sum()),
        "steps": len(found.converged) - 1,
        "barrier": found.barrier,
        "point": float(found.loss[-1]),
        "rises": rises(found.loss),
        "knots": len(jax.tree.leaves(found.knots)[0]),
        "products": found.products,
    }


def rises(loss: np.ndarray) -> bool:
    """Whether the losses of the minima never fall on the way to the permutation point."""
    fall = np.maximum.accumulate(loss) - loss
    return bool(fall.max() <= SETTLED * (loss.max() - loss[0]))


def unit_vectors(networks: trees.Tree, places: Sequence[Place], unit: int) -> np.ndarray:
    """What makes a unit, or reads it, of networks along a leading axis: (networks, n)."""
    leaves = [np.asarray(trees.flatten(networks)[place.name]) for place in places]
    pairs = zip(places, leaves, strict=True)
    parts = [np.take(leaf, place.rows(leaf[0])[unit], place.position + 1) for place, leaf in pairs]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def minima(setting: Setting, found: PermutationPath) -> trees.Tree:
    """The networks at the minima of all distances, along a leading axis: theta first, the permutation point last."""
    count = len(found.heights) + 1
    makes = unit_layer(setting.model, setting.group).incoming
    one, two = (unit_vectors(found.knots, makes, unit)[:count] for unit in found.units)
    apart = np.linalg.norm(two - one, axis=1)
    # Distances never grow: the last knot that is no closer than that.
    at = [int(np.flatnonzero(apart >= (1 - APART) * distance)[-1]) for distance in found.distances[:-1]]
    return jax.tree.map(lambda leaf: leaf[[*at, count - 1]], found.knots)
