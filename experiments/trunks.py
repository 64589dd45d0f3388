"""The stem's part in matching a residual trunk, and what it changes.

    python -m experiments.trunks --data cifar10.npz --train-images 10000 --test-images 2000

Units of a residual trunk are matched by the mean correlation over the stem and the blocks of the trunk. Appendix E of
the neuron-alignment paper leaves the stem out, and its code takes the stem alone for the first stage ("published"). The
table has, for each of them: the units of that stage that are not matched as by stem and blocks; the mean correlation of
its paired units over stem and blocks, over the blocks and in the stem; and, along the straight line, the barrier in
train loss and the lowest test accuracy. 45 minutes of one CPU core.
"""

from dataclasses import dataclass
from typing import get_args

import jax
import numpy as np

from experiments.options import check_all_positive, check_least
from experiments.study import command
from mcjax import (
    TrainConfig,
    barrier,
    data,
    evaluate,
    evaluate_path,
    linear,
    match_activations,
    models,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.matching import Match
from mcjax.matching.activations import Trunk, trunk_of
from mcjax.runs import Recorder
from mcjax.runs.tables import mean_and_std, plus_minus, table


@dataclass(frozen=True)
class Trunks:
    """The networks and the fineness of measurement."""

    data: str = "digits"
    """A data set, as for `mcjax train`."""
    model: str = "resnet20"
    """An architecture with residual trunks."""
    width: float = 0.5
    """Multiplier of its widths."""
    train_images: int | None = None
    """Use the first so many training images (None: all)."""
    test_images: int | None = None
    """Use the first so many test images (None: all)."""
    pairs: int = 3
    epochs: int = 10
    """Epochs of a network."""
    points: int = 11
    """Values of t."""


def main(config: Trunks) -> None:
    """Train pairs of networks and print the table."""
    check_all_positive(config)
    check_least(config, points=3)
    images = data.load(config.data).take(config.train_images, config.test_images)
    model = models.create(config.model, images.num_classes, images.image_shape, width=config.width)
    task = supervised(model, images)
    stage = trunk_of(model, jax.eval_shape(model.init, jax.random.key(0)), "blocks")
    assert stage is not None
    keys = jax.random.split(jax.random.key(0), 2 * config.pairs)
    theta = train_endpoints(keys, task, TrainConfig(epochs=config.epochs), recorder=Recorder("trunks")).theta
    theta_1, theta_2 = (trees.index(theta, slice(i, None, 2)) for i in range(2))
    matches = {trunk: match_activations(task, theta_1, theta_2, trunk=trunk) for trunk in get_args(Trunk)}
    rows = []
    for trunk, match in matches.items():
        along = evaluate_path(task, linear(model.spec).bind_pairs(theta_1, theta_2, P=match.P), config.points)
        columns = [*shares(matches, trunk, stage), barrier(along), 100 * along.test_accuracy.min(-1)]
        rows.append([trunk.replace("_", " "), *(plus_minus(mean_and_std(column), 3) for column in columns)])
    correlations = [f"correlation, {trunk.replace('_', ' ')}" for trunk in matches]
    ends = mean_and_std(np.asarray(evaluate(task, theta)[1]["accuracy"]).tolist())
    print(f"{stage} of {model.name}, test accuracy of the networks {plus_minus(ends, 1, 100)}%")
    print(table(["matched by", "units that differ", *correlations, "barrier", "lowest accuracy (%)"], rows))


def shares(matches: dict[str, Match], trunk: str, group: str) -> list[np.ndarray]:
    """The units of a group that are not matched as by stem and blocks, and how its pairs of units correlate.

    Args:
        matches: the match of all pairs by each part of the trunk.
        trunk: one of them.
        group: the group.

    Returns:
        One number for every pair of networks: the units; then the mean correlation, as each of the matches counts it.
    """
    p = matches[trunk].P[group]
    first = next(iter(matches.values())).P[group]
    counted = [np.take_along_axis(match.info["correlation"][group], p[..., None], -1) for match in matches.values()]
    return [(p != first).sum(-1), *(each.mean((-2, -1)) for each in counted)]


if __name__ == "__main__":
    command(Trunks, main)
