"""Early stopping: each of several networks stops when it reaches its target."""

from typing import Any

import numpy as np

from mcjax import trees
from mcjax.training.measure import Criterion, measure_networks
from mcjax.training.task import Task


class EarlyStopping:
    """Early stopping of each of several fits, after the epoch in which its criterion reaches its target.

    The variables of the fits must be their networks.

    Attributes:
        running: Indices of the fits that still train, int (running,).
        values: The last measured criterion of every fit, float32 (fits,); inf before the first.
        epochs: Number of epochs of every fit so far, int (fits,).
    """

    def __init__(self, criterion: Criterion, task: Task, targets: np.ndarray) -> None:
        """Start. `targets` (fits,) are the values at which fits stop; a fit with target inf is never trained."""
        self.criterion, self.task, self.targets = criterion, task, np.asarray(targets)
        self.values = np.full(len(targets), np.inf, np.float32)
        self.epochs = np.zeros(len(targets), int)
        self.running = np.flatnonzero(np.isfinite(targets))

    def update(self, states: Any) -> None:
        """Measure the running fits, and stop those at their target."""
        networks = trees.index(states.variables, np.minimum(self.selection(), len(self.values) - 1))
        measured = measure_networks(self.criterion, self.task, networks)[: len(self.running)]
        self.values[self.running] = measured
        # `~(<=)` and not `>`: a fit with NaN keeps running, and the training loop reports the loss.
        self.running = self.running[~(measured <= self.targets[self.running])]

    def selection(self) -> np.ndarray:
        """`running` as int32, padded to a power of two with indices beyond the last fit, for few compiled programs."""
        size = min(1 << max(0, len(self.running) - 1).bit_length(), len(self.values))
        return np.concatenate([self.running, np.full(size - len(self.running), len(self.values))]).astype(np.int32)

    def record(self, metrics: dict[str, np.ndarray], history: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Count an epoch of the running fits.

        Args:
            metrics: Metrics of the selected fits, (selected,) each.
            history: Metrics of all fits in all epochs before, (fits, epochs) each.

        Returns:
            Metrics of all fits, (fits,) each; a stopped fit repeats its last metrics.
        """
        self.epochs[self.running] += 1
        filled = {}
        for name, values in metrics.items():
            now = values[: len(self.running)]
            if name in history:
                filled[name] = np.array(history[name][:, -1])
            else:
                # A fit that is never trained shows the mean of the others.
                filled[name] = np.full_like(now, now.mean(), shape=len(self.values))
            filled[name][self.running] = now
        return filled
