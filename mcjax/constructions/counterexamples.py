"""Pairs of minima that no path of low loss joins: tests for strings and curves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import regression
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model
from mcjax.models.registry import create
from mcjax.shown import short_repr
from mcjax.training.supervised import LabelLoss, label_losses, supervised
from mcjax.training.task import Task


@short_repr
class Counterexample(NamedTuple):
    """A task, and two minima with a barrier on every path between them.

    Attributes:
        model: A two-layer ReLU network without biases.
        task: A regression by this model.
        theta_1: A global minimum.
        theta_2: Another global minimum, or a poor local one.
        barrier: The training loss that every path between them reaches; on a grid of t it can be a little less.
        losses: The training losses of theta_1 and theta_2.
    """

    model: Model
    task: Task
    theta_1: trees.Tree
    theta_2: trees.Tree
    barrier: float
    losses: tuple[float, float] = (0.0, 0.0)


def disconnected_minima(units: int, loss: LabelLoss | None = None) -> Counterexample:
    """Two disconnected global minima of a two-layer ReLU network, for any width and convex loss (Theorem 4).

    The data are h groups (x, e_j), x = 1, 2, 3, with label x. The teacher max(0, x) - max(0, -x) of two hidden units
    computes them. theta_1 has one unit for each group, inactive on the others; theta_2 has one unit for all groups, and
    zero units. As long as all errors are below 1/6, unit j alone is active at x = 1 and 2 of its group; so its slope is
    1 up to 1/3, and its value at x = 3 is 3 up to 1/2. Another unit that became active would do so at x = 2, with
    positive slope, and add more than 2/3 at x = 3. So every path has an error of at least 1/6 in one of the 3 h labels;
    the barrier is what such an error adds to the loss of the minima, 1 / (108 h) for squares.
    Source: Kuditipudi et al. 2019, section 5. The data are our own.

    Args:
        units: The number h of hidden units, at least 2.
        loss: `loss(outputs, labels) -> losses` as for `supervised`, convex in the outputs (n, 1) and least where they
            equal the labels (n, 1) (None: squared errors).

    Raises:
        InputError: For fewer units, or a loss that is not least at the labels.

    Example::

        example = disconnected_minima(2)
        ends, adam = (example.theta_1, example.theta_2), optax.adam(1e-3)
        config = StringConfig(TrainConfig(epochs=100, batch_size=6, optimizer=adam, weight_decay=0.0))
        sample_string(key, example.task, *ends, 0.9 * example.barrier, config=config)

        # The cross entropy of probabilities with those of the teacher: labels are logits.
        disconnected_minima(2, lambda z, y: optax.sigmoid_binary_cross_entropy(z, jax.nn.sigmoid(y)))
    """
    check_whole("units", units, 2)
    x = np.tile([1.0, 2.0, 3.0], units)[:, None]
    inputs = np.concatenate([x, np.repeat(np.eye(units), 3, axis=0)], 1)
    # Incoming weights (inputs, units) of theta_1: a unit for each group, -4 on the other groups; of theta_2: one unit.
    apart = np.concatenate([np.ones((1, units)), 4 * np.eye(units) - 4])
    together = np.zeros((units + 1, units))
    together[0, 0] = 1
    weights = np.eye(units)[:, :1]
    model = create("mlp", 1, (units + 1,), widths=(units,), bias=False)
    data = regression(inputs, x, inputs, x, "disconnected minima")
    ends = _theta(apart, np.ones((units, 1))), _theta(together, weights)
    least, added = _losses_near(label_losses if loss is None else loss, x)
    barrier = least + added / (3 * units)
    return Counterexample(model, supervised(model, data, loss=loss), *ends, barrier, (least, least))


def _losses_near(loss: LabelLoss, labels: np.ndarray) -> tuple[float, float]:
    """The mean loss of outputs that equal the labels, and the least that an error of 1/6 adds to that of a label."""
    with jax.enable_x64(True):
        exact, *wrong = (
            np.asarray(loss(jnp.asarray(labels + error), jnp.asarray(labels))).reshape(len(labels), -1).mean(1)
            for error in (0, -1 / 6, 1 / 6)
        )
    added = float((np.minimum(*wrong) - exact).min())
    if not added > 0:
        raise InputError(f"got a loss that an error of 1/6 changes by {added:.4g}, expected one least at the labels.")
    return float(exact.mean()), added


def mixture_minima(first: int = 3, second: int = 1) -> Counterexample:
    """A poor local minimum: labels from a mixture of two networks, each of which explains one kind of input.

    The student is b max(0, w x), and x is 1 or -1. A share p of the labels is max(0, x), the others are max(0, -x).
    For w > 0 the output is zero at x = -1, and best at x = 1 if b w = p: theta_1, of loss (1 - p^2) / 2. For w < 0 it
    is best if b w = p - 1: theta_2, of loss (1 - (1 - p)^2) / 2, which is higher, and the least of all w < 0. Every
    path between them contains w = 0, where the output is zero and the loss 1/2: barrier = 1/2, for any p.
    Source: Freeman and Bruna 2017, section 2.3.1, which conjectures that a change of p preserves the local minima; here
    it does. The networks are our own. The minima have the output weights of those that made the labels, times their
    shares of the labels.

    Args:
        first: The number of labels max(0, x) at each x: p = first / (first + second).
        second: The number of labels max(0, -x) at each x, smaller than `first`.

    Returns:
        The task, the two minima and the barrier.

    Raises:
        InputError: Unless 0 < second < first.

    Example::

        example = mixture_minima(3, 1)
        barrier(evaluate_path(example.task, linear(example.model.spec).bind(example.theta_1, example.theta_2)))
    """
    check_whole("first", first, 2)
    check_whole("second", second, 1, first - 1)
    count = first + second
    x = np.repeat([1.0, -1.0], count)[:, None]
    from_first = np.tile(np.arange(count) < first, 2)[:, None]
    y = np.where(from_first, np.maximum(x, 0), np.maximum(-x, 0))
    p = first / count
    model = create("mlp", 1, (1,), widths=(1,), bias=False)
    ends = _theta(np.array([[1.0]]), np.array([[p]])), _theta(np.array([[-1.0]]), np.array([[1 - p]]))
    task = supervised(model, regression(x, y, x, y, "mixture of labels"))
    return Counterexample(model, task, *ends, 0.5, ((1 - p**2) / 2, (1 - (1 - p) ** 2) / 2))


def two_neuron_mixture(samples: int = 100) -> Counterexample:
    """A network of two units, each for one component of a mixture, and its copy with the units exchanged.

    Each component is a Gaussian on one axis of the plane. The label is (max(0, x_1), max(0, x_2)), scaled to mean
    square 1. The determinant of W_1 has opposite signs in the two networks, so every path contains a W_1 of rank at
    most one, which depends on the data along one direction w only. The best second layer then has a mean squared error
    of 1/2, for any w: barrier = 1/2. After matching, the two networks are equal.
    Source: Freeman and Bruna 2017, section 2.3.1. As printed there, the labels vanish with the covariance, and with
    them the loss of the zero network; here they do not, and the risk is at least 1/2 as claimed.

    Args:
        samples: The number of points on each axis, even.

    Returns:
        The task, the two minima and the barrier.

    Raises:
        InputError: If `samples` is not an even number.
    """
    check_whole("samples", samples, 2)
    if samples % 2:
        raise InputError(f"got samples={samples}, expected an even number: as many labels of zero as others.")
    # It takes a sixth of the time that the import of mcjax takes.
    from scipy.special import ndtri

    # Quantiles of a Gaussian: a sample without a random draw.
    along = ndtri((np.arange(samples) + 0.5) / samples)
    none = np.zeros(samples)
    inputs = np.concatenate([np.stack([along, none], 1), np.stack([none, along], 1)])
    labels = np.maximum(inputs, 0)
    scale = 1 / np.sqrt(np.square(labels).mean())
    swap = np.eye(2)[::-1]
    model = create("mlp", 2, (2,), widths=(2,), bias=False)
    data = regression(inputs, scale * labels, inputs, scale * labels, "two-neuron mixture")
    ends = _theta(np.eye(2), scale * np.eye(2)), _theta(swap, scale * swap)
    return Counterexample(model, supervised(model, data), *ends, barrier=0.5)


def _theta(first: np.ndarray, second: np.ndarray) -> trees.Tree:
    kernels = {"Dense_0": first, "Dense_1": second}
    return {"params": {name: {"kernel": kernel.astype(np.float32)} for name, kernel in kernels.items()}}
