"""Recovery of planted permutations, by matching weights from several starts and by matching activations.

    python -m experiments.recovery
    python -m experiments.recovery --epochs 3 --models mlp tinyten --starts activations propagation

A copy of each network is permuted at random, Gaussian noise is added to every leaf of the copy (its norm a share
of the leaf's), and the two are matched. The table counts the runs in which every unit of every group was found.
Starts: `propagation`, as the library starts, `identity`, and `random`, each with one restart and with ten;
`activations` is neuron alignment instead, on all 1,437 digits, which counts only the units that vary there. Networks:
an MLP, TinyTen and ResNet20 at half width, new for every run; or, with `--epochs`, four of each, briefly trained on
the digits. `blocks` are the leaves of no network, drawn at random: a residual trunk of 30 units that reads one input,
with five blocks of 30 around it. On such a problem users of git-re-basin report that coordinate descent in random
order from the identity succeeds 10 times of 100. One to two minutes on two cores; with `--runs 100`, four.
"""

import time
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import command
from mcjax import (
    Dataset,
    PermutationSpec,
    Task,
    TrainConfig,
    data,
    identity_permutation,
    invert,
    match_activations,
    match_weights,
    models,
    permute,
    random_permutation,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.matching import Match
from mcjax.runs.tables import table
from mcjax.training.task import examples

WIDTHS = {"mlp": 1.0, "tinyten": 0.5, "resnet20": 0.5}
BLOCKS = PermutationSpec(
    {
        "in": (None, "trunk"),
        **{f"down_{i}": ("trunk", f"block_{i}") for i in range(5)},
        **{f"up_{i}": (f"block_{i}", "trunk") for i in range(5)},
        "out": ("trunk", None),
    }
)
TRAINED = 4


@dataclass(frozen=True)
class Recovery:
    """The networks, the noise, and the starts."""

    models: tuple[str, ...] = ("mlp", "tinyten", "resnet20", "blocks")
    noises: tuple[float, ...] = (0.0, 0.1)
    """Norm of the noise on a leaf, as a share of the leaf's norm."""
    starts: tuple[str, ...] = ("propagation", "identity", "random")
    """Some of propagation, identity, random, activations."""
    restarts: tuple[int, ...] = (1, 10)
    runs: int = 20
    epochs: int = 0
    """Epochs that networks are trained (0: as initialised)."""


def main(config: Recovery) -> None:
    """Match every planted permutation from every start, and print a table."""
    rows = []
    for name in config.models:
        task, spec, thetas = networks(name, config)
        plant = jax.jit(partial(planted, spec))
        for noise in config.noises:
            pairs = [plant(jax.random.key(i), thetas[i % len(thetas)], noise) for i in range(config.runs)]
            for start, restarts in product(config.starts, config.restarts):
                if start == "activations" and (task is None or restarts != config.restarts[0]):
                    continue
                found, sweeps, seconds = 0, 0.0, []
                for i, (P, theta_2) in enumerate(pairs):
                    before, ends = time.perf_counter(), (thetas[i % len(thetas)], theta_2)
                    match: Match
                    if start == "activations" and task is not None:
                        match = match_activations(task, *ends, examples=examples(task.train))
                    else:
                        match = matched(start, restarts, jax.random.key(i), spec, *ends)
                        sweeps += match.info["sweeps"].mean() / config.runs
                    seconds.append(time.perf_counter() - before)
                    found += all(
                        (match.P[group] == p)[can_be_told(match, group, p)].all()
                        for group, p in jax.tree.map(np.asarray, P).items()
                    )
                # The median leaves out the run that compiles.
                took = f"{np.median(seconds):.4f}"
                rows.append([name, f"{noise:g}", start, f"{restarts}", f"{found}", f"{sweeps:.1f}", took])
    print(table(["network", "noise", "start", "restarts", f"recovered of {config.runs}", "sweeps", "s a run"], rows))


def can_be_told(match: Match, group: str, p: np.ndarray) -> np.ndarray:
    """The units that can be told apart: those that vary in both networks; all of them by weights."""
    if "correlation" not in match.info:
        return np.ones(len(p), bool)
    return match.info["correlation"][group][np.arange(len(p)), p] != 0


def networks(name: str, config: Recovery) -> tuple[Task | None, PermutationSpec, list[trees.Tree]]:
    """The task (None for blocks), its spec, and the networks to plant permutations in."""
    if name == "blocks":
        rngs = [np.random.default_rng(i) for i in range(config.runs)]
        shapes = {leaf: [1 if axis is None else 30 for axis in axes] for leaf, axes in BLOCKS.axes.items()}
        thetas = [{leaf: rng.normal(size=shape).astype(np.float32) for leaf, shape in shapes.items()} for rng in rngs]
        return None, BLOCKS, thetas
    digits = large_digits()
    model = models.create(name, digits.num_classes, digits.train_images.shape[1:], width=WIDTHS[name])
    task = supervised(model, digits)
    if config.epochs:
        keys = jax.random.split(jax.random.key(0), TRAINED)
        theta = train_endpoints(keys, task, TrainConfig(epochs=config.epochs)).theta
        return task, model.spec, [trees.index(theta, i) for i in range(TRAINED)]
    init = jax.jit(model.init)
    return task, model.spec, [init(jax.random.key(i)) for i in range(config.runs)]


@cache
def large_digits() -> Dataset:
    """The digits at twice their size, large enough for the strides of every network."""
    digits = data.load("digits")
    both = (digits.train_images, digits.test_images)
    train, test = (np.kron(images, np.ones((1, 2, 2, 1), np.uint8)) for images in both)
    return data.from_arrays(train, digits.train_labels, test, digits.test_labels, digits.num_classes, name="digits")


def planted(spec: PermutationSpec, key: jax.Array, theta: trees.Tree, noise: Any) -> tuple[dict[str, Any], trees.Tree]:
    """A permutation planted in a copy of a network.

    Args:
        spec: the groups that are permuted.
        key: a typed key.
        theta: the network.
        noise: the norm of the noise on a leaf, as a share of the leaf's norm.

    Returns:
        The permutation that undoes it, and the copy, permuted and with noise on its parameters.
    """
    permutation_key, noise_key = jax.random.split(key)
    P = random_permutation(permutation_key, spec, theta)
    theta = permute(spec, P, theta)
    leaves, structure = jax.tree.flatten(trees.params(theta))
    keys = jax.random.split(noise_key, len(leaves))
    draws = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    scales = [noise * jnp.linalg.norm(a) / jnp.linalg.norm(b) for a, b in zip(leaves, draws, strict=True)]
    params = jax.tree.unflatten(structure, [a + c * b for a, b, c in zip(leaves, draws, scales, strict=True)])
    return invert(P), {**theta, "params": params} if "params" in theta else params


def matched(
    start: str, restarts: int, key: jax.Array, spec: PermutationSpec, theta_1: trees.Tree, theta_2: trees.Tree
) -> Match:
    """The best match of some restarts from one kind of start.

    Args:
        start: propagation, identity or random.
        restarts: the number of restarts.
        key: a typed key.
        spec: the groups to match.
        theta_1: the network.
        theta_2: the network that is permuted onto it.
    """
    if start == "propagation":
        return match_weights(key, spec, theta_1, theta_2, restarts)
    best = None
    for k in jax.random.split(key, restarts):
        P = identity_permutation(spec, theta_1) if start == "identity" else random_permutation(k, spec, theta_1)
        match = match_weights(k, spec, theta_1, theta_2, 1, P=P)
        best = match if best is None or match.objective > best.objective else best
    assert best is not None
    return best


if __name__ == "__main__":
    command(Recovery, main)
