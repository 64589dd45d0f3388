"""Straight-through matching: the loss between two networks, descended through hard permutations."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError, check_whole
from mcjax.matching.weights import match_weights
from mcjax.models.base import Model, check_ends
from mcjax.models.pairs import pairs_of
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import Convolutions, over_models
from mcjax.symmetry import (
    Permutation,
    nearest_permutation_on_device,
    permute,
    to_matrix,
)
from mcjax.training.config import TrainConfig
from mcjax.training.fixed import FixedImages, fixed_images, objective_on
from mcjax.training.loop import check_typed_keys, initial_states, run_epochs, steps_per_epoch, training_augmentation
from mcjax.training.objective import Metrics, check_model_and_data, training_loss


@dataclass(frozen=True)
class StraightThroughConfig(TrainConfig):
    """`TrainConfig` of the matrices behind the permutations, which Adam moves.

    travel: how far it can move an entry in all steps together, so its learning rate is the one that falls
    to zero along a cosine and sums up to that. The default suits a start from a match; from the
    identity three times as much goes farther. random_t: draw t uniformly from [0, 1] at every step instead
    of t = 1/2. images: how many of the training images the permutations of all epochs are compared on.
    Learning rate, schedule, momentum and weight decay are not read.
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


class StraightThroughMatch(NamedTuple):
    """A matching of theta_2 onto theta_1; with a leading pair axis if the endpoints had one.

    P: group -> int32 ([pairs,] n), the best at the end of an epoch, or the start. objective: the cross
    entropy at t = 1/2 at the start and after every epoch, float64 ([pairs,] 1 + epochs). history: the
    loss and accuracy at the points that were drawn, float32 ([pairs,] epochs).
    """

    P: Permutation
    objective: np.ndarray
    history: History


class State(NamedTuple):
    """The matrices, Adam's state, the steps taken, and the permutations at the end of every epoch but the last."""

    matrices: Permutation
    optimizer: optax.OptState
    step: jax.Array
    path: Permutation


class BothEnds(NamedTuple):
    """What a step reads."""

    theta_1: trees.Tree
    theta_2: trees.Tree


@dataclass(frozen=True)
class StraightThroughStep:
    """One step of Adam on the matrices, by the gradient at the permutations nearest to them."""

    model: Model
    config: StraightThroughConfig
    steps: int

    @property
    def convolutions(self) -> Convolutions:
        """What the model convolves with."""
        return self.model.convolutions

    def _optimizer(self) -> optax.GradientTransformation:
        steps = self.config.epochs * self.steps
        # A cosine sums up to half of what a constant rate would.
        return optax.adam(optax.cosine_decay_schedule(2 * self.config.travel / steps, steps))

    def init(self, P: Permutation) -> State:
        """The matrices of P."""
        matrices = {group: to_matrix(p) for group, p in P.items()}
        path = {group: jnp.tile(jnp.asarray(p, jnp.int32)[None], (self.config.epochs, 1)) for group, p in P.items()}
        return State(matrices, self._optimizer().init(matrices), jnp.zeros((), jnp.int32), path)

    def __call__(
        self, ends: BothEnds, state: State, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[State, Metrics]:
        t_key, model_key = jax.random.split(key)
        t = jax.random.uniform(t_key) if self.config.random_t else 0.5

        hard = {group: nearest_permutation_on_device(M) for group, M in state.matrices.items()}

        def loss(matrices: Permutation) -> tuple[jax.Array, Metrics]:
            # The value of the hard permutation, the gradient of the matrix behind it.
            P = {g: to_matrix(hard[g]) + M - jax.lax.stop_gradient(M) for g, M in matrices.items()}
            theta = between(self.model, ends, P, t)
            value, (measured, _) = training_loss(
                self.model, theta, x, labels, model_key, 0.0, self.config.compute_dtype
            )
            return value, measured

        gradient, measured = jax.grad(loss, has_aux=True)(state.matrices)
        updates, optimizer = self._optimizer().update(gradient, state.optimizer)
        matrices = optax.apply_updates(state.matrices, updates)
        # What the step before left. The first step has none, and writes where the end of the run comes.
        number = (state.step - 1) // self.steps
        path = {group: rows.at[number].set(hard[group]) for group, rows in state.path.items()}
        return State(matrices, optimizer, state.step + 1, path), measured


def between(model: Model, ends: BothEnds, P: Permutation, t: float | jax.Array) -> trees.Tree:
    """The network at t on the straight line from theta_1 to P theta_2."""
    end = permute(model.spec, P, ends.theta_2)
    params = jax.tree.map(lambda a, b: (1 - t) * a + t * b, trees.params(ends.theta_1), trees.params(end))
    return trees.with_params(ends.theta_1, params)


@jit(static_argnames="model")
def _midpoints(model: Model, fixed: FixedImages, ends: BothEnds, P: Permutation) -> jax.Array:
    """The cross entropy at the midpoints of candidates (pairs, candidates)."""

    def pair(ends: BothEnds, P: Permutation) -> jax.Array:
        return jax.lax.map(lambda one: objective_on(model, between(model, ends, one, 0.5), fixed, 0.0), P)

    return over_models(pair, model.convolutions)(ends, P)


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
) -> StraightThroughMatch:
    """The P for which the network halfway between theta_1 and `P theta_2` has the least loss.

    Behind every permutation is a real matrix. Each step takes the permutations nearest to them
    (linear assignment, on the device), the gradient of the loss at t = 1/2 with respect to the
    permutation matrices, and moves the real ones by it, as if rounding were the identity. Of the
    start and the permutations after every epoch the one with the least loss on fixed images is
    returned. P is where to start; None is `match_weights`, for the gradient at a permutation says little
    of those far from it. Endpoints, and P, may have a leading pair axis. Raises SpecError if endpoints
    and P are not of this model, RunError if the loss is not finite. Source: Ainsworth et al., 2022, "Git
    Re-Basin", section 3.3 (there the real variables are a copy of theta_1, and its weight matching with
    theta_2 is the rounding).
    """
    check_typed_keys(key)
    config = config or StraightThroughConfig()
    check_model_and_data(model, data)
    if not isinstance(config, StraightThroughConfig):
        raise InputError(f"got a {type(config).__name__} for config, expected a StraightThroughConfig.")
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted, so that there is nothing to match.")
    if P is None:
        check_ends(model, theta_1, theta_2)
        weights_key, key = jax.random.split(key)
        P = match_weights(weights_key, model.spec, theta_1, theta_2).P
    pairs = pairs_of(model, theta_1, theta_2, P, hard=True)
    step = StraightThroughStep(model, config, steps_per_epoch(config, data))
    ends = BothEnds(pairs.theta_1, pairs.theta_2)
    keys = jax.random.split(key, pairs.number)
    states, history = run_epochs(step, data, ends, initial_states(step, pairs.P), keys, recorder)
    last = {group: jax.vmap(nearest_permutation_on_device)(M) for group, M in states.matrices.items()}
    choices = {
        group: jnp.concatenate([p[:, None], states.path[group][:, :-1], last[group][:, None]], 1)
        for group, p in pairs.P.items()
    }
    fixed = fixed_images(data, training_augmentation(config, data), config.images, config.batch_size)
    values = np.asarray(_midpoints(model, fixed, ends, choices), np.float64)
    best = values.argmin(1)
    found = {group: np.asarray(p)[np.arange(pairs.number), best] for group, p in choices.items()}
    return StraightThroughMatch(*pairs.unbatch((found, values, history)))
