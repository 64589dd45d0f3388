"""Theorem 3.1 and appendix D of the neuron-alignment paper as numbers, on the digits.

    python -m experiments.convergence
    python -m experiments.convergence --deltas 1 0.1 0.001 --iterations 8

Two networks of huberized ReLUs (eq. 11) are joined by PAM, whose control points are bounded (eq. 15). After every
iteration: Q + R, which part 1 of the theorem bounds; the norms of its least subgradients, which are zero at the
critical points of part 2; and Q + R of the same curve with ReLUs in the place of huberized ones, which theorem D.2 says
to fall too, as long as the proximal terms exceed the right side of eq. 19. Then the bounds of the appendix beside what
they bound, over the digits and all t of the last curve: eq. 18, the norm of the outputs; eq. 20, the distance of the
two activations, which is delta / 2 (below eq. 11 the paper says delta); eq. 21, the distance of the two networks in the
last hidden layer; eq. 22, that of the two outputs; and the right side of eq. 19. K_W is the largest spectral norm of a
layer on the curve, with its biases (eq. 10), and the cross entropy is sqrt(2)-Lipschitz in the logits.

Eq. 23 exchanges the activations once, and an iteration has two ends: with ReLUs Q_k+1 <= Q_k - proximal terms + 2 E, if
E is the bound of eq. 22. So iterations are counted whose proximal terms are at least 2 E, twice the right side of eq.
19. Two minutes of CPU.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.options import check_all_positive
from experiments.study import command
from mcjax import (
    FitConfig,
    PamConfig,
    Task,
    TrainConfig,
    bezier,
    data,
    evaluate_path,
    fit_pam,
    match_activations,
    models,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.curves import PamFit, PermutationFitConfig
from mcjax.landscape.noise_stability import LIPSCHITZ
from mcjax.runs.tables import table

OPTIMIZER = optax.sgd(0.02, momentum=0.9, nesterov=True)


@dataclass(frozen=True)
class Convergence:
    """The networks, and the length of PAM."""

    deltas: tuple[float, ...] = (1.0, 0.1, 0.001)
    """Widths of the quadratic part of the huberized ReLU."""
    widths: tuple[int, ...] = (16, 16)
    """Units of each hidden layer."""
    iterations: int = 5
    """Iterations of PAM."""
    epochs: int = 60
    """Epochs of a network."""
    curve_epochs: int = 10
    """Epochs of a curve half-step."""
    permutation_epochs: int = 5
    """Epochs of a permutation half-step."""
    nu: float = 1e3
    """Constant of both proximal terms."""
    points: int = 11
    """Points t of the objective."""
    norm_bound: float = 10.0
    """Bound of the norm of every leaf of the control points' networks."""
    aligned: bool = True
    """Start from the match of activations, rather than the identity."""


class Bounds(NamedTuple):
    """The bounds of appendix D, and what each of them bounds, over images and points of a curve."""

    spectral_norm: float
    outputs: float
    outputs_bound: float
    activation_gap: float
    hidden_gap: float
    hidden_gap_bound: float
    output_gap: float
    output_gap_bound: float
    criterion: float


def homogeneous_matrices(theta: trees.Tree) -> list[np.ndarray]:
    """The matrices of an MLP in homogeneous coordinates (eq. 10): [[W, b], [0, 1]], and [W, b] at last."""
    params = trees.params(theta)
    found = []
    for i in range(len(params)):
        layer = {name: np.asarray(leaf, np.float64) for name, leaf in params[f"Dense_{i}"].items()}
        matrix = np.concatenate([layer["kernel"].T, layer["bias"][:, None]], 1)
        if i < len(params) - 1:
            matrix = np.concatenate([matrix, np.eye(1, matrix.shape[1], matrix.shape[1] - 1)])
        found.append(matrix)
    return found


def bounds(huberized: Task, rectified: Task, thetas: list[trees.Tree], delta: float) -> Bounds:
    """The bounds over the training images and some networks of a curve.

    Args:
        huberized: the task of huberized networks.
        rectified: that of the same networks with ReLUs.
        thetas: the networks.
        delta: the width of the huberized ReLU.
    """
    x = huberized.model_inputs(huberized.train)
    matrices = [homogeneous_matrices(theta) for theta in thetas]
    K_W = max(np.linalg.norm(matrix, 2) for each in matrices for matrix in each)
    # Inputs in homogeneous coordinates too.
    K_X = np.sqrt(np.square(np.asarray(x, np.float64)).reshape(len(x), -1).sum(1) + 1).max()
    depth, width = len(matrices[0]), max(matrix.shape[0] for matrix in matrices[0][:-1]) - 1
    both = (rectified, huberized)
    outputs = [[np.asarray(task.model.apply(theta, x), np.float64) for theta in thetas] for task in both]
    z = np.linspace(-2 * delta, 3 * delta, 100_001)
    huber = np.where(z < 0, 0, np.where(z < delta, z**2 / (2 * delta), z - delta / 2))
    # The last hidden layer, by eq. 21 from layer to layer: sqrt(M) delta / 2 times the sum of the first powers of K_W.
    last = rectified.model.spec.groups[-1]
    hidden = [[np.asarray(task.model.activations(theta, x)[last][0], np.float64) for theta in thetas] for task in both]
    hidden_bound = np.sqrt(width) * delta / 2 * sum(K_W**i for i in range(depth - 1))
    gap = K_W * hidden_bound  # eq. 22
    return Bounds(
        spectral_norm=float(K_W),
        outputs=max(np.linalg.norm(y, axis=1).max() for y in outputs[0]),
        outputs_bound=K_W**depth * K_X,
        activation_gap=np.abs(np.maximum(z, 0) - huber).max(),
        hidden_gap=_farthest(*hidden),
        hidden_gap_bound=hidden_bound,
        output_gap=_farthest(*outputs),
        output_gap_bound=gap,
        criterion=LIPSCHITZ * gap,
    )


def _farthest(rectified: list[np.ndarray], huberized: list[np.ndarray]) -> float:
    """The largest distance between the vectors of an image, over images and networks."""
    return max(float(np.linalg.norm(a - b, axis=1).max()) for a, b in zip(rectified, huberized, strict=True))


def iterates(config: Convergence, delta: float) -> tuple[Task, Task, list[PamFit]]:
    """The task, that of ReLUs, and PAM after 1, 2, ... iterations, each of which begins with all those before."""
    digits = data.load("digits")
    shape, widths = digits.image_shape, list(config.widths)
    huberized, rectified = (
        supervised(models.create("mlp", 10, shape, widths=widths, activation=name), digits)
        for name in (f"huberized_relu({delta})", "relu")
    )
    keys = jax.random.split(jax.random.key(0))
    theta_1, theta_2 = trees.unstack(train_endpoints(keys, huberized, TrainConfig(epochs=config.epochs)).theta)
    P = match_activations(huberized, theta_1, theta_2).P if config.aligned else None
    # A constant rate, so that fewer iterations are the first ones of more, by the same programs.
    settings = FitConfig(epochs=config.curve_epochs, optimizer=OPTIMIZER)
    matrices = PermutationFitConfig(epochs=config.permutation_epochs)
    fits = []
    for iterations in range(1, config.iterations + 1):
        pam = PamConfig(
            settings, matrices, iterations, nu_P=config.nu, nu_phi=config.nu, acceptance="descent", slopes=True,
            objective_points=config.points, objective_examples=len(digits.train_labels), norm_bound=config.norm_bound,
        )  # fmt: skip
        fits.append(fit_pam(jax.random.key(1), huberized, bezier(huberized.model.spec), theta_1, theta_2, P, pam))
    return huberized, rectified, fits


def objective(task: Task, fit: PamFit, points: int, weight_decay: float = FitConfig.weight_decay) -> float:
    """Q + R of a curve over all training images, with the activations of a task."""
    ts = (np.arange(points) + 0.5) / points
    along = evaluate_path(task, fit.path, ts)
    squares = [float(trees.dot(*(2 * [trees.params(fit.path(jnp.float32(t)))]))) for t in ts]
    return float(np.mean(along.train_loss) + weight_decay / 2 * np.mean(squares))


def proximal_terms(fit: PamFit, nu: float) -> np.ndarray:
    """What the half-steps that were accepted cost in every iteration (eq. 6), by which Q + R fell at least."""
    return (fit.distance**2 / (2 * nu) * fit.accepted).reshape(-1, 2).sum(1)


def main(config: Convergence) -> None:
    """Fit and print the two tables."""
    check_all_positive(config)
    rows, limits = [], []
    for delta in config.deltas:
        huberized, rectified, fits = iterates(config, delta)
        last = fits[-1]
        assert last.slopes is not None
        found = bounds(huberized, rectified, [last.path(t) for t in np.linspace(0, 1, 21, dtype=np.float32)], delta)
        proximal = proximal_terms(last, config.nu)
        rectifieds = [f"{objective(rectified, fit, config.points):.5f}" for fit in fits]
        paid = [f"{each:.2e}" for each in proximal]
        for k, (of_relu, terms) in enumerate(zip(["", *rectifieds], ["", *paid], strict=True)):
            slopes = [f"{each[k]:.4f}" for each in last.slopes]
            rows.append([f"{delta:g}", str(k), f"{last.objective[2 * k]:.5f}", of_relu, terms, *slopes])
        met = int((proximal >= 2 * found.criterion).sum())
        limits.append(
            [
                f"{delta:g}",
                f"{found.spectral_norm:.2f}",
                f"{found.outputs:.1f} / {found.outputs_bound:.0f}",
                f"{found.activation_gap:g}",
                f"{found.hidden_gap:.3g} / {found.hidden_gap_bound:.3g}",
                f"{found.output_gap:.3g} / {found.output_gap_bound:.3g}",
                f"{found.criterion:.3g}",
                f"{met} of {config.iterations}",
            ]
        )
    head = ["delta", "iteration", "Q + R", "with ReLUs", "proximal terms", "slope, phi", "slope, P"]
    print(table(head, rows))
    head = ["delta", "K_W", "outputs / eq. 18", "activations (eq. 20)", "layer apart / eq. 21"]
    head += ["outputs apart / eq. 22", "right of eq. 19"]
    print(table([*head, "iterations of twice as much"], limits))


if __name__ == "__main__":
    command(Convergence, main)
