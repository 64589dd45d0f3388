"""Fitting a curve so that loss stays low along it (Neuron Alignment, Algorithm 2)."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.curve import Curve
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.models.pairs import Pairs, pairs_of, permute_pairs
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.convolution import Convolutions
from mcjax.symmetry import Permutation
from mcjax.training.config import TrainConfig, optimizer
from mcjax.training.loop import check_keys, initial_states, run_epochs, steps_per_epoch
from mcjax.training.objective import Measured, check_fit, objective


@dataclass(frozen=True)
class FitConfig(TrainConfig):
    """`TrainConfig` of the control point; each step averages over `points_per_step` values of t."""

    points_per_step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points_per_step < 1:
            raise InputError(f"got points_per_step={self.points_per_step}, expected at least 1.")


class CurveFit(NamedTuple):
    """A fitted curve. With a leading pair axis if the endpoints had one; history float32 ([pairs,] epochs)."""

    theta_c: trees.Tree
    P: Permutation
    path: jax.tree_util.Partial
    history: History


class CurveState(NamedTuple):
    """What a fit carries: the control points and the optimiser's state."""

    theta_c: trees.Tree
    optimizer: optax.OptState


class Ends(NamedTuple):
    """What a fit reads: theta_1, P theta_2, and the control points that a proximal term holds on to, if any."""

    theta_1: trees.Tree
    theta_2: trees.Tree
    anchor: trees.Tree | None = None


@dataclass(frozen=True)
class CurveStep:
    """One step of SGD on the control points, at t drawn uniformly from [0, 1].

    With an anchor among the ends, ||theta_c - anchor||^2 / (2 nu_phi) is part of the objective.
    """

    model: Model
    curve: Curve
    config: FitConfig
    steps: int
    nu_phi: float = math.inf

    @property
    def convolutions(self) -> Convolutions:
        """What the model convolves with."""
        return self.model.convolutions

    def init(self, theta: trees.Tree) -> CurveState:
        """The linear path, and a fresh optimiser. Batch statistics have no control point."""
        theta_c = self.curve.zero(trees.params(theta))
        return CurveState(theta_c, optimizer(self.config, self.steps).init(theta_c))

    def __call__(
        self, ends: Ends, state: CurveState, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[CurveState, Measured]:
        t_key, model_key = jax.random.split(key)
        points = self.config.points_per_step

        def loss(theta_c: trees.Tree, t: jax.Array, key: jax.Array) -> tuple[jax.Array, Measured]:
            params = self.curve(trees.params(ends.theta_1), trees.params(ends.theta_2), theta_c, None, t)
            # By batch statistics, so those of the ends are only read, never used.
            theta = trees.with_params(ends.theta_1, params)
            settings = (self.config.weight_decay, self.config.compute_dtype)
            value, (measured, _) = objective(self.model, theta, x, labels, key, *settings)
            if ends.anchor is not None:
                moved = trees.subtract(theta_c, ends.anchor)
                value = value + trees.dot(moved, moved) / (2 * self.nu_phi)
            return value, measured

        def gradient_at(t: jax.Array, key: jax.Array) -> tuple[trees.Tree, Measured]:
            return jax.grad(loss, has_aux=True)(state.theta_c, t, key)

        ts = jax.random.uniform(t_key, (points,))
        if points == 1:
            gradient, measured = gradient_at(ts[0], model_key)
        else:
            each = jax.lax.map(lambda at: gradient_at(*at), (ts, jax.random.split(model_key, points)))
            gradient, measured = jax.tree.map(lambda values: values.mean(0), each)
        update, optimizer_state = optimizer(self.config, self.steps).update(gradient, state.optimizer, state.theta_c)
        return CurveState(optax.apply_updates(state.theta_c, update), optimizer_state), measured


def fit_curve(
    key: jax.Array,
    model: Model,
    curve: Curve,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    data: Dataset,
    P: Permutation | None = None,
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> CurveFit:
    """Fit the control points of `curve` between theta_1 and P theta_2; the ends never move.

    Each step draws t uniformly, takes the cross entropy of the network at r(t) by batch statistics
    plus its L2 term, and moves theta_c by SGD. Endpoints, and P, may have a leading pair axis: then
    every pair is fitted, in one program, by a key of its own split from `key`, and with a mesh of
    `make_mesh` on devices side by side. P=None is the identity. config defaults to `FitConfig()`; a TrainConfig
    stands for one t a step. Raises
    SpecError if the endpoints are not of this model or P is not theirs, InputError if the curve has
    no control points, RunError if a loss becomes infinite or NaN.

        fit = fit_curve(key, model, bezier(model.spec), theta_1, theta_2, data, P=match.P)
        middle = fit.path(0.5)
    """
    check_curve(key, model, curve, data)
    config = config if isinstance(config, FitConfig) else FitConfig(**vars(config or TrainConfig()))
    pairs = pairs_of(model, theta_1, theta_2, P)
    ends = Ends(pairs.theta_1, permute_pairs(model, pairs.P, pairs.theta_2))
    step = CurveStep(model, curve, config, steps_per_epoch(config, data))
    states = initial_states(step, pairs.theta_1)
    keys = jax.random.split(key, pairs.number)
    states, history = run_epochs(step, data, ends, states, keys, recorder, mesh=mesh)
    return CurveFit(**fitted(pairs, curve, states.theta_c, pairs.P), history=pairs.unbatch(history))


def check_curve(key: jax.Array, model: Model, curve: Curve, data: Dataset) -> None:
    """Raise InputError unless this is a typed key, and a curve with something to fit on these data."""
    check_keys(key)
    check_fit(model, data)
    if curve.control_points == 0:
        raise InputError("the straight line has no control points to fit: give a bezier or polygonal_chain.")


def fitted(pairs: Pairs, curve: Curve, theta_c: trees.Tree, P: Permutation) -> dict[str, Any]:
    """theta_c (of the parameters), P and the path between these ends, as the caller gets them."""
    # Zero for the batch statistics, so that theta_c is a tree like theta.
    whole = trees.with_params(jax.vmap(curve.zero)(pairs.theta_1), theta_c)
    theta_1, theta_2, whole, P = pairs.unbatch((pairs.theta_1, pairs.theta_2, whole, P))
    bind = curve.bind_pairs if pairs.batched else curve.bind
    return {"theta_c": whole, "P": P, "path": bind(theta_1, theta_2, whole, P)}
