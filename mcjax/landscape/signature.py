"""How far the units of a network along a curve still are those of the curve's ends."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import check_t
from mcjax.data import Augmentation, Dataset, normalize
from mcjax.errors import InputError
from mcjax.matching.activations import match_activations
from mcjax.models.base import Model, has_leading_axis
from mcjax.training.batch_statistics import reestimate


class CurveSignature(NamedTuple):
    """Mean correlations of units of one index, float32 ([pairs,] 2, groups): by endpoint, then by group.

    curve: between the network at t of the curve and the endpoint. linear: between the network at t of
    the straight line and the endpoint. matched: of the curve's network after its units were matched
    to the endpoint's, an upper bound of `curve`. groups: the names, in the order of the spec.
    """

    groups: tuple[str, ...]
    curve: np.ndarray
    linear: np.ndarray
    matched: np.ndarray


def curve_signature(
    model: Model,
    path: Callable[[Any], trees.Tree],
    data: Dataset,
    t: float = 0.5,
    *,
    match_images: int | None = None,
    batch_size: int = 500,
    calibration_images: int | None = None,
    augmentation: Augmentation | None = None,
) -> CurveSignature:
    """The correlation signatures of a path's midpoint with its two ends, path(0) and path(1).

    path: any function t -> theta; one whose theta has a leading pair axis gives results with that
    axis. t: another point than the midpoint. Correlations are those of `match_activations`, over the
    first `match_images` training images (default: the first fifth), `batch_size` at a time. Batch
    statistics of both networks at t are re-estimated first, as by `evaluate_path` with the same
    `calibration_images` and `augmentation`; the ends keep theirs. Units that never vary count with
    correlation 0. Raises InputError for t outside [0, 1] or counts that the data cannot give,
    SpecError if the path leaves the model's parameter space. Source: Neuron Alignment, appendix F.1 and
    Figure 14.

        signature = curve_signature(model, fit.path, data)
        print(dict(zip(signature.groups, signature.matched[0] - signature.curve[0])))
    """
    check_t(t)
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted, expected a model with groups to correlate.")
    n = len(data.train_labels)
    for name, count, least in (("match_images", match_images, 2), ("calibration_images", calibration_images, 1)):
        if count is not None and not least <= count <= n:
            raise InputError(f"got {name}={count}, expected {least} to {n}, the training images of {data.name}.")
    if batch_size < 1:
        raise InputError(f"got batch_size={batch_size}, expected at least 1.")
    ends, middle = [path(jnp.float32(end)) for end in (0, 1)], path(jnp.float32(t))
    pairs = has_leading_axis(middle, model)
    line = jax.tree.map(lambda a, b: (1 - t) * a + t * b, *ends)
    join = jnp.concatenate if pairs else jnp.stack
    both = reestimate(
        model,
        jax.tree.map(lambda *leaves: join(leaves), middle, line),
        data,
        batch_size=batch_size,
        calibration_images=calibration_images,
        augmentation=augmentation,
    )
    # All comparisons are pairs of one program: the curve's network and the line's with either end.
    first, second = (jax.tree.map(lambda leaf: _again(leaf, pairs), end) for end in ends)
    images = data if match_images is None else normalize(data.train_images[:match_images], data.mean, data.std)
    found = [match_activations(model, end, both, images, batch_size) for end in (first, second)]

    def by_end(of: str) -> np.ndarray:
        """(2 endpoints, 2 networks, [pairs,] groups)."""
        values = [np.stack([getattr(match, of)[group] for group in model.spec.groups], -1) for match in found]
        return np.asarray(values, np.float32).reshape(2, 2, *((-1,) if pairs else ()), len(model.spec.groups))

    before, after = (np.moveaxis(by_end(of), 0, -2) for of in ("before", "after"))
    return CurveSignature(tuple(model.spec.groups), before[0], before[1], after[0])


def _again(leaf: jax.Array, pairs: bool) -> jax.Array:
    return jnp.concatenate([leaf, leaf]) if pairs else jnp.stack([leaf, leaf])
