"""How alignment lowers a bound of the loss between two networks, on the digits.

    python -m experiments.alignment_bound
    python -m experiments.alignment_bound --widths 64 64 64 --pairs 3

Let x_i be what a layer of network i = 1, 2 reads for one image, z_i = x_i W_i + b_i, and phi the ReLU; at t the network
between them reads x_t. Write m(a) = (1 - t) a_1 + t a_2, so that W_t = m(W). Then

    x_t W_t + b_t - m(z) = (x_t - m(x)) W_t - t (1 - t) (x_1 - x_2) (W_1 - W_2),

and phi is 1-Lipschitz, so that the distance e = |x_t - m(x)| grows from one layer to the next as

    e' <= |W_t| e + t (1 - t) |(x_1 - x_2) (W_1 - W_2)| + |m(phi(z)) - phi(m(z))|,    e = 0 at the image,

without the last term at the outputs. That term is zero where z_1 and z_2 have one sign, and at most t (1 - t)
|z_1 - z_2|. The cross entropy is convex, and sqrt(2)-Lipschitz in the logits:

    loss at t <= m(loss) + sqrt(2) (mean of e at the outputs).

Distances of activations are all that the bound adds to the losses of the ends, and they are what an alignment makes
small. Norms are Euclidean, and spectral for W_t. The table has, for random orders of units, those of training and the
aligned ones: the largest excess over m(loss) along the line, measured; by the bound; by the bound with t (1 - t)
|z_1 - z_2| for its last term; and the mean |z_1 - z_2| of every hidden layer.

The source, Tatro et al., NeurIPS 2020, "Optimizing Mode Connectivity via Neuron Alignment", has a bound of this kind;
the one here was derived anew. Half a minute of CPU.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from experiments.options import check_all_positive, check_least
from experiments.study import command
from mcjax import (
    Task,
    TrainConfig,
    data,
    evaluate_path,
    linear,
    match_activations,
    models,
    permute,
    random_permutation,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.landscape.noise_stability import LIPSCHITZ
from mcjax.runs.tables import mean_and_std, plus_minus, table


@dataclass(frozen=True)
class AlignmentBound:
    """The networks and the fineness of measurement."""

    widths: tuple[int, ...] = (32, 32)
    pairs: int = 6
    epochs: int = 60
    """Epochs of a network."""
    points: int = 21
    """Values of t."""


class Excess(NamedTuple):
    """Loss above that of the ends along the line between two networks.

    Attributes:
        measured: the largest of the mean loss at t, less m(loss).
        signs: the bound of it.
        distances: the bound whose last term is t (1 - t) |z_1 - z_2|.
        apart: the mean of |z_1 - z_2| over images, for every hidden layer.
    """

    measured: float
    signs: float
    distances: float
    apart: tuple[float, ...]


class Layer(NamedTuple):
    """A layer of an MLP: what it reads, float64 (n, in); its kernel (in, out); and its outputs before the ReLU."""

    x: np.ndarray
    W: np.ndarray
    z: np.ndarray


def layers(theta: trees.Tree, x: np.ndarray) -> list[Layer]:
    """The layers of an MLP on images x, (n, ...)."""
    found, params, read = [], trees.params(theta), np.asarray(x, np.float64).reshape(len(x), -1)
    for i in range(len(params)):
        kernel, bias = (np.asarray(params[f"Dense_{i}"][name], np.float64) for name in ("kernel", "bias"))
        found.append(Layer(read, kernel, read @ kernel + bias))
        read = np.maximum(found[-1].z, 0)
    return found


def grown(first: list[Layer], second: list[Layer], t: float) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of e at the outputs of two networks, one for every image: by signs, and by distances."""
    signs = distances = np.zeros(len(first[0].x))
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if i > 0:
            z_1, z_2 = first[i - 1].z, second[i - 1].z
            bent = (1 - t) * a.x + t * b.x - np.maximum((1 - t) * z_1 + t * z_2, 0)
            signs = signs + np.linalg.norm(bent, axis=1)
            distances = distances + t * (1 - t) * np.linalg.norm(z_1 - z_2, axis=1)
        factor = np.linalg.norm((1 - t) * a.W + t * b.W, 2)
        moved = t * (1 - t) * np.linalg.norm((a.x - b.x) @ (a.W - b.W), axis=1)
        signs, distances = factor * signs + moved, factor * distances + moved
    return signs, distances


def excess(task: Task, theta_1: trees.Tree, theta_2: trees.Tree, points: int) -> Excess:
    """The measured and the bounded loss above that of the ends, on the training images.

    Args:
        task: a classification by an MLP of ReLUs.
        theta_1: one network.
        theta_2: the other, its units in the order to be judged.
        points: values of t from 0 to 1.
    """
    assert task.spec is not None
    ts, x = np.linspace(0, 1, points), np.asarray(task.model_inputs(task.train))
    loss = np.asarray(evaluate_path(task, linear(task.spec).bind(theta_1, theta_2), ts).train_loss, np.float64)
    first, second = layers(theta_1, x), layers(theta_2, x)
    signs, distances = (LIPSCHITZ * np.array([grown(first, second, t) for t in ts]).mean(-1)).max(0)
    apart = (np.linalg.norm(a.z - b.z, axis=1).mean() for a, b in zip(first[:-1], second[:-1], strict=True))
    above = loss - ((1 - ts) * loss[0] + ts * loss[-1])
    return Excess(above.max(), signs, distances, tuple(apart))


def main(config: AlignmentBound) -> None:
    """Train pairs of networks and print the table."""
    check_all_positive(config)
    check_least(config, points=3)
    digits = data.load("digits")
    model = models.create("mlp", 10, digits.image_shape, widths=list(config.widths))
    task = supervised(model, digits)
    keys = jax.random.split(jax.random.key(0), 2 * config.pairs)
    networks = trees.unstack(train_endpoints(keys, task, TrainConfig(epochs=config.epochs)).theta)
    found: dict[str, list[Excess]] = {"random": [], "as trained": [], "aligned": []}
    for i in range(config.pairs):
        theta_1, theta_2 = networks[2 * i], networks[2 * i + 1]
        orders = {
            "random": random_permutation(jax.random.fold_in(jax.random.key(1), i), model.spec, theta_2),
            "as trained": None,
            "aligned": match_activations(task, theta_1, theta_2).P,
        }
        for name, P in orders.items():
            moved = theta_2 if P is None else permute(model.spec, P, theta_2)
            found[name].append(excess(task, theta_1, moved, config.points))
    rows = []
    for name, each in found.items():
        columns = [*zip(*(pair[:3] for pair in each), strict=True), *zip(*(pair.apart for pair in each), strict=True)]
        rows.append([name, *(plus_minus(mean_and_std(column), 3) for column in columns)])
    apart = [f"apart, layer {i + 1}" for i in range(len(config.widths))]
    print(table(["units", "excess loss", "its bound", "by distances", *apart], rows))


if __name__ == "__main__":
    command(AlignmentBound, main)
