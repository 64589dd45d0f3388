"""The six-part path: its parts, the energy on all of it, the gap as networks widen, and what it refuses."""

from itertools import pairwise

import jax
import numpy as np
import pytest
from variables import alive, mlp

from mcjax import InputError, Task, data, models, supervised, trees
from mcjax.constructions.sparse import SparseNetwork, energy, fit_units, lasso
from mcjax.constructions.wide import _End, _highest_of_rotation, sparse_problem, unit_rows, wide_path


def regression(inputs=2, samples=100):
    x = np.random.default_rng(0).normal(size=(samples, inputs))
    y = np.sin(2 * x[:, :1]) + np.abs(x.sum(1, keepdims=True))
    return data.regression(x, y, x, y)


def net(width, inputs=2, outputs=1, **options):
    return models.create("mlp", outputs, (inputs,), widths=(width,), **{"bias": False, **options})


def task_of(width, **options):
    """The regression by a network of so many units."""
    return supervised(net(width, **options), regression())


def theta_of(found: SparseNetwork):
    kernels = {"Dense_0": found.units.T, "Dense_1": found.weights[:, None]}
    return {"params": {name: {"kernel": kernel.astype(np.float32)} for name, kernel in kernels.items()}}


def random_net(width, seed, inputs=2):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(width, inputs))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return theta_of(SparseNetwork(rows, 0.3 * rng.normal(size=width), 0.0))


def energies(dataset, kappa, theta_along):
    """The energy of networks along a leading axis, from the definition."""
    x, y = dataset.train_images.astype(np.float64), dataset.train_labels[:, 0]
    first, second = (np.asarray(theta_along["params"][f"Dense_{i}"]["kernel"], np.float64) for i in range(2))
    outputs = np.einsum("tnm,tmo->tno", np.maximum(np.einsum("nd,tdm->tnm", x, first), 0), second)[..., 0]
    return np.square(outputs - y).mean(1) + kappa * np.abs(second).sum((1, 2))


def between(a, b):
    t = np.linspace(0, 1, 33)[:, None, None]
    return (1 - t) * a + t * b


@pytest.mark.parametrize(("width", "angles"), [(8, (0.0,)), (9, (0.2,)), (5, (0.0, 0.3))])
def test_the_energy_of_all_parts(width, angles, key):
    dataset, kappa = regression(), 0.003
    ends = random_net(width, 1), random_net(width, 2)
    found = wide_path(key, task_of(width), *ends, kappa=kappa, units=(2,), angles=angles)
    moves = found.construction.moves
    assert set(found.parts) == {1, 2, 3, 4, 5, 6}
    assert list(found.parts) == sorted(found.parts)
    knots = found.construction.knots
    for i, end in ((0, ends[0]), (-1, ends[1])):
        for a, b in zip(jax.tree.leaves(trees.index(knots, i)), jax.tree.leaves(end), strict=True):
            np.testing.assert_array_equal(a, b)
    highest = []
    for move, (i, j) in zip(moves, pairwise(range(len(moves) + 1)), strict=True):
        values = energies(dataset, kappa, jax.tree.map(lambda leaf, i=i, j=j: between(leaf[i], leaf[j]), knots))
        highest.append(values.max())
        if move.kind != "line":
            assert values.max() <= max(values[0], values[-1]) + 1e-6
        if move.kind in ("b", "c"):
            np.testing.assert_allclose(values, values[0], rtol=1e-5)
    np.testing.assert_allclose(found.height, max(highest), rtol=1e-3)
    np.testing.assert_allclose(found.ends, energies(dataset, kappa, trees.stack(ends)), rtol=1e-5)
    # Rows of W_1 never leave the unit ball.
    assert np.linalg.norm(np.asarray(knots["params"]["Dense_0"]["kernel"]), axis=1).max() <= 1 + 1e-5
    least = max(*found.ends, found.e, *found.delta, *found.delta_few)
    assert found.height <= found.bound * (1 + 1e-6)
    if found.angle == 0:
        np.testing.assert_allclose([found.height, found.bound], least, rtol=1e-5)
    assert found.delta[0] <= found.ends[0]
    assert found.delta[0] <= found.delta_few[0] + 1e-9 or found.angle > 0
    assert found.gap == max(0, found.height - max(found.ends))


def test_the_lowest_path_and_the_least_epsilon_are_chosen(key):
    task = task_of(8)
    ends = random_net(8, 1), random_net(8, 2)
    each = [
        wide_path(key, task, *ends, kappa=0.003, units=(count,), angles=(angle,))
        for count in (1, 2, 4)
        for angle in (0.0, 0.2)
    ]
    best = wide_path(key, task, *ends, kappa=0.003, angles=(0.0, 0.2))
    np.testing.assert_allclose(best.height, min(path.height for path in each), rtol=1e-6)
    np.testing.assert_allclose(best.epsilon, min(path.epsilon for path in each), rtol=1e-6)


@pytest.mark.parametrize("angle", [1e-3, 0.3, 1.5])
def test_the_bound_of_units_that_turn(angle):
    """The energy while units turn as far as they may, either way, is below the bound, which goes as the angle."""
    problem, rng = sparse_problem(task_of(6), 0.003), np.random.default_rng(0)
    for seed in range(20):
        fitted = lasso(problem, random_net(6, seed)["params"]["Dense_0"]["kernel"].T.astype(np.float64))
        turn = rng.choice([-1, 1], 6)[:, None] * angle
        aside = fitted.units[:, ::-1] * [-1, 1]
        units = np.cos(turn) * fitted.units + np.sin(turn) * aside
        few = lasso(problem, units, rng.uniform(size=6) < 0.7)
        bound = _highest_of_rotation(problem, _End({}, fitted, few), angle)
        ts = np.linspace(0, 1, 101)
        highest = max(
            energy(problem, (1 - t) * fitted.units + t * units, (1 - t) * fitted.weights + t * few.weights) for t in ts
        )
        ends = max(fitted.energy, few.energy)
        assert highest <= bound * (1 + 1e-9)
        # To first order: twice the residual, and a quarter of the angle, the weights and the widest spread of x.
        root = np.sqrt(np.linalg.eigvalsh(problem.x.T @ problem.x / len(problem.x))[-1])
        rate = np.sqrt(ends) / 2 * root * (np.abs(fitted.weights).sum() + np.abs(few.weights).sum())
        if angle < 0.01:
            np.testing.assert_allclose(bound - ends, rate * angle, rtol=0.02)


def test_the_gap_closes_as_networks_widen(key):
    gaps, kappa = [], 0.003
    for width in (2, 4, 16):
        task = task_of(width)
        problem = sparse_problem(task, kappa)
        ends = [theta_of(fit_units(jax.random.key(i), problem, width, starts=8)) for i in range(2)]
        gaps.append(wide_path(key, task, *ends, kappa=kappa).gap)
    assert gaps[0] > 3 * gaps[1] > 3 * gaps[2]


def test_rows_are_scaled_to_the_unit_ball():
    model = net(5)
    theta = alive(model)
    theta["params"]["Dense_0"]["kernel"][:, 2] = 0
    scaled = unit_rows(model, theta)
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.testing.assert_allclose(mlp(scaled, x)[-1], mlp(theta, x)[-1], rtol=1e-4, atol=1e-5)
    norms = np.linalg.norm(scaled["params"]["Dense_0"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, [1, 1, 0, 1, 1], rtol=1e-5)


def test_lasso_ends_need_nothing_of_parts_1_and_6(key):
    problem = sparse_problem(task_of(6), 0.003)
    rows = random_net(6, 3)["params"]["Dense_0"]["kernel"].T
    end = theta_of(lasso(problem, rows.astype(np.float64)))
    found = wide_path(key, task_of(6), end, random_net(6, 4), kappa=0.003, units=(1,))
    np.testing.assert_allclose(found.delta[0], found.ends[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": "tanh"}, "expected relu"),
        ({"activation": "leaky_relu"}, "expected relu"),
        ({"bias": True}, "params/Dense_0/bias"),
    ],
)
def test_models_that_the_theorem_is_not_of(options, named, key):
    task = task_of(4, **options)
    theta = alive(task.model)
    with pytest.raises(InputError, match=named):
        wide_path(key, task, theta, theta, kappa=0.01)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kappa": 0.0}, "kappa=0.0"),
        ({"kappa": float("nan")}, "kappa=nan"),
        ({"kappa": None}, "kappa=None"),
        ({"units": (3,)}, r"units=\(3,\), .* 1 to half of the 4"),
        ({"units": 2}, "units=2, .* 1 to half of the 4"),
        ({"angles": (-1.0,)}, r"angles=\(-1.0,\)"),
        ({"angles": 0.1}, "angles=0.1,"),
        ({"points": 1}, "points=1"),
    ],
)
def test_numbers_that_are_refused(arguments, named, key):
    end = random_net(4, 0)
    with pytest.raises(InputError, match=named):
        wide_path(key, task_of(4), end, end, **{"kappa": 0.1, **arguments})


def test_networks_that_are_refused(key):
    model, dataset, end = net(4), regression(), random_net(4, 0)
    long, many, spoilt = (
        jax.tree.map(change, end) for change in (lambda a: 3 * a, lambda a: a[None], lambda a: a * np.nan)
    )
    deep, wide = models.create("mlp", 1, (2,), widths=(4, 4), bias=False), net(4, outputs=2)
    y = np.zeros((10, 2))
    for of, ends, given, named in (
        (model, (end, long), dataset, "norms up to 3, .*at most 1"),
        (model, (many, end), dataset, "several networks"),
        (model, (end, spoilt), dataset, "not finite"),
        (deep, (alive(deep),) * 2, dataset, "3 weight matrices and 1 outputs"),
        (wide, (alive(wide),) * 2, data.regression(y, y, y, y), "2 outputs"),
    ):
        with pytest.raises(InputError, match=named):
            wide_path(key, supervised(of, given), *ends, kappa=0.1)
    with pytest.raises(InputError, match="not finite"):
        unit_rows(model, spoilt)


def test_the_problem_is_that_of_the_training_examples():
    """Numbers pass as they are; pixels are normalised as the model takes them."""
    dataset = regression()
    found = sparse_problem(task_of(4), 0.2)
    np.testing.assert_array_equal(found.x, dataset.train_images.astype(np.float64))
    np.testing.assert_array_equal(found.y, dataset.train_labels[:, 0].astype(np.float64))
    assert (found.x.dtype, found.y.dtype, found.kappa) == (np.float64, np.float64, 0.2)
    rng = np.random.default_rng(0)
    pixels, y = rng.integers(0, 256, (10, 2, 2, 1), np.uint8), np.float32(rng.normal(size=(10, 1)))
    images = data.Dataset(pixels, y, pixels, y, 1, np.float32([0.4]), np.float32([0.25]))
    model = models.create("mlp", 1, (2, 2, 1), widths=(4,), bias=False)
    found = sparse_problem(supervised(model, images), 0.2)
    np.testing.assert_allclose(found.x, (pixels.reshape(10, 4) / 255 - 0.4) / 0.25, rtol=1e-5, atol=1e-6)


def test_tasks_that_are_refused(key):
    """The energy is of the squared error: other losses, classes and several outputs are none."""
    end, task = random_net(4, 0), task_of(4)
    own = supervised(net(4), regression(), loss=lambda outputs, labels: abs(outputs - labels))
    bare = Task(lambda theta, batch, key: task.loss(theta, batch, key)[0], task.train, model=task.model, name="bare")
    x = np.random.default_rng(0).integers(0, 256, (10, 2, 1), np.uint8)
    classes = supervised(
        models.create("mlp", 2, (2, 1, 1), widths=(4,), bias=False),
        data.from_arrays(x, np.arange(10) % 2, x, x[:, 0, 0] % 2),
    )
    for wrong, named in (
        (own, "mlp on regression, .*squared error"),
        (bare, "bare, .*squared error"),
        (classes, "labels int32"),
    ):
        with pytest.raises(InputError, match=named):
            sparse_problem(wrong, 0.1)
    with pytest.raises(InputError, match="Dataset for task"):
        wide_path(key, regression(), end, end, kappa=0.1)
