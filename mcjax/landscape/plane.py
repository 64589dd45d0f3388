"""Metrics on a plane through three networks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.curve import Curve
from mcjax.errors import InputError
from mcjax.landscape.points import Splits, evaluate_points, evaluation_config, value_of
from mcjax.models.base import has_leading_axis
from mcjax.shown import short_repr
from mcjax.training.loss import Metric
from mcjax.training.task import Task, check_task


@short_repr
class Plane(NamedTuple):
    """A plane in parameter space: theta(x, y) = origin + x e_x + y e_y, in Euclidean units of the weights. A pytree.

    Networks on it have the dtypes of origin, and its leaves that are not floating-point. Batch statistics are moved
    along with the parameters, as the same affine combination of those of the three networks. Far outside of these a
    variance can become negative, so re-estimate them there.

    Attributes:
        origin: The network at (0, 0).
        e_x: The first direction, a tree like theta in float32 at least, orthonormal with `e_y` over the parameters.
        e_y: The second direction, likewise.
        points: The coordinates of origin, u_point and v_point, (3, 2), float32 at least.
    """

    origin: trees.Tree
    e_x: trees.Tree
    e_y: trees.Tree
    points: jax.Array

    def at(self, x: Any, y: Any) -> trees.Tree:
        """The network at the scalar coordinates x and y. Works under jit, vmap and grad."""
        return trees.combine(lambda o, a, b: o + x * a + y * b, self.origin, self.e_x, self.e_y)

    def coordinates(self, theta: trees.Tree) -> tuple[jax.Array, jax.Array]:
        """The x and y of the plane's point nearest to theta, float32 scalars. Works under jit and vmap.

        For a whole path: `jax.lax.map(lambda t: plane.coordinates(path(t)), ts)`.
        """
        moved = trees.subtract(trees.params(theta), trees.params(self.origin))
        return trees.dot(moved, trees.params(self.e_x)), trees.dot(moved, trees.params(self.e_y))

    def distance(self, theta: trees.Tree) -> jax.Array:
        """The distance of the parameters of theta from the plane, a float32 scalar; about 1e-7 ||theta|| on it."""
        on_plane = self._replace(origin=trees.widened(self.origin)).at(*self.coordinates(theta))
        return trees.norm(trees.subtract(trees.params(theta), trees.params(on_plane)))


@short_repr
class PlaneMetrics(NamedTuple):
    """Metrics on a grid of a plane; entry [i, j] is at (x[j], y[i]).

    Attributes:
        x: The coordinates of the columns, (columns,).
        y: The coordinates of the rows, (rows,).
        values: Every metric on the grid, float32 (rows, columns), by name as in `PathMetrics`. They are attributes too.
        points: The coordinates of the three networks, (3, 2).
        axes: The plane.
    """

    x: np.ndarray
    y: np.ndarray
    values: dict[str, np.ndarray]
    points: np.ndarray
    axes: Plane

    def __getattr__(self, name: str) -> np.ndarray:
        return value_of(self.values, name)


def plane_axes(origin: trees.Tree, u_point: trees.Tree, v_point: trees.Tree) -> Plane:
    """The plane through three networks, with its x axis from origin to u_point, and y towards v_point.

    e_x is the direction of u_point - origin, and e_y that of v_point - origin less its part along e_x (Gram-Schmidt, in
    float64 on the host), over the parameters.
    Source: Garipov et al., 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs".

    Raises:
        InputError: If the three are not of one architecture, lie on one line up to float32 rounding, or are not finite.
    """
    for name, theta in (("u_point", u_point), ("v_point", v_point)):
        trees.check_alike(origin, theta, "origin", name)
    start, u, v = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trees.floating(theta))
        for theta in (origin, trees.like(origin, u_point), trees.like(origin, v_point))
    )
    # Gram-Schmidt.
    u, v = (jax.tree.map(np.subtract, theta, start) for theta in (u, v))
    length, reach = np.sqrt(_dot(u, u)), np.sqrt(_dot(v, v))
    rounding = 1e-6 * np.sqrt(_dot(start, start)) + 1e-5 * max(length, reach)
    along = _dot(u, v) / length if length > 0 else np.nan
    e_x = jax.tree.map(lambda leaf: leaf / length, u) if length > 0 else u
    rest = jax.tree.map(lambda a, b: a - along * b, v, e_x)
    height = np.sqrt(_dot(rest, rest))
    if not (length > rounding and height > rounding):
        raise InputError(
            f"origin, u_point and v_point are on one line or not finite: got {length:.3g} from origin to u_point and "
            f"v_point {height:.3g} beside that line, expected both above {rounding:.3g}. Give three networks of "
            "which no two are the same."
        )
    e_y = jax.tree.map(lambda leaf: leaf / height, rest)
    # In these axes, origin is (0, 0), u_point (length, 0) and v_point (along, height).
    points = np.array([[0, 0], [length, 0], [along, height]])
    origin = jax.tree.map(jnp.asarray, origin)
    e_x, e_y = (trees.combine(lambda _, leaf: leaf, trees.widened(origin), each) for each in (e_x, e_y))
    return Plane(origin, e_x, e_y, trees.as_precise_as(origin, points))


def _dot(a: trees.Tree, b: trees.Tree) -> float:
    products = jax.tree.map(np.vdot, trees.trained(a), trees.trained(b))
    return float(sum(jax.tree.leaves(products)))


def plane(
    task: Task,
    origin: trees.Tree,
    u_point: trees.Tree,
    v_point: trees.Tree,
    grid: Any = 21,
    *,
    metric: Metric | None = None,
    bounds: Any = None,
    margin: float = 0.2,
    reestimate: bool = True,
    batch_size: int = 500,
    calibration_examples: int | None = None,
    chunk: int | None = None,
    splits: Splits = "both",
    mesh: Mesh | None = None,
) -> PlaneMetrics:
    """The metrics of a task on the plane through three networks (see `plane_axes`), on a grid of points.

    One compiled program evaluates all points, and serves all planes of this task and grid size.

    Args:
        task: The task of the networks.
        origin: The network at (0, 0).
        u_point: A network on the x axis.
        v_point: A third network, above the x axis.
        grid: The number of equally spaced points along each axis, or (columns, rows); or the coordinates themselves,
            two increasing arrays (x, y).
        metric: As in `evaluate_path`.
        bounds: ((x0, x1), (y0, y1)), the rectangle that the grid covers. None: the bounding box of the three
            networks, wider by `margin`.
        margin: Width added to the bounding box on every side, as a share of its extent.
        reestimate: Whether batch statistics are re-estimated at every point, on training examples for all splits.
        batch_size: Examples in memory at once.
        calibration_examples: As in `evaluate_path`.
        chunk: Points in a device's memory at once. None: 16, or 1 where convolutions run faster one after another.
        splits: The examples to measure on: "both", or only "train" or "test".
        mesh: Devices to distribute the points over (`make_mesh`). None: one device.

    Returns:
        The metrics on the grid.

    Raises:
        SpecError: If a network is not of this task.
        InputError: If the three lie on one line, the grid is not one, the metric is no scalar, the task has no such
            split, or the points do not fit into memory.

    Example::

        metrics = plane(task, theta_1, theta_2, theta_3, splits="test")
        x, y = metrics.axes.coordinates(theta_4)
    """
    task = check_task(task, arrays=())
    for name, theta in (("origin", origin), ("u_point", u_point), ("v_point", v_point)):
        if has_leading_axis(theta, task):
            raise InputError(f"got many networks as {name}, expected one: take one by mcjax.trees.index(theta, i).")
    task = check_task(task, origin, arrays=())
    config = evaluation_config(
        task,
        pairs=False,
        reestimate=reestimate,
        batch_size=batch_size,
        calibration_examples=calibration_examples,
        chunk=chunk,
        splits=splits,
    )
    task = task.with_metric(metric, origin)
    axes = plane_axes(origin, u_point, v_point)
    x, y = _grid(grid, bounds, margin, np.asarray(axes.points))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    at = jax.tree_util.Partial(_at, axes)
    found = evaluate_points(config, task, at, points, mesh)
    values = {name: value.reshape(len(y), len(x)) for name, value in found.items()}
    return PlaneMetrics(x, y, values, np.asarray(axes.points), axes)


def curve_plane(
    task: Task, path: Any, grid: Any = 21, *, bounds: Any = None, margin: float = 0.2, **options: Any
) -> PlaneMetrics:
    """`plane` for the plane that contains a curve of one control point: a quadratic Bezier or a chain of one bend.

    The x axis runs from theta_1 to P theta_2; `.points` are these two and the control point, their midpoint + theta_c.

    Args:
        task: The task of the networks.
        path: The path of one pair by such a curve, as `Curve.bind` returns it: the `.path` of a fit.
        grid: As in `plane`.
        bounds: As in `plane`. None: the bounding box of the curve, without the control point, wider by `margin`.
        margin: As in `plane`.
        **options: Further arguments of `plane`.

    Returns:
        The metrics on the grid.

    Raises:
        InputError: For other paths, and for a curve that is a straight line.

    Example::

        metrics = curve_plane(task, fit.path, splits="test")
        x, y = jax.lax.map(lambda t: metrics.axes.coordinates(fit.path(t)), ts)
    """
    curve = getattr(path, "func", None)
    if not isinstance(curve, Curve) or curve.control_points != 1 or len(path.args) != 4 or path.keywords:
        raise InputError(
            "expected the path of one pair by a curve of one control point, as bezier(spec).bind(...) makes it: only "
            "such a curve lies in a plane. For others, give `plane` three points of the path."
        )
    theta_1, theta_2, theta_c = path(0.0), path(1.0), path.args[2]
    if theta_c is None:
        raise InputError("the path is a straight line, since theta_c is None: expected a curve with a control point.")
    control = trees.combine(lambda a, b, c: (a + b) / 2 + c, trees.widened(theta_1), theta_2, theta_c)
    if bounds is None and not _explicit(grid):
        points = np.asarray(plane_axes(theta_1, theta_2, control).points)
        # The curve in the coordinates of the plane.
        ts = np.linspace(0, 1, 1001, dtype=np.float32)
        weights = np.asarray(jax.vmap(curve.weights)(ts))
        offset = points[2] - (points[0] + points[1]) / 2
        along = (1 - ts)[:, None] * points[:1] + ts[:, None] * points[1:2] + weights * offset[None]
        bounds = _box(along, margin)
    return plane(task, theta_1, theta_2, control, grid, bounds=bounds, margin=margin, **options)


def _at(axes: Plane, coordinates: jax.Array) -> trees.Tree:
    return axes.at(coordinates[0], coordinates[1])


def _explicit(grid: Any) -> bool:
    return isinstance(grid, tuple | list) and len(grid) == 2 and all(np.ndim(part) == 1 for part in grid)


def _grid(grid: Any, bounds: Any, margin: float, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (columns,) and y (rows,), float32."""
    if _explicit(grid):
        if bounds is not None:
            raise InputError("got bounds and the coordinates of the grid as well: expected one of them.")
        x, y = (np.asarray(part, np.float32) for part in grid)
        for part in (x, y):
            if not len(part) or not np.isfinite(part).all() or (np.diff(part) <= 0).any():
                raise InputError(f"got coordinates {np.array2string(part, threshold=8)}, expected increasing numbers.")
        return x, y
    counts = (grid, grid) if isinstance(grid, int | np.integer) else grid
    whole = isinstance(counts, tuple | list) and len(counts) == 2
    if not whole or not all(isinstance(n, int | np.integer) and n >= 2 for n in counts):
        raise InputError(
            f"got grid={grid!r}, expected a number of at least 2, two of them (columns, rows), or two increasing "
            "arrays (x, y)."
        )
    box = _box(points, margin) if bounds is None else np.asarray(bounds, np.float32)
    if box.shape != (2, 2) or not np.isfinite(box).all() or (box[:, 0] >= box[:, 1]).any():
        raise InputError(f"got bounds={bounds!r}, expected ((x0, x1), (y0, y1)) with x0 < x1 and y0 < y1.")
    x, y = (np.linspace(low, high, n, dtype=np.float32) for (low, high), n in zip(box, counts, strict=True))
    return x, y


def _box(points: np.ndarray, margin: float) -> np.ndarray:
    """The bounding box of points (n, 2) and, on every side, `margin` of its extent: (2, 2), lowest and highest."""
    if not np.isfinite(margin) or margin < 0:
        raise InputError(f"got margin={margin}, expected a share of the extent, at least 0.")
    low, high = points.min(0), points.max(0)
    return np.stack([low - margin * (high - low), high + margin * (high - low)], 1)
