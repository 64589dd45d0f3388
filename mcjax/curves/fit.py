"""Curve fitting: SGD on the control points (Neuron Alignment, Algorithm 2; Garipov et al. 2018)."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import FitConfig
from mcjax.curves.curve import Curve
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.models.pairs import Pairs, pairs_of, permute_pairs
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.mapping import Convolutions
from mcjax.symmetry import Permutation
from mcjax.training.config import TrainConfig, optimizer
from mcjax.training.loop import check_typed_keys, initial_states, run_epochs, steps_per_epoch
from mcjax.training.objective import Metrics, check_model_and_data, training_loss


class CurveFit(NamedTuple):
    """A fitted curve; with a leading pair axis if the endpoints had one.

    Attributes:
        theta_c: Control points, a tree like theta, zero for batch statistics.
        P: The permutation of theta_2.
        path: The fitted path t -> theta.
        history: {"loss", "accuracy"}, training metrics, float32 ([pairs,] epochs).
    """

    theta_c: trees.Tree
    P: Permutation
    path: jax.tree_util.Partial
    history: History


class CurveState(NamedTuple):
    """The state of a fit: the control points of the parameters and the state of their optimiser."""

    theta_c: trees.Tree
    optimizer: optax.OptState


class CurveContext(NamedTuple):
    """Arrays that are not trained: theta_1, P theta_2, and optionally the centre of a proximal term on theta_c."""

    theta_1: trees.Tree
    theta_2: trees.Tree
    anchor: trees.Tree | None = None


@dataclass(frozen=True)
class CurveStep:
    """One step of SGD on the control points, at t drawn uniformly from [0, 1] (Neuron Alignment, Algorithm 2).

    With an anchor in the context, the objective includes the proximal term ||theta_c - anchor||^2 / (2 nu_phi) of
    eq. 6.

    Attributes:
        model: The model of the endpoints.
        curve: The curve.
        config: Settings.
        steps: Number of steps per epoch.
        nu_phi: Constant of the proximal term, as in `PamConfig`.
    """

    model: Model
    curve: Curve
    config: FitConfig
    steps: int
    nu_phi: float = math.inf

    @property
    def convolutions(self) -> Convolutions:
        """The kind of convolutions in the model."""
        return self.model.convolutions

    def init(self, theta: trees.Tree) -> CurveState:
        """The straight line and a fresh optimiser. Batch statistics have no control points."""
        theta_c = self.curve.zero(trees.params(theta))
        return CurveState(theta_c, optimizer(self.config, self.steps).init(theta_c))

    def __call__(
        self, context: CurveContext, state: CurveState, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[CurveState, Metrics]:
        t_key, model_key = jax.random.split(key)
        points = self.config.points_per_step

        def loss(theta_c: trees.Tree, t: jax.Array, key: jax.Array) -> tuple[jax.Array, Metrics]:
            params = self.curve(trees.params(context.theta_1), trees.params(context.theta_2), theta_c, None, t)
            # The loss is in training mode, so the batch statistics of the endpoints are not used.
            theta = trees.with_params(context.theta_1, params)
            settings = (self.config.weight_decay, self.config.compute_dtype)
            value, (metrics, _) = training_loss(self.model, theta, x, labels, key, *settings)
            if context.anchor is not None:
                # The proximal term on phi in eq. 6.
                change = trees.subtract(theta_c, context.anchor)
                value = value + trees.dot(change, change) / (2 * self.nu_phi)
            return value, metrics

        def gradient_at(t: jax.Array, key: jax.Array) -> tuple[trees.Tree, Metrics]:
            return jax.grad(loss, has_aux=True)(state.theta_c, t, key)

        # Algorithm 2: sample t, compute the loss at r(t), and take an optimiser step on the control points.
        ts = jax.random.uniform(t_key, (points,))
        if points == 1:
            gradient, metrics = gradient_at(ts[0], model_key)
        else:
            each = jax.lax.map(lambda at: gradient_at(*at), (ts, jax.random.split(model_key, points)))
            gradient, metrics = jax.tree.map(lambda values: values.mean(0), each)
        update, optimizer_state = optimizer(self.config, self.steps).update(gradient, state.optimizer, state.theta_c)
        return CurveState(optax.apply_updates(state.theta_c, update), optimizer_state), metrics


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
    """Fit the control points of `curve` between theta_1 and P theta_2 (Neuron Alignment, Algorithm 2).

    Each step draws t uniformly from [0, 1] and takes an SGD step for theta_c on the training loss at r(t): the cross
    entropy in training mode plus the L2 term. The endpoints stay fixed.

    Args:
        key: Typed key. Every pair uses its own key, split from it.
        model: The model of the endpoints.
        curve: The curve, with at least one control point.
        theta_1: First endpoint, or several along a leading pair axis, which are fitted in one program.
        theta_2: Second endpoint, or as many.
        data: The data set.
        P: Hard or soft permutation of theta_2, with the pair axis of the endpoints. None: the identity.
        config: Settings. None: `FitConfig()`. A `TrainConfig` implies one t per step.
        recorder: The progress line, and the run folder from which an interrupted call resumes. None: silent.
        mesh: A mesh from `make_mesh`: pairs are distributed along `pair`, batches along `data`.

    Returns:
        The fit.

    Raises:
        SpecError: If endpoints and P are not of this model.
        InputError: If the curve has no control points, or model and data do not match.
        RunError: If a loss becomes infinite or NaN.

    Example::

        fit = fit_curve(key, model, bezier(model.spec), theta_1, theta_2, data, P=match.P)
        middle = fit.path(0.5)
    """
    check_fit_inputs(key, model, curve, data)
    config = config if isinstance(config, FitConfig) else FitConfig(**vars(config or TrainConfig()))
    pairs = pairs_of(model, theta_1, theta_2, P)
    context = CurveContext(pairs.theta_1, permute_pairs(model, pairs.P, pairs.theta_2))
    step = CurveStep(model, curve, config, steps_per_epoch(config, data))
    states = initial_states(step, pairs.theta_1)
    keys = jax.random.split(key, pairs.number)
    states, history = run_epochs(step, data, context, states, keys, recorder, mesh=mesh)
    return CurveFit(**fit_result(pairs, curve, states.theta_c, pairs.P), history=pairs.axis.remove(history))


def check_fit_inputs(key: jax.Array, model: Model, curve: Curve, data: Dataset) -> None:
    """Raise InputError unless the key is typed, model and data match, and the curve has control points."""
    check_typed_keys(key)
    check_model_and_data(model, data)
    if curve.control_points == 0:
        raise InputError("the straight line has no control points to fit: give a bezier or polygonal_chain.")


def check_different_ends(model: Model, pairs: Pairs) -> None:
    """Raise InputError if theta_1 and P theta_2 of any pair are the same network."""
    ends = (trees.params(pairs.theta_1), trees.params(permute_pairs(model, pairs.P, pairs.theta_2)))
    if np.asarray(_equal(*ends)).any():
        raise InputError("theta_1 and P theta_2 are the same network: expected two different ones to join.")


@jax.jit
@jax.vmap
def _equal(a: trees.Tree, b: trees.Tree) -> jax.Array:
    return jnp.stack(jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).all(), a, b))).all()


def fit_result(pairs: Pairs, curve: Curve, theta_c: trees.Tree, P: Permutation) -> dict[str, Any]:
    """The fields that all curve fits share, with a pair axis if the endpoints had one.

    Args:
        pairs: The endpoints.
        curve: The family of curves.
        theta_c: Control points of the parameters, with a pair axis.
        P: Permutations, with a pair axis.

    Returns:
        theta_c, a tree like theta, P and path.
    """
    # Add zeros for batch statistics, so that theta_c is a tree like theta.
    whole = trees.with_params(jax.vmap(curve.zero)(pairs.theta_1), theta_c)
    theta_1, theta_2, whole, P = pairs.axis.remove((pairs.theta_1, pairs.theta_2, whole, P))
    bind = curve.bind_pairs if pairs.axis.given else curve.bind
    return {"theta_c": whole, "P": P, "path": bind(theta_1, theta_2, whole, P)}


def accept_states(accepted: np.ndarray, new: CurveState, old: CurveState) -> CurveState:
    """The new states where accepted; elsewhere the old control points, with zero momentum and the new step count."""

    def where(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(accepted.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    def without_momentum(leaf: jax.Array) -> jax.Array:
        return jnp.zeros_like(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    rejected = CurveState(old.theta_c, jax.tree.map(without_momentum, new.optimizer))
    return jax.tree.map(where, new, rejected)
