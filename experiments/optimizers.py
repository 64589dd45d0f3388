"""Optimisers of studies: frozen settings, which a run folder records, and which make optimisers of optax."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import optax


@dataclass(frozen=True)
class Adam:
    """Adam, for the `optimizer` of every config.

    Attributes:
        learning_rate: the maximum learning rate of the schedule.
        schedule: "constant", or "one_cycle" as that of `SGD`.
        clip: the maximum global norm of a gradient; larger ones are scaled down to it (None: no clipping).
    """

    learning_rate: float
    schedule: Literal["constant", "one_cycle"] = "constant"
    clip: float | None = None

    def __call__(self, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
        return _adam(self, steps if self.schedule == "one_cycle" else None)


@lru_cache
def _adam(settings: Adam, steps: int | None) -> optax.GradientTransformation:
    """One object for equal settings, so that fits of any length share their programs."""
    rate: Any = settings.learning_rate
    if steps is not None:
        rate = optax.warmup_cosine_decay_schedule(rate / 20, rate, max(1, steps // 5), max(2, steps))
    adam = optax.adam(rate)
    return adam if settings.clip is None else optax.chain(optax.clip_by_global_norm(settings.clip), adam)
