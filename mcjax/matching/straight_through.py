"""Straight-through matching: descent on the loss between two networks, through hard permutations."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.errors import InputError, check_positive, check_whole
from mcjax.matching.match import Match
from mcjax.matching.weights import match_weights
from mcjax.models.base import leading_axis
from mcjax.models.pairs import pairs_of
from mcjax.runs.recorder import Recorder, checked_recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.symmetry import Permutation, PermutationSpec, nearest_permutation_on_device, permute, to_matrix
from mcjax.symmetry.spec import check_spec
from mcjax.training.batches import fixed_examples, training_objective
from mcjax.training.config import check_config, check_settings
from mcjax.training.fit import ComputeDtype, Descent, Fit, FitState, fit_of, uniform_t
from mcjax.training.loop import epoch_plan, initial_states, run_epochs
from mcjax.training.loss import Batch
from mcjax.training.task import Task, check_task


@dataclass(frozen=True)
class StraightThroughConfig:
    """Settings of straight-through matching, which trains real matrices by Adam.

    Attributes:
        epochs: Number of epochs.
        batch_size: Examples per step.
        steps_per_epoch: Steps per epoch. None: the number of whole batches in the training examples.
        compute_dtype: Dtype of the forward and backward pass.
        travel: The sum of the learning rates of all steps, which decay to zero along a cosine: about the distance that
            an entry of a matrix can move. The default suits a start from a match; from the identity, three times as
            much is better.
        random_t: Whether t is drawn uniformly from [0, 1] at every step. Otherwise t = 1/2.
        examples: Number of training examples on which the permutations of all epochs are compared.
    """

    epochs: int = 20
    batch_size: int = 128
    steps_per_epoch: int | None = None
    compute_dtype: ComputeDtype = "float32"
    travel: float = 2.0
    random_t: bool = False
    examples: int = 2000

    def __post_init__(self) -> None:
        check_settings(self)
        check_whole("examples", self.examples)
        check_positive("travel", self.travel)


class Ends(NamedTuple):
    """The two networks, which the fit does not change."""

    theta_1: trees.Tree
    theta_2: trees.Tree


class StraightThroughState(NamedTuple):
    """The state of a descent over permutations.

    Attributes:
        variables: group -> float32 (n, n), the real matrix whose nearest permutation is P.
        optimizer: The state of Adam.
        fixed: The two networks.
        step: Number of steps taken, int32.
        after_epochs: group -> int32 (epochs, n), the permutations after every epoch but the last.
    """

    variables: Permutation
    optimizer: optax.OptState
    fixed: Ends
    step: jax.Array
    after_epochs: Permutation


class RoundedEnds(NamedTuple):
    """The two networks, and the permutations nearest to the matrices."""

    ends: Ends
    P: Permutation


@dataclass(frozen=True)
class OnRoundedLine:
    """The embedding of real matrices: the network at t on the line to P theta_2, P the nearest permutation.

    The gradient is that with respect to P, as if rounding were the identity.
    """

    spec: PermutationSpec

    def __call__(self, matrices: Permutation, rounded: RoundedEnds, t: Any) -> trees.Tree:
        # Straight-through estimator: the value of the permutation, with the gradient of the matrix.
        P = {g: to_matrix(rounded.P[g]) + M - jax.lax.stop_gradient(M) for g, M in matrices.items()}
        return between(self.spec, rounded.ends, P, t)


def _midpoint(key: jax.Array, points: int) -> jax.Array:
    return jnp.full(points, 0.5)


def straight_through_fit(
    task: Task,
    spec: PermutationSpec,
    epochs: int,
    steps_per_epoch: int,
    *,
    travel: float = 2.0,
    random_t: bool = False,
    compute_dtype: ComputeDtype = "float32",
) -> Fit:
    """Straight-through matching as a `Fit`, for a loop of your own; `match_straight_through` has one.

    Args:
        task: The task, of which only the loss is used.
        spec: The permutation symmetry of both networks.
        epochs: Number of epochs.
        steps_per_epoch: Steps per epoch, after which the permutations are noted.
        travel: As in `StraightThroughConfig`.
        random_t: As in `StraightThroughConfig`.
        compute_dtype: Dtype of the forward and backward pass.

    Returns:
        The fit. `init(theta_1, theta_2, P)` makes its state from a hard P; the `variables` of a state are real
        matrices, whose nearest permutations are P.

    Example::

        fit = straight_through_fit(task, spec, 20, 10)
        state = fit.init(theta_1, theta_2, P)
        state, metrics = jax.jit(fit.step)(state, batch, key)
    """
    check_spec(spec)
    check_whole("epochs", epochs)
    check_whole("steps_per_epoch", steps_per_epoch)
    descent = Descent(
        OnRoundedLine(spec),
        _adam(travel, epochs * steps_per_epoch),
        sample_t=uniform_t if random_t else _midpoint,
        compute_dtype=compute_dtype,
    )
    inner = fit_of(descent, check_task(task, arrays=()).loss, Descent.start)
    length = _Length(epochs, steps_per_epoch)
    return Fit(jax.tree_util.Partial(_init, length, inner), jax.tree_util.Partial(_step, length, inner))


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Length:
    """The number of epochs, and of steps per epoch."""

    epochs: int
    steps_per_epoch: int


@lru_cache(maxsize=64)
def _adam(travel: float, steps: int) -> optax.GradientTransformation:
    # A cosine sums up to half as much as a constant rate.
    return optax.adam(optax.cosine_decay_schedule(2 * travel / steps, steps))


def _init(
    length: _Length, inner: Fit, theta_1: trees.Tree, theta_2: trees.Tree, P: Permutation
) -> StraightThroughState:
    """The state with the matrices of P, and a fresh optimiser."""
    matrices = {group: to_matrix(p) for group, p in P.items()}
    noted = {group: jnp.tile(jnp.asarray(p, jnp.int32)[None], (length.epochs, 1)) for group, p in P.items()}
    start = inner.init(matrices)
    return StraightThroughState(start.variables, start.optimizer, Ends(theta_1, theta_2), jnp.int32(0), noted)


def _step(
    length: _Length, inner: Fit, state: StraightThroughState, batch: Batch, key: jax.Array
) -> tuple[StraightThroughState, dict[str, jax.Array]]:
    """One step of Adam on the matrices, by the gradient at the nearest permutations."""
    # Round: the permutations nearest to the matrices.
    hard = {group: nearest_permutation_on_device(M) for group, M in state.variables.items()}
    new, metrics = inner.step(FitState(state.variables, state.optimizer, RoundedEnds(state.fixed, hard)), batch, key)
    # `hard` rounds the matrices after the previous step, so the first step of an epoch notes the end of the previous
    # epoch. The very first step writes to the last row, which is not used.
    number = (state.step - 1) // length.steps_per_epoch
    noted = {group: rows.at[number].set(hard[group]) for group, rows in state.after_epochs.items()}
    return StraightThroughState(new.variables, new.optimizer, state.fixed, state.step + 1, noted), metrics


def between(spec: PermutationSpec, ends: Ends, P: Permutation, t: Any) -> trees.Tree:
    """The network at t on the straight line from theta_1 to P theta_2.

    Args:
        spec: The permutation symmetry of both networks.
        ends: The networks theta_1 and theta_2.
        P: Hard or soft permutation of theta_2.
        t: The point on the line, 0 at theta_1.

    Returns:
        The network, with the batch statistics and the dtypes of theta_1.
    """
    end = permute(spec, P, ends.theta_2)
    params = trees.interpolate(trees.params(ends.theta_1), trees.params(end), t)
    return trees.with_params(ends.theta_1, params)


def match_straight_through(
    key: jax.Array,
    task: Task,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    P: Permutation | None = None,
    config: StraightThroughConfig | None = None,
    *,
    recorder: Recorder | None = None,
) -> Match:
    """The P for which the network at the midpoint between theta_1 and `P theta_2` has the least loss.

    A real matrix per group is trained. Each step rounds the matrices to permutations (by linear assignment, on the
    device), takes the gradient of the loss at t = 1/2 with respect to the permutation matrices, and applies it to the
    real matrices, as if rounding were the identity. The start and the permutations after every epoch are compared on
    fixed examples, and the best one is returned.
    Source: Ainsworth, Hayase and Srinivasa 2023, "Git Re-Basin", section 3.3. There the real variables are a copy
    of theta_1, rounded by weight matching with theta_2.

    Args:
        key: A typed key.
        task: The task of both networks, with a spec.
        theta_1: Variables of one network, or of several along a leading pair axis.
        theta_2: Second network, or as many, whose units are matched to those of theta_1.
        P: group -> int32 ([pairs,] n), the start. None: the result of `match_weights`, since the gradient at a
            permutation is informative near it only.
        config: Settings. None: `StraightThroughConfig()`.
        recorder: `Recorder()` for a progress line, and with a run folder an interrupted call resumes. None: silent.

    Returns:
        A `Match` whose objective is the loss at t = 1/2. `info["objectives"]`: the same at the start
        and after every epoch, float64 ([pairs,] 1 + epochs). `info["history"]`: the training metrics by name
        at the t of each step, float32 ([pairs,] epochs).

    Raises:
        InputError: If the key is not typed, the task has no spec, or no unit can be permuted.
        SpecError: If endpoints and P are not of this task.
        RunError: If the loss is not finite.

    Example::

        match = match_straight_through(key, task, theta_1, theta_2, P=match_activations(...).P)
        print(match.info["objectives"])
    """
    trees.check_keys(key, 0)
    config = check_config(config, StraightThroughConfig)
    spec = check_task(task, arrays=()).spec
    if spec is None or not spec.groups:
        raise InputError(
            f"no units of {task.name} can be permuted, expected a task whose spec has groups: Task(spec=)."
        )
    if P is None:
        leading_axis(task, theta_1, theta_2)
        weights_key, key = jax.random.split(key)
        P = match_weights(weights_key, spec, theta_1, theta_2).P
    pairs = pairs_of(task, spec, theta_1, theta_2, P, hard=True)
    task = check_task(task, trees.index(pairs.theta_1, 0), arrays=())
    plan = epoch_plan(task, config.batch_size, config.steps_per_epoch)
    settings = {name: getattr(config, name) for name in ("travel", "random_t", "compute_dtype")}
    fit = straight_through_fit(task, spec, config.epochs, plan.steps, **settings)
    states = initial_states(fit, pairs.theta_1, pairs.theta_2, pairs.P)
    ends = {"theta_1": pairs.theta_1, "theta_2": pairs.theta_2, "P": pairs.P}
    recorder = checked_recorder(recorder).of({"config": config}, key=key, data=task.train, **ends)
    states, history = run_epochs(fit, task, plan, states, jax.random.split(key, pairs.number), config.epochs, recorder)
    # Candidates: the start, the end of every epoch but the last, and the end of the last one.
    last = {group: jax.vmap(nearest_permutation_on_device)(M) for group, M in states.variables.items()}
    candidates = {
        group: jnp.concatenate([p[:, None], states.after_epochs[group][:, :-1], last[group][:, None]], 1)
        for group, p in pairs.P.items()
    }
    fixed, size = fixed_examples(task, config.examples, config.batch_size)
    found = _midpoint_losses(spec, size, task.functions(), fixed, states.fixed, candidates)
    objectives = np.asarray(found, np.float64)
    best = (np.arange(pairs.number), objectives.argmin(1))
    P = {group: np.asarray(p)[best] for group, p in candidates.items()}
    return pairs.axis.remove(Match(P, objectives[best], {"objectives": objectives, "history": history}))


@jit(static_argnames=("spec", "batch_size"))
def _midpoint_losses(
    spec: PermutationSpec, batch_size: int, task: Task, fixed: Batch, ends: Ends, P: Permutation
) -> jax.Array:
    """The loss at t = 1/2 for candidates P, (pairs, candidates, n) a group: float32 (pairs, candidates)."""

    def pair(ends: Ends, P: Permutation) -> jax.Array:
        def candidate(P: Permutation) -> jax.Array:
            return training_objective(task.loss, between(spec, ends, P, 0.5), fixed, batch_size, 0.0)

        return jax.lax.map(candidate, P)

    return over_models(pair)(ends, P)
