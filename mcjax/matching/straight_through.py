"""Straight-through matching: descent on the loss between two networks, through hard permutations."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError, check_whole
from mcjax.matching.match import Match
from mcjax.matching.weights import match_weights
from mcjax.models.base import Model, leading_axis
from mcjax.models.pairs import pairs_of
from mcjax.runs.recorder import Recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import Convolutions, over_models
from mcjax.symmetry import Permutation, nearest_permutation_on_device, permute, to_matrix
from mcjax.training.config import TrainConfig
from mcjax.training.fixed import FixedImages, fixed_images, objective_on
from mcjax.training.loop import check_typed_keys, initial_states, run_epochs, steps_per_epoch, training_augmentation
from mcjax.training.objective import Metrics, check_model_and_data, training_loss


@dataclass(frozen=True)
class StraightThroughConfig(TrainConfig):
    """Settings of straight-through matching: a `TrainConfig` for Adam on real matrices.

    Learning rate, schedule, momentum and weight decay of `TrainConfig` are ignored.

    Attributes:
        epochs: Number of epochs.
        travel: The sum of the learning rates of all steps, which decay to zero along a cosine: about the distance that
            an entry of a matrix can move. The default suits a start from a match; from the identity, three times as
            much is better.
        random_t: Whether t is drawn uniformly from [0, 1] at every step. Otherwise t = 1/2.
        images: Number of training images on which the permutations of all epochs are compared.
    """

    epochs: int = 20
    travel: float = 2.0
    random_t: bool = False
    images: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("images", self.images)
        if not self.travel > 0:
            raise InputError(f"got travel={self.travel}, expected it to be positive.")


class State(NamedTuple):
    """The state of a descent over permutations.

    Attributes:
        matrices: group -> float32 (n, n), the real matrix whose nearest permutation is P.
        optimizer: The state of Adam.
        step: Number of steps taken, int32.
        path: group -> int32 (epochs, n), the permutations after every epoch but the last.
    """

    matrices: Permutation
    optimizer: optax.OptState
    step: jax.Array
    path: Permutation


class BothEnds(NamedTuple):
    """The two networks."""

    theta_1: trees.Tree
    theta_2: trees.Tree


@dataclass(frozen=True)
class StraightThroughStep:
    """One step of Adam on the matrices, by the gradient at the nearest permutations, `steps` times per epoch."""

    model: Model
    config: StraightThroughConfig
    steps: int

    @property
    def convolutions(self) -> Convolutions:
        """The kind of convolutions in the model."""
        return self.model.convolutions

    def _optimizer(self) -> optax.GradientTransformation:
        steps = self.config.epochs * self.steps
        # A cosine sums up to half as much as a constant rate.
        return optax.adam(optax.cosine_decay_schedule(2 * self.config.travel / steps, steps))

    def init(self, P: Permutation) -> State:
        """The state with the matrices of P, and a fresh optimiser."""
        matrices = {group: to_matrix(p) for group, p in P.items()}
        path = {group: jnp.tile(jnp.asarray(p, jnp.int32)[None], (self.config.epochs, 1)) for group, p in P.items()}
        return State(matrices, self._optimizer().init(matrices), jnp.zeros((), jnp.int32), path)

    def __call__(
        self, ends: BothEnds, state: State, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[State, Metrics]:
        t_key, model_key = jax.random.split(key)
        t = jax.random.uniform(t_key) if self.config.random_t else 0.5

        # Round: the permutations nearest to the matrices.
        hard = {group: nearest_permutation_on_device(M) for group, M in state.matrices.items()}

        def loss(matrices: Permutation) -> tuple[jax.Array, Metrics]:
            # Straight-through estimator: the value of the permutation, with the gradient of the matrix.
            P = {g: to_matrix(hard[g]) + M - jax.lax.stop_gradient(M) for g, M in matrices.items()}
            theta = between(self.model, ends, P, t)
            value, (measured, _) = training_loss(
                self.model, theta, x, labels, model_key, 0.0, self.config.compute_dtype
            )
            return value, measured

        # Step: Adam on the matrices.
        gradient, measured = jax.grad(loss, has_aux=True)(state.matrices)
        updates, optimizer = self._optimizer().update(gradient, state.optimizer)
        matrices = optax.apply_updates(state.matrices, updates)
        # `hard` rounds the matrices after the previous step, so the first step of an epoch records the end of the
        # previous epoch. The very first step writes to the last row, which is not used.
        number = (state.step - 1) // self.steps
        path = {group: rows.at[number].set(hard[group]) for group, rows in state.path.items()}
        return State(matrices, optimizer, state.step + 1, path), measured


def between(model: Model, ends: BothEnds, P: Permutation, t: float | jax.Array) -> trees.Tree:
    """The network at t on the straight line from theta_1 to P theta_2.

    Args:
        model: The model of both networks.
        ends: The networks theta_1 and theta_2.
        P: Hard or soft permutation of theta_2.
        t: The point on the line, 0 at theta_1.

    Returns:
        The network, with the batch statistics of theta_1.
    """
    end = permute(model.spec, P, ends.theta_2)
    params = jax.tree.map(lambda a, b: (1 - t) * a + t * b, trees.params(ends.theta_1), trees.params(end))
    return trees.with_params(ends.theta_1, params)


def match_straight_through(
    key: jax.Array,
    model: Model,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    data: Dataset,
    P: Permutation | None = None,
    config: StraightThroughConfig | None = None,
    *,
    recorder: Recorder | None = None,
) -> Match:
    """The P for which the network at the midpoint between theta_1 and `P theta_2` has the least loss.

    A real matrix per group is trained. Each step rounds the matrices to permutations (by linear assignment, on the
    device), takes the gradient of the loss at t = 1/2 with respect to the permutation matrices, and applies it to the
    real matrices, as if rounding were the identity. The start and the permutations after every epoch are compared on
    fixed images, and the best one is returned.
    Source: Ainsworth, Hayase and Srinivasa 2023, "Git Re-Basin", section 3.3. There the real variables are a copy
    of theta_1, rounded by weight matching with theta_2.

    Args:
        key: A typed key.
        model: The model of both networks.
        theta_1: Variables of one network, or of several along a leading pair axis.
        theta_2: Second network, or as many, whose units are matched to those of theta_1.
        data: The data set, of which the training images are used.
        P: group -> int32 ([pairs,] n), the start. None: the result of `match_weights`, since the gradient at a
            permutation is informative near it only.
        config: Settings. None: `StraightThroughConfig()`.
        recorder: The progress line, and the run folder from which an interrupted call resumes. None: silent.

    Returns:
        A `Match` whose objective is the cross entropy at t = 1/2 (nats). `info["objectives"]`: the same at the start
        and after every epoch, float64 ([pairs,] 1 + epochs). `info["history"]`: {"loss", "accuracy"}, training metrics
        at the t of each step, float32 ([pairs,] epochs).

    Raises:
        InputError: If the key is not typed, model and data do not match, or no unit can be permuted.
        SpecError: If endpoints and P are not of this model.
        RunError: If the loss is not finite.

    Example::

        match = match_straight_through(key, model, theta_1, theta_2, data, P=match_activations(...).P)
        print(match.info["objectives"])
    """
    check_typed_keys(key)
    config = config or StraightThroughConfig()
    check_model_and_data(model, data)
    if not isinstance(config, StraightThroughConfig):
        raise InputError(f"got a {type(config).__name__} for config, expected a StraightThroughConfig.")
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted: there is nothing to match.")
    if P is None:
        leading_axis(model, theta_1, theta_2)
        weights_key, key = jax.random.split(key)
        P = match_weights(weights_key, model.spec, theta_1, theta_2).P
    pairs = pairs_of(model, theta_1, theta_2, P, hard=True)
    step = StraightThroughStep(model, config, steps_per_epoch(config, data))
    ends = BothEnds(pairs.theta_1, pairs.theta_2)
    keys = jax.random.split(key, pairs.number)
    states, history = run_epochs(step, data, ends, initial_states(step, pairs.P), keys, recorder)
    # Candidates: the start, the end of every epoch but the last, and the end of the last one.
    last = {group: jax.vmap(nearest_permutation_on_device)(M) for group, M in states.matrices.items()}
    candidates = {
        group: jnp.concatenate([p[:, None], states.path[group][:, :-1], last[group][:, None]], 1)
        for group, p in pairs.P.items()
    }
    fixed = fixed_images(data, training_augmentation(config, data), config.images, config.batch_size)
    objectives = np.asarray(_midpoint_losses(model, fixed, ends, candidates), np.float64)
    best = (np.arange(pairs.number), objectives.argmin(1))
    P = {group: np.asarray(p)[best] for group, p in candidates.items()}
    return pairs.axis.remove(Match(P, objectives[best], {"objectives": objectives, "history": history}))


@jit(static_argnames="model")
def _midpoint_losses(model: Model, fixed: FixedImages, ends: BothEnds, P: Permutation) -> jax.Array:
    """The cross entropy at t = 1/2 for candidates P, (pairs, candidates, n) a group: float32 (pairs, candidates)."""

    def pair(ends: BothEnds, P: Permutation) -> jax.Array:
        return jax.lax.map(lambda each: objective_on(model, between(model, ends, each, 0.5), fixed, 0.0), P)

    return over_models(pair, model.convolutions)(ends, P)
