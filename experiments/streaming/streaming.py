"""The options, and an epoch from batches of the host beside one from arrays on the device."""

import statistics
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
import optax

from experiments.options import check_least
from experiments.streaming.larger import larger_than_memory
from mcjax import Augmentation, TrainConfig, data, models, supervised, train_endpoints
from mcjax.data import Stream
from mcjax.runs.tables import table


@dataclass(frozen=True)
class Streaming:
    """The size of the stream, or the data set to compare on."""

    gigabytes: float = 10.0
    """Size of the images of a pass, in 10^9 bytes."""
    batch: int = 128
    """Images of a step, and of a batch of the source."""
    memory: int = 1 << 28
    """Bytes of the blocks."""
    data: str | None = None
    """A data set, as `mcjax train` takes it, on which arrays and batches are compared instead (None: the stream)."""
    models: tuple[str, ...] = ("tinyten", "mlp")
    """The networks of the comparison."""
    steps: int = 20
    """Steps of an epoch of the comparison."""
    rounds: int = 5
    """Rounds of the comparison."""


class Indexed:
    """Examples by number: batches for an order (steps, size), single ones for an order (n,)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, order: np.ndarray) -> None:
        self.images, self.labels, self.order = images, labels, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[self.order[i]], self.labels[self.order[i]]


def beside_arrays(config: Streaming) -> list[list[str]]:
    """Rows of models and sources, with the seconds of an epoch and their ratio to those from arrays."""
    size, n = config.batch, config.batch * config.steps
    held = data.load(config.data or "digits").take(n, 1)
    arrays = np.asarray(held.train_images), np.asarray(held.train_labels)
    sources: dict[str, Any] = {
        "slices": lambda number: Indexed(*arrays, np.random.default_rng(number).permutation(n).reshape(-1, size))
    }
    if find_spec("grain") is not None:
        import grain

        examples = grain.MapDataset.source(Indexed(*arrays, np.arange(n)))
        sources["grain"] = lambda number: examples.seed(number).shuffle().batch(size)
    settings = TrainConfig(epochs=3, batch_size=size, optimizer=optax.sgd(0.05))
    rows = []
    for name in config.models:
        model = models.create(name, held.num_classes, held.image_shape)
        task = supervised(model, jax.device_put(held), augmentation=Augmentation.none())
        tasks = {of: task.with_examples(train=Stream(each, memory=config.memory)) for of, each in sources.items()}
        tasks = {"arrays": task, **tasks}
        seconds: dict[str, list[float]] = {of: [] for of in tasks}
        for _ in range(config.rounds + 1):
            for of, each in tasks.items():
                began = time.perf_counter()
                jax.block_until_ready(train_endpoints(jax.random.split(jax.random.key(0), 1), each, settings))
                seconds[of].append((time.perf_counter() - began) / 3)
        for of, took in seconds.items():
            ratios = [one / other for one, other in zip(took[1:], seconds["arrays"][1:], strict=True)]
            middle = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append([f"{name}, {of}", f"{statistics.median(took[1:]):.3f}", f"{min(took[1:]):.3f}", middle])
    return rows


def main(config: Streaming) -> None:
    """Measure and print a table."""
    check_least(config, batch=1, memory=1, steps=1, rounds=1)
    if config.data is None:
        rows = larger_than_memory(config.gigabytes, config.batch, config.memory)
        print(table(["", "images", "seconds", "images/s", "MB/s", "peak MB"], rows))
    else:
        print(table(["", "s an epoch", "least", "times arrays"], beside_arrays(config)))
