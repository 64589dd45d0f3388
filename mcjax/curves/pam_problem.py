"""The shared parts of PAM's half-steps: the inputs, the objective, the fits, and the state (phi_k, P_k)."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import PamConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import configured_curve_fit
from mcjax.curves.norm_bound import OntoBall
from mcjax.curves.objective import Objective, midpoint_grid
from mcjax.curves.pam_step import LARGEST_STEP, permutation_fit
from mcjax.models.pairs import Pairs
from mcjax.runtime.processes import on_first_process
from mcjax.symmetry import Permutation
from mcjax.training.batches import fixed_examples
from mcjax.training.config import make_optimizer
from mcjax.training.fit import Fit, FitState
from mcjax.training.loop import EpochPlan, epoch_plan, initial_states
from mcjax.training.task import Task


def tile_pairs(tree: trees.Tree, times: int) -> trees.Tree:
    """Every leaf repeated `times` times along its leading axis, as whole copies."""
    return trees.concatenate([tree] * times) if times > 1 else tree


def as_single_candidate(P: Permutation) -> Permutation:
    """P (pairs, ...) per group as the only candidate of every pair, (pairs, 1, ...)."""
    return {group: np.asarray(p)[:, None] for group, p in P.items()}


class PamState(NamedTuple):
    """(phi_k, P_k) of every pair: control points, optimiser and hard permutations, and Q + R, float64 (pairs,)."""

    curve: FitState
    P: Permutation
    objective: np.ndarray


class HalfStep(NamedTuple):
    """The proposal of a half-step and its outcome, each (pairs,), in the fields of `PamFit`."""

    objective: np.ndarray
    proposed: np.ndarray
    distance: np.ndarray
    accepted: np.ndarray
    moved: np.ndarray


class Relaxation(NamedTuple):
    """Q + R at the best doubly stochastic matrices, and at their nearest permutations, each float64 (pairs,)."""

    relaxed: np.ndarray
    rounded: np.ndarray


@dataclass(frozen=True, eq=False)
class PamProblem:
    """The inputs of all half-steps.

    Attributes:
        task: The task.
        curve: The curve.
        config: Settings.
        pairs: The endpoints, and the permutations at the start.
        grid: The objective.
        plan: The batches of an epoch.
        mesh: A mesh, or None.
    """

    task: Task
    curve: Curve
    config: PamConfig
    pairs: Pairs
    grid: Objective
    plan: EpochPlan
    mesh: Mesh | None = None

    @classmethod
    def create(
        cls, task: Task, curve: Curve, config: PamConfig, pairs: Pairs, mesh: Mesh | None = None
    ) -> "PamProblem":
        """The problem of these inputs, with the objective and the batches that the config describes.

        Args:
            task: The task.
            curve: The curve.
            config: Settings of PAM.
            pairs: The networks and the first P of every pair.
            mesh: Devices of the pairs. None: one.

        Returns:
            The problem.
        """
        settings = config.curve
        plan = epoch_plan(task, settings.batch_size, settings.steps_per_epoch)
        fixed, size = fixed_examples(task, config.objective_examples, settings.batch_size)
        ball = None if config.norm_bound is None else OntoBall(curve, config.norm_bound)
        points = midpoint_grid(config.objective_points)
        grid = Objective(task, curve, settings.weight_decay, points, fixed, size, ball)
        return cls(task, curve, config, pairs, grid, plan, mesh)

    @on_first_process
    def objective(self, theta_c: trees.Tree, P: Permutation, branches: int = 1) -> np.ndarray:
        """Q + R of candidates, float64 (branches * pairs, candidates); branches are concatenated in theta_c and P."""
        theta_1, theta_2 = tile_pairs((self.pairs.theta_1, self.pairs.theta_2), branches)
        return self.grid.values(theta_1, theta_2, theta_c, P)

    @property
    def curve_fit(self) -> Fit:
        """The fit of the control points, whose schedule extends over all iterations."""
        settings, epochs = self.config.curve, self.config.iterations * self.config.curve.epochs
        return configured_curve_fit(
            self.task,
            self.curve,
            settings,
            epochs,
            self.plan.steps,
            nu_phi=self.config.nu_phi,
            norm_bound=self.config.norm_bound,
        )

    @property
    def permutation_fit(self) -> Fit:
        """The fit of the matrices."""
        settings, curve = self.config.permutation, self.config.curve
        automatic = settings.learning_rate is None
        return permutation_fit(
            self.task,
            self.curve,
            make_optimizer(settings.optimizer, settings.epochs, self.plan.steps),
            weight_decay=curve.weight_decay if settings.regularized else 0.0,
            compute_dtype=curve.compute_dtype,
            nu_P=self.config.nu_P,
            projection=settings.projection,
            largest_step=LARGEST_STEP if automatic and settings.projection == "alternating" else None,
        )

    def epochs_before(self, iteration: int, curve: bool) -> int:
        """Number of epochs before the permutation half-step of an iteration, or before its curve half-step."""
        permutation = self.config.permutation.epochs
        return iteration * (permutation + self.config.curve.epochs) + curve * permutation

    @cached_property
    def line(self) -> FitState:
        """The straight line and a fresh optimiser, for every pair."""
        return initial_states(self.curve_fit, self.pairs.theta_1, self.pairs.theta_2)._replace(fixed=())

    def start_permutations(self, state: PamState, rates: dict[str, jax.Array] | None = None) -> FitState:
        """The state of the permutation half-step at phi_k and P_k, for every pair; rates of None are 1."""
        ends = self.pairs.theta_1, self.pairs.theta_2
        return initial_states(self.permutation_fit, *ends, state.P, state.curve.variables, rates)
