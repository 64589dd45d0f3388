"""Minima that no path of low loss joins: the proven barriers beside what fitted curves find.

    python -m experiments.counterexamples

The pairs of `mcjax.constructions`: disconnected global minima for squares and for the cross entropy of probabilities
(Kuditipudi et al. 2019, Theorem 4, which holds for any convex loss); poor local minima of labels from a mixture, for
two shares, and two units and their copy with the units exchanged (Freeman and Bruna 2017, section 2.3.1). For each:
the losses of the two minima, the barrier that is proven for every path, and the highest loss at 1,001 points of the
straight line, of the straight line after matching the weights, and of the lowest of several fitted chains of segments.
A minute of CPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import optax

from experiments.options import check_all_positive
from experiments.study import command
from mcjax import FitConfig, evaluate_path, fit_curve, linear, match_weights, polygonal_chain, trees
from mcjax.constructions.counterexamples import (
    Counterexample,
    disconnected_minima,
    mixture_minima,
    two_neuron_mixture,
)
from mcjax.runs.tables import table
from mcjax.training.task import examples

POINTS = 1001


@dataclass(frozen=True)
class Counterexamples:
    """The networks, and how chains are fitted."""

    units: tuple[int, ...] = (2, 8)
    """Hidden units of the disconnected minima."""
    bends: int = 3
    """Bends of a chain."""
    seeds: int = 8
    """Chains of each pair, of which the lowest counts."""
    epochs: int = 4000
    """Steps of a chain, each on all examples and 16 points of it."""


def main(config: Counterexamples) -> None:
    """Fit chains between the minima of every pair, and print a table."""
    check_all_positive(config)
    rows = []
    for name, example in pairs(config):
        heights = (example.barrier, *highest(example, config))
        ends = ", ".join(f"{loss:.5f}" for loss in example.losses)
        rows.append([name, ends, *(f"{height:.5f}" for height in heights)])
    print(table(["pair", "losses", "proven barrier", "straight line", "matched", "lowest chain"], rows))


def pairs(config: Counterexamples) -> Iterator[tuple[str, Counterexample]]:
    """Pairs of minima by name."""
    for units in config.units:
        yield f"disconnected, {units} units, squares", disconnected_minima(units)
        yield f"disconnected, {units} units, cross entropy", disconnected_minima(units, cross_entropy)
    for first, second in ((3, 1), (2, 1)):
        yield f"poor minimum, labels {first} to {second}", mixture_minima(first, second)
    yield "two units exchanged", two_neuron_mixture()


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross entropy of probabilities with those of the teacher, both as logits."""
    return optax.sigmoid_binary_cross_entropy(outputs, jax.nn.sigmoid(labels))


def highest(example: Counterexample, config: Counterexamples) -> tuple[float, float, float]:
    """The highest loss on the straight line, on it after matching, and on the lowest of the fitted chains."""
    task, spec, ends = example.task, example.model.spec, (example.theta_1, example.theta_2)
    P = match_weights(jax.random.key(0), spec, *ends).P
    lines = [evaluate_path(task, linear(spec).bind(*ends, P=each), ts=POINTS) for each in (None, P)]
    settings = FitConfig(config.epochs, examples(task.train), optax.adam(3e-3), weight_decay=0.0, points_per_step=16)
    theta_1, theta_2 = (trees.stack([end] * config.seeds) for end in ends)
    chain = polygonal_chain(spec, config.bends)
    chains = fit_curve(jax.random.key(1), task, chain, theta_1, theta_2, config=settings)
    along = evaluate_path(task, chains.path, ts=POINTS)
    straight, matched = (float(line.train_loss.max()) for line in lines)
    return straight, matched, float(along.train_loss.max(1).min())


if __name__ == "__main__":
    command(Counterexamples, main)
