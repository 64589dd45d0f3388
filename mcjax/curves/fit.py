"""Curve fitting: gradient descent on the control points (Neuron Alignment, Algorithm 2; Garipov et al. 2018)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import FitConfig
from mcjax.curves.curve import Curve
from mcjax.curves.norm_bound import OntoBall
from mcjax.errors import InputError, check_kind, check_positive, check_whole
from mcjax.models.pairs import Pairs, pairs_of, permute_pairs
from mcjax.runs.recorder import History, Recorder, checked_recorder
from mcjax.shown import short_repr
from mcjax.symmetry import Permutation, permute
from mcjax.training.config import check_config, make_optimizer
from mcjax.training.fit import ComputeDtype, Descent, Fit, FitState, Proximal, fit_of, uniform_t
from mcjax.training.loop import epoch_plan, initial_states, run_epochs
from mcjax.training.task import Task, check_task


@short_repr
class CurveFit(NamedTuple):
    """A fitted curve; with a leading pair axis if the endpoints had one.

    Attributes:
        theta_c: Control points, a tree like theta in float32 at least, zero for batch statistics and for leaves that
            are not floating-point, which `path` takes from theta_1.
        P: The permutation of theta_2.
        path: The fitted path t -> theta.
        history: Training metrics by name, "loss" among them, float32 ([pairs,] epochs).
    """

    theta_c: trees.Tree
    P: Permutation
    path: jax.tree_util.Partial
    history: History


@short_repr
class CurveEnds(NamedTuple):
    """The ends of a curve, which its fit keeps: theta_1, P theta_2, and the centre of a proximal term on theta_c."""

    theta_1: trees.Tree
    theta_2: trees.Tree
    anchor: trees.Tree = ()


@dataclass(frozen=True)
class OnCurve:
    """The embedding of control points: the network at t on the curve."""

    curve: Curve

    def __call__(self, theta_c: trees.Tree, ends: CurveEnds, t: Any) -> trees.Tree:
        params = self.curve(trees.params(ends.theta_1), trees.params(ends.theta_2), theta_c, None, t)
        # The loss is in training mode, so the batch statistics of the endpoints are not used.
        return trees.with_params(ends.theta_1, params)


def curve_fit(
    task: Task,
    curve: Curve,
    optimizer: optax.GradientTransformation,
    *,
    weight_decay: float = 0.0,
    points_per_step: int = 1,
    compute_dtype: ComputeDtype = "float32",
    nu_phi: float = math.inf,
    norm_bound: float | None = None,
) -> Fit:
    """The fitting of a curve as a `Fit`, for a loop of your own; `fit_curve` has one.

    Every step draws t uniformly from [0, 1] and descends the loss at r(t) (Neuron Alignment, Algorithm 2). It is pure:
    it works under jit, vmap over pairs, scan and shard_map.

    Args:
        task: The task, of which only the loss is used.
        curve: The curve, with at least one control point.
        optimizer: Any optimiser of optax.
        weight_decay: Factor of ||params(r(t))||^2 / 2 in the objective.
        points_per_step: Number of t per step.
        compute_dtype: Dtype of the forward and backward pass.
        nu_phi: Constant of the proximal term around the theta_c at the start, as in `PamConfig`. Infinity: no term.
        norm_bound: Bound of the norm of every leaf of the control points' networks, as in `PamConfig`.

    Returns:
        The fit. `init(theta_1, theta_2, P=None, theta_c=None)` makes its state, whose `variables` are the control
        points of the parameters; None is the identity, and the straight line.

    Raises:
        InputError: If the curve has no control points, or an argument is out of range.

    Example::

        fit = curve_fit(task, bezier(spec), optax.adam(1e-2))
        state = fit.init(theta_1, theta_2, P)
        state, metrics = jax.jit(fit.step)(state, batch, key)
        path = curve_path(bezier(spec), state)
    """
    check_curve(curve)
    check_whole("points_per_step", points_per_step)
    check_positive("nu_phi", nu_phi)
    if norm_bound is not None:
        check_positive("norm_bound", norm_bound)
    descent = Descent(
        OnCurve(curve),
        optimizer,
        sample_t=uniform_t,
        points=points_per_step,
        penalty=None if nu_phi == math.inf else Proximal(nu_phi),
        retract=None if norm_bound is None else OntoBall(curve, norm_bound),
        weight_decay=weight_decay,
        compute_dtype=compute_dtype,
    )
    return fit_of(descent, check_task(task, arrays=()).loss, _init)


def _init(
    descent: Descent,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    P: Permutation | None = None,
    theta_c: trees.Tree | None = None,
) -> FitState:
    """The state of a curve fit, from the straight line or a theta_c. Batch statistics have no control points."""
    curve = cast(OnCurve, descent.embed).curve
    if trees.shapes(theta_1) != trees.shapes(theta_2):
        raise InputError("theta_1 and theta_2 differ in names or shapes of leaves: expected one architecture.")
    theta_2 = theta_2 if P is None else permute(curve.spec, P, theta_2)
    start = curve.zero(trees.params(theta_1)) if theta_c is None else trees.params(theta_c)
    return descent.start(start, CurveEnds(theta_1, theta_2, () if descent.penalty is None else start))


def curve_path(curve: Curve, state: FitState) -> jax.tree_util.Partial:
    """The path t -> theta of the state of a curve fit."""
    ends = state.fixed
    theta_c = trees.with_params(curve.zero(ends.theta_1), state.variables)
    return curve.bind(ends.theta_1, ends.theta_2, theta_c)


def fit_curve(
    key: jax.Array,
    task: Task,
    curve: Curve,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    P: Permutation | None = None,
    config: FitConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> CurveFit:
    """Fit the control points of `curve` between theta_1 and P theta_2 (Neuron Alignment, Algorithm 2).

    Each step draws t uniformly from [0, 1] and takes a step of the optimiser for theta_c on the training loss at r(t):
    the loss of the task plus the L2 term. The endpoints stay fixed.

    Args:
        key: Typed key. Every pair uses its own key, split from it.
        task: The task.
        curve: The curve, with at least one control point.
        theta_1: First endpoint, or several along a leading pair axis, which are fitted in one program.
        theta_2: Second endpoint, or as many.
        P: Hard or soft permutation of theta_2, with the pair axis of the endpoints. None: the identity.
        config: Settings. None: `FitConfig()`.
        recorder: `Recorder()` for a progress line, and with a run folder an interrupted call resumes. None: silent.
        mesh: A mesh from `make_mesh`: pairs are distributed along `pair`, batches along `data`.

    Returns:
        The fit.

    Raises:
        SpecError: If the endpoints are not of this task, or the spec of the curve does not fit them or P.
        InputError: If the curve has no control points, or the loss does not take the endpoints.
        RunError: If a loss becomes infinite or NaN.

    Example::

        fit = fit_curve(key, task, bezier(task.spec), theta_1, theta_2, P=match.P)
        middle = fit.path(0.5)
    """
    config = check_config(config, FitConfig)
    task, pairs = check_fit_inputs(key, task, curve, theta_1, theta_2, P)
    plan = epoch_plan(task, config.batch_size, config.steps_per_epoch)
    fit = configured_curve_fit(task, curve, config, config.epochs, plan.steps)
    states = initial_states(fit, pairs.theta_1, permute_pairs(curve.spec, pairs.P, pairs.theta_2))
    keys = jax.random.split(key, pairs.number)
    recorder = recorded_inputs(checked_recorder(recorder), key, task, curve, pairs, config)
    states, history = run_epochs(fit, task, plan, states, keys, config.epochs, recorder, mesh=mesh)
    return CurveFit(**fit_result(pairs, curve, states.variables, pairs.P), history=pairs.axis.remove(history))


def configured_curve_fit(
    task: Task, curve: Curve, config: FitConfig, epochs: int, steps_per_epoch: int, **more: Any
) -> Fit:
    """The fitting of a curve by a config, with a schedule over so many epochs, and `more` options of `curve_fit`."""
    return curve_fit(
        task,
        curve,
        make_optimizer(config.optimizer, epochs, steps_per_epoch),
        weight_decay=config.weight_decay,
        points_per_step=config.points_per_step,
        compute_dtype=config.compute_dtype,
        **more,
    )


def recorded_inputs(
    recorder: Recorder, key: jax.Array, task: Task, curve: Curve, pairs: Pairs, config: Any
) -> Recorder:
    """The recorder, for a fit of curves with these inputs."""
    settings = {"config": config, "curve": [curve.kind, curve.control_points]}
    ends = {"theta_1": pairs.theta_1, "theta_2": pairs.theta_2, "P": pairs.P}
    return recorder.of(settings, key=key, data=task.train, **ends)


def check_curve(curve: Any, least: int = 1) -> None:
    """Raise InputError unless this is a curve with at least so many control points."""
    check_kind("curve", curve, Curve, "mcjax.bezier(spec)")
    if curve.control_points < least:
        raise InputError("the straight line has no control points to fit: give a bezier or polygonal_chain.")


def check_fit_inputs(
    key: jax.Array,
    task: Task,
    curve: Curve,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    P: Permutation | None,
    hard: bool = False,
) -> tuple[Task, Pairs]:
    """The checked task and endpoints.

    Args:
        key: A typed key.
        task: The task.
        curve: The curve.
        theta_1: First endpoint, or several along a leading pair axis.
        theta_2: Second endpoint, or as many.
        P: Permutation of theta_2. None: the identity.
        hard: Whether a soft P raises an error.

    Returns:
        The task, ready for these networks, and the pairs.

    Raises:
        InputError: If the key is not typed, the curve has no control points, or the loss does not take the endpoints.
        SpecError: If the endpoints are not of this task, or the spec of the curve does not fit them or P.
    """
    trees.check_keys(key, 0)
    check_curve(curve)
    task = check_task(task, arrays=())
    pairs = pairs_of(task, curve.spec, theta_1, theta_2, P, hard=hard)
    return check_task(task, trees.index(pairs.theta_1, 0), arrays=()), pairs


def check_different_ends(curve: Curve, pairs: Pairs) -> None:
    """Raise InputError if theta_1 and P theta_2 of any pair are the same network."""
    ends = (trees.trained(pairs.theta_1), trees.trained(permute_pairs(curve.spec, pairs.P, pairs.theta_2)))
    if np.asarray(_equal(*ends)).any():
        raise InputError("theta_1 and P theta_2 are the same network: expected two different ones to join.")


@partial(jax.jit, static_argnums=0)
def _zeros(curve: Curve, theta_1: trees.Tree) -> trees.Tree:
    return jax.vmap(curve.zero)(theta_1)


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
    whole = trees.with_params(_zeros(curve, pairs.theta_1), theta_c)
    theta_1, theta_2, whole, P = pairs.axis.remove((pairs.theta_1, pairs.theta_2, whole, P))
    bind = curve.bind_pairs if pairs.axis.given else curve.bind
    return {"theta_c": whole, "P": P, "path": bind(theta_1, theta_2, whole, P)}
