"""Settings of training: optimiser, schedule, batches, augmentation. Frozen, static under jit."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import optax

from mcjax.data import Augmentation
from mcjax.errors import InputError, check_whole, unknown_name

Schedule = Literal["halving", "one_cycle", "constant"]
ComputeDtype = Literal["float32", "bfloat16"]
Optimizer = Literal["sgd", "adam"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of training by SGD with momentum or Adam; `TrainConfig.preset` has "paper" and "fast".

    Attributes:
        epochs: Number of epochs.
        batch_size: Images per step.
        learning_rate: The maximum learning rate of the schedule.
        schedule: "halving" halves the rate every 20 epochs; "one_cycle" warms up over the first fifth of the epochs
            and decays to zero along a cosine; "constant" keeps it.
        momentum: Momentum of SGD, in [0, 1). Adam ignores it.
        nesterov: Whether SGD uses Nesterov momentum.
        weight_decay: Factor of ||params||^2 / 2 in the training loss.
        augmentation: Augmentation of the training images. None: the data set's default.
        statistics_momentum: Weight of the old value in the running batch statistics at each step, in [0, 1).
        compute_dtype: Dtype of the forward and backward pass. Parameters, statistics, optimiser and losses are
            float32 in any case.
        steps_per_epoch: Steps per epoch. None: the number of whole batches in the training set.
        optimizer: "sgd" or "adam".
        clip: Maximum global norm of a gradient; larger ones are scaled down to it. None: no clipping.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: Schedule = "one_cycle"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    augmentation: Augmentation | None = None
    statistics_momentum: float = 0.9
    compute_dtype: ComputeDtype = "float32"
    steps_per_epoch: int | None = None
    optimizer: Optimizer = "sgd"
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_whole(name, getattr(self, name))
        if self.steps_per_epoch is not None:
            check_whole("steps_per_epoch", self.steps_per_epoch)
        for name, good, expected in (
            ("learning_rate", self.learning_rate > 0, "positive"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "not negative"),
            ("statistics_momentum", 0 <= self.statistics_momentum < 1, "in [0, 1)"),
            ("clip", self.clip is None or self.clip > 0, "positive, or None"),
        ):
            if not good:
                raise InputError(f"got {name}={getattr(self, name)}, expected it to be {expected}.")
        for name, kind in (("schedule", Schedule), ("compute_dtype", ComputeDtype), ("optimizer", Optimizer)):
            if getattr(self, name) not in get_args(kind):
                raise unknown_name(name, getattr(self, name), get_args(kind))

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
        presets = {"paper": cls(epochs=250, schedule="halving"), "fast": cls(epochs=30, schedule="one_cycle")}
        if name not in presets:
            raise unknown_name("preset", name, presets)
        return replace(presets[name], **changes)


def optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a config, with the schedule for this number of steps per epoch."""
    steps = config.epochs * steps_per_epoch
    rates: dict[str, Any] = {
        "constant": config.learning_rate,
        # The papers' schedule: half the rate every 20 epochs.
        "halving": lambda step: config.learning_rate * 0.5 ** (step // (20 * steps_per_epoch)),
        "one_cycle": optax.warmup_cosine_decay_schedule(
            config.learning_rate / 20, config.learning_rate, max(1, steps // 5), max(2, steps)
        ),
    }
    rate = rates[config.schedule]
    # Weight decay is part of the loss, and so of the momentum, as in the papers' code.
    sgd = optax.sgd(rate, momentum=config.momentum or None, nesterov=config.nesterov)
    chosen = sgd if config.optimizer == "sgd" else optax.adam(rate)
    return chosen if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), chosen)
