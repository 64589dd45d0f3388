"""Paths from a network to its copy with two units exchanged, through a permutation point (section 4.1)."""

from typing import NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.unit_layers import check_units
from mcjax.curves.polyline import Polyline
from mcjax.errors import RunError
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.first_half import first_half
from mcjax.permutation_points.problem import define_problem, tree_like
from mcjax.symmetry import Permutation, PermutationSpec, identity_permutation, permute
from mcjax.training.task import Task


class PermutationPath(NamedTuple):
    """A path from theta through a permutation point to the copy of theta with two units exchanged.

    The i-th knot from the end is bitwise the i-th knot with the two units exchanged. A path that ended early has the
    knots of its first half up to the minimisation that failed.

    Attributes:
        polyline: The path through its knots, numpy; the middle one is `point`.
        point: The permutation point, at which the two units are equal; None if the path ended early.
        P: The permutation that exchanges the two units.
        group: The group of the two units.
        units: The two units.
        distances: Distance of the two units at theta, at every minimum, and at the point, zero (k,).
        loss: Loss at the same places (k,).
        gradient_norm: Gradient norm at the same places, NaN at theta (k,).
        converged: Whether each minimisation converged, True at theta, bool (k,).
        heights: Highest loss on each segment of the first half.
        iterations: Total number of Newton steps.
        products: Total number of products of the Hessian with a vector.
        warning: The rise of the path above its minima, with a remedy, if it exceeds `config.rise_tolerance`; else
            None.
        stopped: Place and reason of an early end, at a minimisation that did not converge; else None.
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
        """The path t -> theta, t in proportion to the length. Raises RunError if the path ended early."""
        if self.stopped:
            raise RunError(f"the path of units {self.units} of {self.group!r} ended early: {self.stopped}")
        return self.polyline.path

    @property
    def barrier(self) -> float:
        """The highest loss on the path above that of theta. Infinity if the path ended early."""
        return np.inf if self.stopped else float(self.heights.max() - self.loss[0])

    def __repr__(self) -> str:
        rest = self.stopped or f"barrier {self.barrier:.4g}" + (f" ({self.warning})" if self.warning else "")
        return f"PermutationPath of units {self.units[0]} and {self.units[1]} of {self.group!r}: {rest}"


def permutation_path(
    task: Task,
    theta: trees.Tree,
    group: str,
    units: tuple[int, int],
    config: PermutationConfig | None = None,
) -> PermutationPath:
    """Join a network to its copy with two units of a layer exchanged, by a path through their permutation point.

    With theta_m = theta_l + delta e for the parameter vectors of the two units (rows of the kernel, biases, scales and
    shifts of norms), delta decreases to zero, and at every step the loss is minimised in all other parameters. Then the
    output weights move to their mean at constant loss (only weight decay changes), to the permutation point. The second
    half is the first one reversed, with l and m exchanged. The loss is also measured between the knots; if it rises too
    high there, the path is computed again in smaller steps.

    The loss is that of `full_batch_loss`, with the batch statistics in theta; those of the two units become equal as
    delta goes to zero. All knots are in memory, in the precision of the config.
    Source: Brea, Simsek, Illing and Gerstner 2019, section 4.1.

    Args:
        task: The task, with a model; its loss in evaluation mode is minimised.
        theta: The network. It should be a minimum of this loss (trained on these examples with the config's weight
            decay); otherwise all of its parameters move along the path.
        group: The group of a hidden layer, as `print(task.model.spec)` names it.
        units: Two units of the group.
        config: Steps, tolerances and precision. None: `PermutationConfig()`.

    Returns:
        The path, its permutation point, and the losses along it.

    Raises:
        InputError: For units that are not two of the group, a group of one unit, units of a residual trunk, or more
            knots than `config.knots`.
        SpecError: If the model has no such group, or theta is of another model.

    Example::

        found = permutation_path(task, theta, "dense_1", (0, 3))
        metrics = evaluate_path(task, found.path)
    """
    problem = define_problem(task, theta, group, config)
    pair = check_units(problem.layer, units)
    # Section 4.1: delta decreases to zero, then the output weights become equal.
    with problem.precision:
        half = first_half(problem, problem.start, pair, np.zeros(problem.layer.size, bool))
    spec = problem.model.spec
    P = _exchange(spec, theta, group, pair)
    point, knots = None, half.knots
    if half.stopped is None:
        point = tree_like(theta, {name: leaf[-1] for name, leaf in half.knots.items()})
        # Section 4.1: gamma(t) = sigma(gamma(1 - t)), so the second half is the first reversed, l and m exchanged.
        with jax.enable_x64(True):
            exchanged = jax.vmap(lambda knot: permute(spec, P, knot))(tree_like(theta, half.knots))
        back = trees.unstack(trees.on_host(trees.flatten(exchanged)))[-2::-1]
        knots = trees.stack_on_host([*trees.unstack(half.knots), *back])
    measured = {name: value for name, value in half._asdict().items() if name != "knots"}
    return PermutationPath(Polyline(tree_like(theta, knots)), point, P, group, pair, **measured)


def _exchange(spec: PermutationSpec, theta: trees.Tree, group: str, units: tuple[int, int]) -> Permutation:
    """The permutation that exchanges two units of a group, and nothing else."""
    P = {name: np.array(p) for name, p in identity_permutation(spec, theta).items()}
    P[group][list(units)] = units[::-1]
    return P
