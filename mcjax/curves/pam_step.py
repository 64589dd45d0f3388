"""The permutation half-step of PAM: projected SGD on doubly stochastic matrices (Neuron Alignment, 4.1.2)."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.curves.curve import Curve
from mcjax.models.base import Model
from mcjax.runtime.convolution import Convolutions
from mcjax.symmetry import Permutation, permute, project_birkhoff, sinkhorn
from mcjax.training.config import TrainConfig
from mcjax.training.objective import Measured, objective

Projection = Literal["alternating", "sinkhorn"]


LARGEST_STEP = 0.5
"""How far one step moves an entry at most, so that a steep point of the curve does not throw P far outside."""


class PermutationState(NamedTuple):
    """What the half-step carries: soft permutations, float32 (n, n) a group, and the steps taken."""

    P: Permutation
    step: jax.Array


class Fixed(NamedTuple):
    """What the half-step reads: the ends, the control points, P_k as matrices, and a learning rate a group."""

    theta_1: trees.Tree
    theta_2: trees.Tree
    theta_c: trees.Tree
    anchor: Permutation
    rate: dict[str, jax.Array]


@dataclass(frozen=True)
class PermutationStep:
    """One step of projected SGD on one matrix per group, at t drawn uniformly from [0, 1].

    The gradient is that of the cross entropy at r(t) by batch statistics and of the proximal term
    ||P - P_k||^2 / (2 nu_P); a residual trunk is one matrix with the gradients of all its blocks.
    """

    model: Model
    curve: Curve
    config: TrainConfig
    steps: int
    nu_P: float
    projection: Projection

    @property
    def convolutions(self) -> Convolutions:
        """What the model convolves with."""
        return self.model.convolutions

    def start(self, anchor: Permutation) -> Permutation:
        """Where to start from P_k: there, or halfway to uniform, since entropic steps do not leave a corner."""
        if self.projection == "alternating":
            return anchor
        return {group: (p + 1 / p.shape[-1]) / 2 for group, p in anchor.items()}

    def __call__(
        self, fixed: Fixed, state: PermutationState, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[PermutationState, Measured]:
        t_key, model_key = jax.random.split(key)
        t = jax.random.uniform(t_key)
        gradient, measured = self.gradient(fixed, state.P, x, labels, t, model_key)
        share = 1 - state.step / (self.steps * self.config.epochs)
        P = self.descend(state.P, gradient, {group: share * rate for group, rate in fixed.rate.items()})
        return PermutationState(P, state.step + 1), measured

    def gradient(
        self, fixed: Fixed, P: Permutation, x: jax.Array, labels: jax.Array, t: jax.Array, key: jax.Array
    ) -> tuple[Permutation, Measured]:
        """The gradient with respect to P at one t, and what was measured there."""

        def loss(P: Permutation) -> tuple[jax.Array, Measured]:
            end = permute(self.model.spec, P, fixed.theta_2)
            params = self.curve(trees.params(fixed.theta_1), trees.params(end), fixed.theta_c, None, t)
            theta, dtype = trees.with_params(fixed.theta_1, params), self.config.compute_dtype
            value, (measured, _) = objective(self.model, theta, x, labels, key, 0.0, dtype)
            moved = trees.subtract(P, fixed.anchor)
            return value + trees.dot(moved, moved) / (2 * self.nu_P), measured

        return jax.grad(loss, has_aux=True)(P)

    def descend(self, P: Permutation, gradient: Permutation, rate: dict[str, jax.Array]) -> Permutation:
        """One step down the gradient, back onto the doubly stochastic matrices, groups of one size together."""
        by_size: dict[int, list[str]] = {}
        for group, p in P.items():
            by_size.setdefault(p.shape[-1], []).append(group)
        new: Permutation = {}
        for groups in by_size.values():
            matrices, slopes, rates = (jnp.stack([part[group] for group in groups]) for part in (P, gradient, rate))
            slopes = rates[:, None, None] * slopes
            if self.projection == "alternating":
                matrices = project_birkhoff(matrices - jnp.clip(slopes, -LARGEST_STEP, LARGEST_STEP))
            else:
                matrices = sinkhorn(jnp.log(jnp.maximum(matrices, 1e-6)) - slopes)
            new |= dict(zip(groups, matrices, strict=True))
        return new


def tangent(gradient: Any) -> jax.Array:
    """The part of a gradient (..., n, n) along which rows and columns keep their sums."""
    rows, columns = gradient.mean(-1, keepdims=True), gradient.mean(-2, keepdims=True)
    return gradient - rows - columns + gradient.mean((-1, -2), keepdims=True)
