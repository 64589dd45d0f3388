"""Settings of training: epochs, batches, optimiser. Frozen, static under jit."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeVar, get_type_hints

import optax

from mcjax.errors import InputError, check_fields, check_kind, check_whole, unknown_name
from mcjax.training.fit import ComputeDtype, not_an_optimizer

Config = TypeVar("Config")
Schedule = Literal["halving", "one_cycle", "linear", "constant"]


@dataclass(frozen=True)
class SGD:
    """SGD of the papers, with a schedule over the whole fit: an optimiser for the `optimizer` of every config.

    A config calls it as `optimizer(steps, steps_per_epoch)`, with the numbers of steps of the fit.

    Attributes:
        learning_rate: The maximum learning rate of the schedule.
        schedule: "halving" halves the rate every 20 epochs; "one_cycle" warms up over the first fifth of the steps
            and decays to zero along a cosine; "linear" decays to zero along a straight line; "constant" keeps it.
        momentum: Momentum, in [0, 1).
        nesterov: Whether the momentum is Nesterov's.
        clip: Maximum global norm of a gradient; larger ones are scaled down to it. None: no clipping.
        decay: Factor of the rate from one epoch to the next, beside the schedule, in (0, 1]. It is 0.9996 in the code
            of Neuron Alignment.
    """

    learning_rate: float = 0.1
    schedule: Schedule = "one_cycle"
    momentum: float = 0.9
    nesterov: bool = True
    clip: float | None = None
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, good, expected in (
            ("learning_rate", self.learning_rate > 0, "positive"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("clip", self.clip is None or self.clip > 0, "positive, or None"),
            ("decay", 0 < self.decay <= 1, "in (0, 1]"),
        ):
            if not good:
                raise InputError(f"got {name}={getattr(self, name)}, expected it to be {expected}.")

    def __call__(self, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
        rates: dict[str, Any] = {
            "constant": self.learning_rate,
            "linear": optax.linear_schedule(self.learning_rate, 0.0, steps),
            # The papers' schedule: half the rate every 20 epochs.
            "halving": lambda step: self.learning_rate * 0.5 ** (step // (20 * steps_per_epoch)),
            "one_cycle": optax.warmup_cosine_decay_schedule(
                self.learning_rate / 20, self.learning_rate, max(1, steps // 5), max(2, steps)
            ),
        }
        rate = rates[self.schedule]
        if self.decay < 1:
            rate = _decaying(rate, self.decay, steps_per_epoch)
        sgd = optax.sgd(rate, momentum=self.momentum or None, nesterov=self.nesterov)
        return sgd if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), sgd)


def _decaying(rate: Any, decay: float, steps_per_epoch: int) -> optax.Schedule:
    """A rate or schedule times `decay` for every epoch before a step."""
    return lambda step: (rate(step) if callable(rate) else rate) * decay ** (step // steps_per_epoch)


Optimizer: TypeAlias = optax.GradientTransformation | Callable[[int, int], optax.GradientTransformation]
"""An optimiser of optax, or a function `(steps, steps_per_epoch)` that makes one, for schedules over the whole fit."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training of networks; `TrainConfig.preset` has "paper" and "fast".

    Attributes:
        epochs: Number of epochs.
        batch_size: Examples per step.
        optimizer: Any optimiser of optax, such as `optax.adam(1e-3)`; or a function `(steps, steps_per_epoch)` that
            makes one for the numbers of steps of the fit, such as `SGD()`. Fits with the same object, or equal `SGD`s,
            share their programs.
        weight_decay: Factor of ||params||^2 / 2 in the training loss. It is part of the gradient, and so of the
            momentum, as in the papers' code.
        steps_per_epoch: Steps per epoch. None: the number of whole batches in the training examples.
        compute_dtype: Dtype of the forward and backward pass. Parameters, statistics and optimiser keep their dtype,
            and losses are at least float32.
        statistics_momentum: Weight of the old value in the running batch statistics at each step, in [0, 1).
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=SGD)
    weight_decay: float = 5e-4
    steps_per_epoch: int | None = None
    compute_dtype: ComputeDtype = "float32"
    statistics_momentum: float = 0.9

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.statistics_momentum < 1:
            raise InputError(f"got statistics_momentum={self.statistics_momentum}, expected it to be in [0, 1).")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "TrainConfig":
        """Settings by name, with some fields replaced.

        Args:
            name: "paper", 250 epochs at a rate of 0.1 halved every 20 (Neuron Alignment, section 4); or "fast", 30
                epochs of one cycle.
            **changes: Values of the fields to replace.

        Returns:
            The settings.

        Raises:
            InputError: If there is no such preset.
        """
        presets = {"paper": cls(epochs=250, optimizer=SGD(schedule="halving")), "fast": cls()}
        return named_preset(name, presets, changes)


def named_preset(name: str, presets: dict[str, Any], changes: dict[str, Any]) -> Any:
    """The preset of this name, with some fields replaced. Raises InputError if there is none, or no such field."""
    if name not in presets:
        raise unknown_name("preset", str(name), presets)
    for field_name in changes.keys() - vars(presets[name]).keys():
        raise unknown_name("field", field_name, vars(presets[name]))
    return replace(presets[name], **changes)


def check_settings(config: Any) -> None:
    """Raise InputError for settings of another kind, or out of range among those that the configs of all fits share."""
    check_fields(config)
    for name in ("epochs", "batch_size", "steps_per_epoch"):
        if getattr(config, name, None) is not None:
            check_whole(name, getattr(config, name))
    if hasattr(config, "weight_decay") and not config.weight_decay >= 0:
        raise InputError(f"got weight_decay={config.weight_decay}, expected it not to be negative.")
    if hasattr(config, "optimizer"):
        check_optimizer(config.optimizer)


def check_optimizer(optimizer: Any) -> None:
    """Raise InputError unless this is an optimiser of optax, or a function of two numbers of steps that makes one."""
    if isinstance(optimizer, optax.GradientTransformation) or _needs_two(optimizer):
        return
    raise not_an_optimizer(optimizer, ", or a function (steps, steps_per_epoch) that makes one")


def _needs_two(function: Any) -> bool:
    """Whether a function needs two arguments, unlike those of optax, which need a learning rate."""
    if not callable(function) or isinstance(function, type):
        return False
    parameters = inspect.signature(function).parameters.values()
    return sum(each.default is each.empty and each.kind <= each.POSITIONAL_OR_KEYWORD for each in parameters) == 2


@lru_cache(maxsize=256)
def make_optimizer(optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a fit of so many epochs; the same object at every call, so that fits share their programs.

    Raises:
        InputError: If a function does not return an optimiser.
    """
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    made = optimizer(epochs * steps_per_epoch, steps_per_epoch)
    if not isinstance(made, optax.GradientTransformation):
        raise InputError(f"got {made!r} from {optimizer!r}, expected an optimiser of optax: optax.adam(1e-3).")
    return made


def check_config(config: Any, kind: type[Config]) -> Config:
    """The config, or that of all defaults for None. Raises InputError unless it is of this kind."""
    config = kind() if config is None else config
    # Settings of a part are given in their field.
    parts = [f"{name}=config" for name, part in get_type_hints(kind).items() if part is type(config)]
    check_kind("config", config, kind, f"{kind.__name__}({(*parts, '...')[0]})")
    return config
