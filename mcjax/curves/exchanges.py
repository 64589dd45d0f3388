"""All exchanges of two units around a permutation: whether it is locally optimal for a curve."""

from typing import NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.curves.config import FitConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import check_curve
from mcjax.curves.objective import Objective, midpoint_grid
from mcjax.errors import InputError, check_positive, check_whole
from mcjax.models.pairs import pairs_of
from mcjax.shown import short_repr
from mcjax.symmetry import Permutation
from mcjax.training.batches import fixed_examples
from mcjax.training.task import Task, check_task


@short_repr
class Exchanges(NamedTuple):
    """The objective at a permutation, and after every exchange of two units.

    Attributes:
        objective: Q + R at P, float64 ([pairs]).
        exchanged: Q + R with units i and j of a group exchanged, float64 ([pairs,] n, n) per group; the diagonal is
            `objective`.
    """

    objective: np.ndarray
    exchanged: dict[str, np.ndarray]

    @property
    def better(self) -> np.ndarray:
        """Number of exchanges of two units that decrease the objective, int ([pairs])."""
        height = np.asarray(self.objective)[..., None, None]
        return np.sum([(each < height).sum((-2, -1)) // 2 for each in self.exchanged.values()], 0)

    @property
    def number(self) -> int:
        """Number of exchanges of two units."""
        return sum(each.shape[-1] * (each.shape[-1] - 1) // 2 for each in self.exchanged.values())


def exchanges(
    task: Task,
    curve: Curve,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    theta_c: trees.Tree | None = None,
    P: Permutation | None = None,
    *,
    weight_decay: float = FitConfig.weight_decay,
    examples: int = 1000,
    points: int = 11,
    batch_size: int = 128,
) -> Exchanges:
    """The objective of PAM after every exchange of two units of a group, with the control points fixed.

    P is locally optimal with respect to exchanges if none of them is better. The paper's claim that a matched P is
    close to locally optimal (Neuron Alignment, section 4.1.2) is about this, before and after a curve is fitted.

    Args:
        task: The task.
        curve: The curve.
        theta_1: First endpoint, or several along a leading pair axis.
        theta_2: Second endpoint, or as many.
        theta_c: Control points, such as those of a fit. None: the straight line.
        P: Hard permutation of theta_2. None: the identity.
        weight_decay: Factor of ||params(r(t))||^2 / 2 in the objective, that of the fit to compare with
            `PamFit.objective`, as `examples` and `points` are those of its `PamConfig`.
        examples: Number of fixed training examples in the objective.
        points: Number of fixed points t in the objective.
        batch_size: Examples in memory at once, and of one estimate of batch statistics.

    Returns:
        The exchanges.

    Raises:
        SpecError: If the endpoints are not of this task, or the spec of the curve does not fit them or P.
        InputError: If a number is out of range, or no unit can be permuted.

    Example::

        found = exchanges(task, curve, theta_1, theta_2, fit.theta_c, fit.P)
        print(found.better, "of", found.number)
    """
    check_curve(curve, least=0)
    for name, value in (("examples", examples), ("points", points), ("batch_size", batch_size)):
        check_whole(name, value)
    if weight_decay != 0:
        check_positive("weight_decay", weight_decay)
    task = check_task(task, arrays=())
    if not curve.spec.groups:
        raise InputError(f"no units of {task.name} can be permuted, so there is nothing to exchange.")
    pairs = pairs_of(task, curve.spec, theta_1, theta_2, P, hard=True)
    if theta_c is not None and not pairs.axis.given:
        curve.check_control_points(theta_1, theta_c)
    controls = jax.vmap(curve.zero)(pairs.theta_1) if theta_c is None else pairs.axis.add(theta_c)
    fixed, size = fixed_examples(task, examples, batch_size)
    objective = Objective(task, curve, weight_decay, midpoint_grid(points), fixed, size)
    ends, P = (pairs.theta_1, pairs.theta_2, trees.params(controls)), jax.tree.map(np.asarray, pairs.P)
    exchanged = {group: np.empty((pairs.number, p.shape[-1], p.shape[-1])) for group, p in P.items()}
    for group, matrix in exchanged.items():
        n = matrix.shape[-1]
        for i in range(n):
            # Unit i exchanged with itself and with every later one, so that P too is measured by the same program.
            later, rows = np.arange(i, n), np.arange(n - i)
            orders = np.tile(np.arange(n), (max(2, n - i), 1))
            orders[rows, i], orders[rows, later] = later, i
            candidates = {name: np.repeat(p[:, None], len(orders), 1) for name, p in P.items()}
            candidates[group] = P[group][:, orders]
            values = objective.values(*ends, candidates)[:, rows]
            matrix[:, i, later] = matrix[:, later, i] = values
    return pairs.axis.remove(Exchanges(next(iter(exchanged.values()))[:, 0, 0], exchanged))
