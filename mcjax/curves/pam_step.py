"""The parts of PAM's permutation half-step: the objective, SGD on doubly stochastic matrices, and rounding them.

The permutation subproblem is the first line of eq. 6 of Neuron Alignment, relaxed to doubly stochastic matrices and
rounded back to permutations as in section 4.1.2.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.config import Projection, Rounding
from mcjax.curves.curve import Curve
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import Convolutions, over_models, over_points
from mcjax.symmetry import (
    Permutation,
    birkhoff_decomposition,
    nearest_permutation,
    permute,
    project_birkhoff,
    sinkhorn,
)
from mcjax.training.config import TrainConfig
from mcjax.training.fixed import FixedImages, objective_on
from mcjax.training.objective import Metrics, training_loss

LARGEST_STEP = 0.5
"""Largest change of a matrix entry in one step, so that a large gradient does not move P far outside the polytope."""

TRAVEL_DISTANCE = {"alternating": 15.0, "sinkhorn": 300.0}
"""Distance that an entry of P would travel in the first half-step with a constant gradient.

It is much larger than 1, which a permutation needs, because the gradient decreases. On the digits all distances from 10
to 40 work, and ten times as much for logarithms.
"""


def midpoint_grid(points: int) -> jax.Array:
    """The midpoints of `points` equal parts of [0, 1], float32 (points,)."""
    return (jnp.arange(points, dtype=jnp.float32) + 0.5) / points


def tile_pairs(tree: trees.Tree, times: int) -> trees.Tree:
    """Every leaf repeated `times` times along its leading axis, as whole copies."""
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf] * times), tree) if times > 1 else tree


def as_single_candidate(P: Permutation) -> Permutation:
    """P (pairs, n) per group as the only candidate of every pair, (pairs, 1, n)."""
    return {group: jnp.asarray(p)[:, None] for group, p in P.items()}


def objective_on_grid(
    model: Model,
    curve: Curve,
    weight_decay: float,
    ts: jax.Array,
    images: FixedImages,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    theta_c: trees.Tree,
    P: Permutation,
) -> np.ndarray:
    """The objective Q + R of eq. 6 for every pair and candidate permutation, in one compiled program.

    Q is the mean over ts and images of the cross entropy of r(t) in training mode, R the mean of
    weight_decay / 2 * ||r(t)||^2.

    Args:
        model: The model of the endpoints.
        curve: The curve r.
        weight_decay: Factor of the L2 term R.
        ts: The points t, float32 (points,).
        images: The images.
        theta_1: First endpoints, with a leading pair axis.
        theta_2: Second endpoints, with a leading pair axis.
        theta_c: Control points of the parameters, with a leading pair axis.
        P: Hard permutations, int32 (pairs, candidates, n) per group.

    Returns:
        float64 (pairs, candidates).
    """
    pairs = (theta_1, theta_2, theta_c, P)
    return np.asarray(_objective_on_grid(model, curve, weight_decay, ts, images, pairs), np.float64)


@jit(static_argnames=("model", "curve", "weight_decay"))
def _objective_on_grid(
    model: Model, curve: Curve, weight_decay: float, ts: jax.Array, images: FixedImages, pairs: tuple
) -> jax.Array:
    def of_pair(theta_1: trees.Tree, theta_2: trees.Tree, theta_c: trees.Tree, P: Permutation) -> jax.Array:
        def of_candidate(P: Permutation) -> jax.Array:
            end = trees.params(permute(model.spec, P, theta_2))

            def at(t: jax.Array) -> jax.Array:
                params = curve(trees.params(theta_1), end, theta_c, None, t)
                return objective_on(model, trees.with_params(theta_1, params), images, weight_decay)

            return over_points(at, ts, model.convolutions).mean()

        return jax.lax.map(of_candidate, P)

    return over_models(of_pair, model.convolutions)(*pairs)


class PermutationState(NamedTuple):
    """The state of the half-step: soft permutations, float32 (n, n) per group, and the number of steps taken."""

    P: Permutation
    step: jax.Array


class PermutationContext(NamedTuple):
    """Arrays of the half-step that are not trained.

    Attributes:
        theta_1: First endpoint.
        theta_2: Second endpoint, not permuted.
        theta_c: Control points of the parameters.
        anchor: P_k as matrices (n, n) per group, the centre of the proximal term.
        rate: Learning rate per group.
    """

    theta_1: trees.Tree
    theta_2: trees.Tree
    theta_c: trees.Tree
    anchor: Permutation
    rate: dict[str, jax.Array]


@dataclass(frozen=True)
class PermutationStep:
    """One step of projected SGD on one matrix per group, at t drawn uniformly from [0, 1].

    The objective is the first line of eq. 6: the cross entropy at r(t) in training mode plus the proximal term
    ||P - P_k||^2 / (2 nu_P). The matrix of a residual trunk receives the gradients of all blocks.

    Attributes:
        model: The model of the endpoints.
        curve: The curve.
        config: Settings of batches, augmentation and epochs.
        steps: Number of steps per epoch.
        nu_P: Constant of the proximal term, as in `PamConfig`.
        projection: "alternating" or "sinkhorn", as in `PamConfig`.
    """

    model: Model
    curve: Curve
    config: TrainConfig
    steps: int
    nu_P: float
    projection: Projection

    @property
    def convolutions(self) -> Convolutions:
        """The kind of convolutions in the model."""
        return self.model.convolutions

    def initial_matrices(self, anchor: Permutation) -> Permutation:
        """P_k; for "sinkhorn" its mean with the uniform matrix, since entropic steps cannot leave a vertex."""
        if self.projection == "alternating":
            return anchor
        return {group: (p + 1 / p.shape[-1]) / 2 for group, p in anchor.items()}

    def __call__(
        self, context: PermutationContext, state: PermutationState, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[PermutationState, Metrics]:
        t_key, model_key = jax.random.split(key)
        t = jax.random.uniform(t_key)
        gradient, metrics = self.gradient(context, state.P, x, labels, t, model_key)
        # The learning rate decays linearly to zero within the half-step.
        remaining = 1 - state.step / (self.steps * self.config.epochs)
        P = self.descend(state.P, gradient, {group: remaining * rate for group, rate in context.rate.items()})
        return PermutationState(P, state.step + 1), metrics

    def gradient(
        self, context: PermutationContext, P: Permutation, x: jax.Array, labels: jax.Array, t: jax.Array, key: jax.Array
    ) -> tuple[Permutation, Metrics]:
        """The gradient with respect to P at one t, (n, n) per group, and the metrics at r(t)."""

        def loss(P: Permutation) -> tuple[jax.Array, Metrics]:
            # Q(phi_k, P): the cross entropy at r(t).
            end = permute(self.model.spec, P, context.theta_2)
            params = self.curve(trees.params(context.theta_1), trees.params(end), context.theta_c, None, t)
            theta, dtype = trees.with_params(context.theta_1, params), self.config.compute_dtype
            value, (metrics, _) = training_loss(self.model, theta, x, labels, key, 0.0, dtype)
            # The proximal term on P in eq. 6.
            change = trees.subtract(P, context.anchor)
            return value + trees.dot(change, change) / (2 * self.nu_P), metrics

        return jax.grad(loss, has_aux=True)(P)

    def descend(self, P: Permutation, gradient: Permutation, rate: dict[str, jax.Array]) -> Permutation:
        """A gradient step, followed by a projection onto the doubly stochastic matrices (section 4.1.2)."""
        # Groups of equal size are projected together, as one batch of matrices.
        by_size: dict[int, list[str]] = {}
        for group, p in P.items():
            by_size.setdefault(p.shape[-1], []).append(group)
        new: Permutation = {}
        for groups in by_size.values():
            matrices, slopes, rates = (jnp.stack([part[group] for group in groups]) for part in (P, gradient, rate))
            slopes = rates[:, None, None] * slopes
            if self.projection == "alternating":
                # Projected SGD.
                matrices = project_birkhoff(matrices - jnp.clip(slopes, -LARGEST_STEP, LARGEST_STEP))
            else:
                # Entropic mirror descent: a gradient step on log P, then Sinkhorn's iterations.
                matrices = sinkhorn(jnp.log(jnp.maximum(matrices, 1e-6)) - slopes)
            new |= dict(zip(groups, matrices, strict=True))
        return new


def automatic_learning_rates(
    step: PermutationStep, ts: jax.Array, images: FixedImages, contexts: PermutationContext
) -> dict[str, jax.Array]:
    """The learning rate of every group at which P travels `TRAVEL_DISTANCE`.

    Args:
        step: The permutation step.
        ts: Grid of t, (points,).
        images: Fixed images, over which the gradient is averaged.
        contexts: Endpoints, control points and P_k of all pairs.

    Returns:
        float32 (pairs,) per group.
    """
    # The rates of a linear decay to zero sum to half of those of a constant rate.
    full_steps = step.steps * step.config.epochs / 2
    length = TRAVEL_DISTANCE[step.projection] / max(full_steps, 100)
    slopes = _tangent_gradient_rms(step, ts, images, contexts)
    return {group: jnp.where(slope > 0, length / jnp.maximum(slope, 1e-30), 0) for group, slope in slopes.items()}


@jit(static_argnames="step")
def _tangent_gradient_rms(
    step: PermutationStep, ts: jax.Array, images: FixedImages, contexts: PermutationContext
) -> dict[str, jax.Array]:
    """The root mean square entry of the mean gradient at P_k, projected onto the tangent space, float32 (pairs,)."""

    def of_pair(context: PermutationContext) -> dict[str, jax.Array]:
        def at(t: jax.Array) -> Permutation:
            def add_batch(total: Permutation, number: jax.Array) -> tuple[Permutation, None]:
                x, labels, key = images.batch(number)
                return trees.add(total, step.gradient(context, context.anchor, x, labels, t, key)[0]), None

            return jax.lax.scan(add_batch, trees.scale(0.0, context.anchor), jnp.arange(batches))[0]

        total = over_points(at, ts, step.convolutions)
        return {group: jnp.sqrt(jnp.square(tangent_part(p.mean(0) / batches)).mean()) for group, p in total.items()}

    batches = len(images.labels)
    return over_models(of_pair, step.convolutions)(contexts)


def tangent_part(gradient: Any) -> jax.Array:
    """The projection of gradients (..., n, n) onto matrices whose rows and columns sum to 0: double centring."""
    rows, columns = gradient.mean(-1, keepdims=True), gradient.mean(-2, keepdims=True)
    return gradient - rows - columns + gradient.mean((-1, -2), keepdims=True)


def candidate_permutations(key: jax.Array, soft: Permutation, rounding: Rounding, samples: int) -> Permutation:
    """Candidate hard permutations near doubly stochastic matrices.

    The first candidate is the nearest permutation, the paper's rounding (section 4.1.2). With "sampled", `samples` more
    follow: each draws, independently for every group, a permutation by its weight in the Birkhoff decomposition of the
    matrix, as the paper's code does.

    Args:
        key: Typed key of the draws.
        soft: Doubly stochastic matrices, float (pairs, n, n) per group.
        rounding: "assignment" or "sampled".
        samples: Number of draws.

    Returns:
        int32 (pairs, candidates, n) per group.

    Raises:
        InputError: If a matrix is not finite.
    """
    for group, matrices in soft.items():
        if not np.isfinite(np.asarray(matrices)).all():
            raise InputError(
                f"the learned matrix of group {group!r} is not finite: lower the permutation learning rate, or start "
                "from other networks."
            )
    nearest = {group: nearest_permutation(matrices)[:, None] for group, matrices in soft.items()}
    if rounding == "assignment" or samples == 0:
        return nearest
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    drawn = {group: np.stack([_draw(rng, m, samples) for m in np.asarray(soft[group])]) for group in soft}
    return {group: np.concatenate([nearest[group], drawn[group]], 1) for group in soft}


def _draw(rng: np.random.Generator, matrix: np.ndarray, samples: int) -> np.ndarray:
    """Permutations (samples, n) drawn by their weights in the matrix's Birkhoff decomposition."""
    weights, permutations = birkhoff_decomposition(matrix)
    return permutations[rng.choice(len(weights), samples, p=weights)]
