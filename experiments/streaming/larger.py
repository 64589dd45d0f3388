"""A pass over images that are made anew each time, and never held."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.output import peak_bytes
from mcjax import Task, TrainConfig, evaluate, match_activations, models, train_endpoints, trees
from mcjax.data import Stream

SIDE, CLASSES = 64, 4
BYTES = SIDE * SIDE * 3


class Images:
    """Batches of images of noise, brighter by their class; the same in every pass."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.labels = count, np.arange(size, dtype=np.int32) % CLASSES

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in range(self.count):
            noise = np.random.Philox(key=number).random_raw(len(self.labels) * BYTES // 8).view(np.uint8)
            dark = noise.reshape(-1, SIDE, SIDE, 3) >> 1
            yield dark + (32 * self.labels).astype(np.uint8)[:, None, None, None], self.labels


def patches_task(source: Any) -> Task:
    """Classes of images from the means of their 16x16 patches, by a network of 32 units."""

    def init(key: jax.Array) -> dict[str, jax.Array]:
        first, second = jax.random.split(key)
        return {"in": jax.random.normal(first, (48, 32)) / 7, "out": jax.random.normal(second, (32, CLASSES)) / 6}

    def apply(theta: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ theta["in"]) @ theta["out"]

    def inputs(batch: Any) -> jax.Array:
        patches = batch[0].reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).astype(jnp.float32)
        return patches.mean((2, 4)).reshape(-1, 48) / 64 - 1.75

    def loss(theta: dict[str, jax.Array], batch: Any, key: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(apply(theta, inputs(batch)), batch[1]).mean()

    model = models.from_function(init, apply, jnp.zeros((1, 48)))
    return Task(loss, train=source, model=model, inputs=inputs)


def larger_than_memory(gigabytes: float, size: int, memory: int) -> list[list[str]]:
    """Rows of what is done on the images, with its rate: the source alone, an epoch, evaluating and matching.

    Args:
        gigabytes: Size of the images of a pass, in 10^9 bytes.
        size: Images of a batch, of the source and of a step.
        memory: Bytes of the blocks.
    """
    source = Images(max(1, round(gigabytes * 1e9 / (size * BYTES))), size)
    task, images = patches_task(Stream(source, memory=memory)), len(source) * size
    settings = TrainConfig(epochs=1, batch_size=size, optimizer=optax.adam(1e-2))
    theta: Any = None
    rows = []
    for name, used in (("source alone", images), ("epoch", images), ("evaluate", images), ("match", images // 5)):
        began = time.perf_counter()
        if name == "source alone":
            sum(len(labels) for _, labels in source)
        elif name == "epoch":
            theta = jax.block_until_ready(train_endpoints(jax.random.split(jax.random.key(0)), task, settings)).theta
        elif name == "evaluate":
            jax.block_until_ready(evaluate(task, theta))
        else:
            match_activations(task, *trees.unstack(theta))
        took = time.perf_counter() - began
        rates = f"{used / took:,.0f}", f"{used * BYTES / 1e6 / took:,.0f}"
        rows.append([name, f"{used:,}", f"{took:.1f}", *rates, f"{peak_bytes()['host'] / 1e6:.0f}"])
    return rows
