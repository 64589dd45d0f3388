"""Paths from a network to its copy with two units exchanged, by way of a permutation point (section 4.1)."""

from typing import NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.unit_layers import check_units
from mcjax.curves.polyline import Polyline
from mcjax.data import Dataset
from mcjax.errors import RunError
from mcjax.models.base import Model
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.first_half import first_half
from mcjax.permutation_points.problem import define_problem, tree_like
from mcjax.symmetry import Permutation, identity_permutation, permute


class PermutationPath(NamedTuple):
    """A path from theta to its copy with two units exchanged, by way of their permutation point.

    Knot i and the i-th from the end are the same network but for the exchange, to the last bit. A path that ended early
    has the knots of its first half so far, the one at which a minimisation failed last.

    Attributes:
        polyline: The path through networks, numpy; the one in the middle is `point`.
        point: The permutation point, in which the two units are one; None if the path ended early.
        P: The exchange.
        group: The group of the two units.
        units: The two units.
        distances: Distances of the two units: at theta, at every minimum, and zero at the point (k,).
        loss: The loss there (k,).
        gradient_norm: Norm of the gradient there, NaN at theta (k,).
        converged: Whether the minimisation converged, True at theta, bool (k,).
        heights: The highest loss of each segment of the first half.
        iterations: Newton steps in all.
        products: Products of the Hessian with a vector in all.
        warning: How far the path rises above its minima on the way from one to the next, and what would lower it, if
            that is more than `config.rise_tolerance` allows; else None.
        stopped: Where and how the path ended early, if a minimisation did not converge and had to; else None.
    """

    polyline: Polyline
    point: trees.Tree | None
    P: Permutation
    group: str
    units: tuple[int, int]
    distances: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    converged: np.ndarray
    heights: np.ndarray
    iterations: int
    products: int
    warning: str | None
    stopped: str | None

    @property
    def knots(self) -> trees.Tree:
        """The networks along a leading axis."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """t -> theta, t in proportion to the length. Raises RunError if the path is not whole."""
        if self.stopped:
            raise RunError(f"the path of units {self.units} of {self.group!r} is not whole: {self.stopped}")
        return self.polyline.path

    @property
    def barrier(self) -> float:
        """How far the path rises above theta, on segments as well as at knots. Infinity if it ended early."""
        return np.inf if self.stopped else float(self.heights.max() - self.loss[0])

    def __repr__(self) -> str:
        rest = self.stopped or f"barrier {self.barrier:.4g}" + (f" ({self.warning})" if self.warning else "")
        return f"PermutationPath of units {self.units[0]} and {self.units[1]} of {self.group!r}: {rest}"


def permutation_path(
    model: Model,
    theta: trees.Tree,
    data: Dataset,
    group: str,
    units: tuple[int, int],
    config: PermutationConfig | None = None,
) -> PermutationPath:
    """Bring two units of a layer together, exchange them, and go back with them exchanged.

    With theta_m = theta_l + delta e for the parameter vectors of the two units (rows of the kernel, biases, scales and
    shifts of norms), delta goes down to zero, the loss minimised in all else at every step. Then the output weights
    move to their mean at constant loss (weight decay falls), to the permutation point. Then all of it in reverse, with
    l and m exchanged. The loss is measured between the knots too, and where it rises too high, the path is walked again
    in smaller steps.

    The loss is that of the training images, by the batch statistics that theta holds; those of the two units become
    one with delta. Knots are float64 if that is the precision: for a network of many parameters take fewer steps.
    Source: Brea, Simsek, Illing and Gerstner 2019, section 4.1.

    Args:
        model: The model, any that has a layer whose units stand alone.
        theta: The network. It should be a minimum of this loss (trained on these images with the config's weight
            decay), or all of it moves on the way.
        data: Data set; the loss is taken over its training images.
        group: The hidden layer, as `print(model.spec)` names it.
        units: Two units of it.
        config: Steps, tolerances and precision; None: `PermutationConfig()`.

    Returns:
        The path, its permutation point, and what was measured along it.

    Raises:
        InputError: For units that are not two of the group, a group of one unit, units that feed a residual trunk, or
            more knots than there is room for.
        SpecError: If the model has no such group, or theta is of another model.

    Example::

        found = permutation_path(model, theta, data, "dense_1", (0, 3))
        metrics = evaluate_path(model, found.path, data)
    """
    problem = define_problem(model, theta, data, group, config)
    pair = check_units(problem.layer, units)
    with problem.precision:
        half = first_half(problem, problem.start, pair, np.zeros(problem.layer.size, bool))
    P = _exchange(model, theta, group, pair)
    point, knots = None, half.knots
    if half.stopped is None:
        point = tree_like(theta, {name: leaf[-1] for name, leaf in half.knots.items()})
        # gamma(t) = sigma(gamma(1 - t)): the second half is the first one in reverse, with l and m exchanged.
        with jax.enable_x64(True):
            exchanged = jax.vmap(lambda knot: permute(model.spec, P, knot))(tree_like(theta, half.knots))
        back = {name: np.asarray(leaf)[-2::-1] for name, leaf in trees.flatten(exchanged).items()}
        knots = {name: np.concatenate([leaf, back[name]]) for name, leaf in half.knots.items()}
    measured = {name: value for name, value in half._asdict().items() if name != "knots"}
    return PermutationPath(Polyline(tree_like(theta, knots)), point, P, group, pair, **measured)


def _exchange(model: Model, theta: trees.Tree, group: str, units: tuple[int, int]) -> Permutation:
    """The permutation that exchanges two units of a group, and nothing else."""
    P = {name: np.array(p) for name, p in identity_permutation(model.spec, theta).items()}
    P[group][list(units)] = units[::-1]
    return P
