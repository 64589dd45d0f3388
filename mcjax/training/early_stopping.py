"""Training until a target is reached: each of many networks stops as soon as it is good enough."""

from typing import Any

import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.training.criterion import Criterion, measure_networks


class Watch:
    """Which of many fits go on: those whose criterion is above their target at the end of an epoch.

    targets: (fits,); inf is not trained at all. The state of the fits holds their networks as `theta`.
    `going` are the numbers of those that go on, `values` what was last measured, `epochs` how many each had.
    """

    def __init__(self, model: Model, criterion: Criterion, data: Dataset, targets: np.ndarray) -> None:
        self.model, self.criterion, self.data, self.targets = model, criterion, data, np.asarray(targets)
        self.values = np.full(len(targets), np.inf, np.float32)
        self.epochs = np.zeros(len(targets), int)
        self.going = np.flatnonzero(np.isfinite(targets))

    def look(self, states: Any) -> None:
        """Measure the fits that went on; those at their target are done."""
        here = trees.index(states.theta, np.minimum(self.padded(), len(self.values) - 1))
        measured = measure_networks(self.criterion, self.model, here, self.data)[: len(self.going)]
        self.values[self.going] = measured
        # Not "above": NaN goes on, to where training says that it is not finite.
        self.going = self.going[~(measured <= self.targets[self.going])]

    def padded(self) -> np.ndarray:
        """`going`, filled up to a power of two with a number that is no fit's: few programs serve all lengths."""
        size = min(1 << max(0, len(self.going) - 1).bit_length(), len(self.values))
        return np.concatenate([self.going, np.full(size - len(self.going), len(self.values))]).astype(np.int32)

    def count(self, measured: dict[str, np.ndarray], before: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Count an epoch. Returns what the fits that went on measured, and of the others what they last had."""
        self.epochs[self.going] += 1
        filled = {}
        for name, values in measured.items():
            now = values[: len(self.going)]
            # A fit that is not trained at all shows the mean of the others.
            filled[name] = (
                np.array(before[name][:, -1])
                if before[name].shape[1]
                else np.full_like(now, now.mean(), shape=len(self.values))
            )
            filled[name][self.going] = now
        return filled
