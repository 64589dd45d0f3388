"""Training to a target: each of many networks stops as soon as it is good enough."""

from typing import Any

import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.training.criterion import Criterion, measure_networks


class EarlyStopping:
    """Stops each of many fits at the end of the epoch in which its criterion reaches its target.

    The state of the fits must hold their networks as `theta`.

    Attributes:
        running: Indices of the fits that still train, int (running,).
        values: The criterion of every fit at its last measurement, float32 (fits,). inf before the first.
        epochs: Number of epochs that every fit has trained, int (fits,).
    """

    def __init__(self, model: Model, criterion: Criterion, data: Dataset, targets: np.ndarray) -> None:
        """`targets` (fits,) are the values at which fits stop; a fit with inf does not train at all."""
        self.model, self.criterion, self.data, self.targets = model, criterion, data, np.asarray(targets)
        self.values = np.full(len(targets), np.inf, np.float32)
        self.epochs = np.zeros(len(targets), int)
        self.running = np.flatnonzero(np.isfinite(targets))

    def update(self, states: Any) -> None:
        """Measure the running fits, and stop those that are at their target."""
        networks = trees.index(states.theta, np.minimum(self.selection(), len(self.values) - 1))
        measured = measure_networks(self.criterion, self.model, networks, self.data)[: len(self.running)]
        self.values[self.running] = measured
        # Not "above": a fit at NaN keeps running, until training reports the loss that is not finite.
        self.running = self.running[~(measured <= self.targets[self.running])]

    def selection(self) -> np.ndarray:
        """`running`, int32, padded to a power of two by an index beyond the last fit: few programs serve all sizes."""
        size = min(1 << max(0, len(self.running) - 1).bit_length(), len(self.values))
        return np.concatenate([self.running, np.full(size - len(self.running), len(self.values))]).astype(np.int32)

    def record(self, metrics: dict[str, np.ndarray], history: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Count an epoch of the running fits.

        Args:
            metrics: Metrics of the selected fits, (selected,) each.
            history: Metrics of all fits in the epochs before, (fits, epochs) each.

        Returns:
            Metrics of all fits (fits,), in which a stopped fit repeats its last.
        """
        self.epochs[self.running] += 1
        filled = {}
        for name, values in metrics.items():
            now = values[: len(self.running)]
            if history[name].shape[1]:
                filled[name] = np.array(history[name][:, -1])
            else:
                # A fit that does not train at all shows the mean of the others.
                filled[name] = np.full_like(now, now.mean(), shape=len(self.values))
            filled[name][self.running] = now
        return filled
