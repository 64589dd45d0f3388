"""The chance that dropout raises the loss little, against its rate and the width (Kuditipudi et al., Lemma 3)."""

from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.options import Sources
from experiments.study import Parts
from mcjax import Dataset, Task, TrainConfig, evaluate, models, supervised, trees
from mcjax.constructions import dropout_lines
from mcjax.landscape import noise_stability
from mcjax.training import SGD, Criterion

RISE = 0.1
"""The rise, in nats, whose probability is asked for."""
CHANCE = 0.25
"""The probability of Lemma 3."""
MEASURED = 1000
"""Training images that lines are measured on, at most."""
TRAINING = TrainConfig(epochs=8, batch_size=64, weight_decay=0.0, optimizer=SGD(0.02))


def images(sources: Sources) -> Dataset:
    """The images that networks are trained on: at most 10,000 of MNIST."""
    found = sources.load("mnist")
    return found.take(min(10_000, len(found.train_labels)), min(2000, len(found.test_labels)))


def chances(
    parts: Parts, key: jax.Array, images: Dataset, widths: tuple[int, ...], rates: tuple[float, ...], coins: int
) -> dict[str, Any]:
    """The probabilities of Lemma 3 of networks of two hidden layers.

    Args:
        parts: the parts of the study.
        key: a typed key.
        images: what networks are trained on.
        widths: units of either layer, increasing.
        rates: probabilities that a unit is dropped, increasing.
        coins: dropout networks of every width and rate.
    """
    levels = []
    for width in widths:
        here = jax.random.fold_in(key, width)
        model = models.create("mlp", images.num_classes, images.image_shape, widths=(width, width), bias=False)
        task = supervised(model, images)
        theta = trees.index(parts.trained(f"coins_{width}", here, 1, task, TRAINING), 0)
        make = partial(_measured, here, task, theta, rates, coins)
        levels.append({"width": width, **parts.numbers(f"coins_{width}_measured", make)})
    return {"title": images.name, "coins": coins, "levels": levels, "exponents": exponents(levels)}


def _measured(key: jax.Array, task: Task, theta: trees.Tree, rates: tuple[float, ...], coins: int) -> dict[str, Any]:
    """The loss, the epsilon and rho of Definition 4, and the lines at every rate."""
    count = min(MEASURED, len(task.train[1]))
    stability = noise_stability(jax.random.fold_in(key, 1), task, theta, examples=min(32, count))
    epsilon = stability.epsilon()
    found = []
    for i, p in enumerate(rates):
        lines = dropout_lines(
            jax.random.fold_in(key, 2 + i), task, theta, p, draws=coins, criterion=Criterion(examples=count)
        )
        found.append({
            "rate": p, "probability": lines.probability(RISE), "rise": lines.rise(CHANCE),
            "promised": lines.probability(float(np.sqrt(p)) * epsilon),
        })  # fmt: skip
    train, test = evaluate(task, theta)
    accuracy = {"train_accuracy": train["accuracy"], "test_accuracy": test["accuracy"]}
    return {"train_loss": train["loss"], **accuracy, "epsilon": epsilon, "rho": stability.rho, "rates": found}


def exponents(levels: list[dict[str, Any]]) -> list[float] | None:
    """The powers of the rate and of the width that fit the rise of a quarter of the draws (None: too few rises)."""
    known = [
        (each["rate"], level["width"], each["rise"]) for level in levels for each in level["rates"] if each["rise"] > 0
    ]
    if len({rate for rate, *_ in known}) < 2 or len({width for _, width, _ in known}) < 2:
        return None
    rate, width, rise = np.log(np.array(known)).T
    powers = np.linalg.lstsq(np.stack([rate, width, np.ones_like(rate)], 1), rise, rcond=None)[0]
    return [float(power) for power in powers[:2]]
