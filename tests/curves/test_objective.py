"""PAM's objective: a loop over pairs, candidates, points and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import cross_entropy, normalized, spaced

from mcjax import Augmentation, Task, bezier, linear, models, permute, polygonal_chain, supervised, trees
from mcjax.curves.norm_bound import OntoBall
from mcjax.curves.objective import Objective, midpoint_grid
from mcjax.training.batches import fixed_examples

PAIRS, CANDIDATES = 2, 3
BATCHES = (slice(0, 20), slice(20, 40))


def test_the_grid_is_of_midpoints():
    np.testing.assert_allclose(midpoint_grid(1), [0.5])
    np.testing.assert_allclose(midpoint_grid(4), [0.125, 0.375, 0.625, 0.875])
    assert midpoint_grid(11).dtype == np.float32


def problem(task, control_points=1):
    """Endpoints, control points and candidates of two pairs."""
    model, rng = task.model, np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def network(*many, scale=0.3):
        return trees.map_with_name(
            lambda name, leaf: np.float32(scale * rng.normal(size=(PAIRS, *many, *leaf.shape))), shapes
        )

    many = () if control_points == 1 else (control_points,)
    theta_1, theta_2, theta_c = network(), network(), network(*many, scale=0.1)["params"]
    P = {
        group: rng.permuted(np.tile(np.arange(n, dtype=np.int32), (PAIRS, CANDIDATES, 1)), axis=-1)
        for group, n in model.spec.group_sizes(shapes).items()
    }
    return theta_1, theta_2, theta_c, P


def objective_of(task, curve, weight_decay, ts):
    """The objective on 40 images in two batches."""
    fixed, size = fixed_examples(task, 40, 20)
    assert size == 20
    return Objective(task, curve, weight_decay, np.float32(ts), fixed, size)


def point(theta_1, moved, theta_c, weights, t):
    """The parameters of r(t), leaf by leaf in numpy."""
    line = jax.tree.map(
        lambda a, b: (1 - t) * np.asarray(a, np.float64) + t * np.asarray(b, np.float64), theta_1, moved
    )
    return jax.tree.map(lambda x, c: x + np.tensordot(weights(t), np.asarray(c, np.float64), 1), line, theta_c)


def by_loops(task, dataset, ts, theta_1, theta_2, theta_c, P, weights, weight_decay):
    model = task.model
    logits_of = jax.jit(
        lambda params, stats, x: model.apply_train({"params": params, **stats}, x, jax.random.key(0))[0]
    )
    images, labels = (spaced(each, 40) for each in (dataset.train_images, dataset.train_labels))
    batches = [(normalized(images[at], dataset), labels[at]) for at in BATCHES]
    entropies, squares = np.zeros((2, PAIRS, CANDIDATES, len(ts)))
    permuted = jax.jit(permute)
    for i, j in np.ndindex(PAIRS, CANDIDATES):
        moved = permuted(model.spec, {group: p[i, j] for group, p in P.items()}, trees.index(theta_2, i))["params"]
        first, control = trees.index(theta_1, i), trees.index(theta_c, i)
        stats = {name: part for name, part in first.items() if name != "params"}
        for k, t in enumerate(ts):
            r = point(first["params"], moved, control, weights, t)
            for x, labels in batches:
                logits = logits_of(jax.tree.map(np.float32, r), stats, x)
                entropies[i, j, k] += cross_entropy(logits, labels).mean() / 2
            squares[i, j, k] = sum((leaf**2).sum() for leaf in jax.tree.leaves(r))
    return entropies.mean(-1), weight_decay / 2 * squares.mean(-1)


@pytest.mark.parametrize("name", ["mlp", "normed", pytest.param("tinysix", marks=pytest.mark.slow)])
def test_the_objective_is_the_loop_over_pairs_candidates_and_points(
    name, tiny_data, tiny_colour_data, tiny_model, normed
):
    model, dataset = {"mlp": (tiny_model, tiny_data), "normed": (normed, tiny_data)}.get(name, (None, tiny_colour_data))
    if name == "tinysix":
        model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    task = supervised(model, dataset, augmentation=Augmentation.none())
    # A chain of two bends for one of them, a Bezier curve of one control point for the others.
    points = 2 if name == "mlp" else 1
    curve = polygonal_chain(model.spec, 2) if name == "mlp" else bezier(model.spec)
    theta_1, theta_2, theta_c, P = problem(task, points)
    ts = [0.2, 0.6, 0.9]
    value = objective_of(task, curve, 0.02, ts).values(theta_1, theta_2, theta_c, P)
    assert value.shape == (PAIRS, CANDIDATES)
    assert value.dtype == np.float64

    def weights(t):
        return np.maximum(0, 1 - np.abs(3 * t - np.array([1, 2]))) if name == "mlp" else np.array([2 * t * (1 - t)])

    many = theta_c if name == "mlp" else jax.tree.map(lambda leaf: leaf[:, None], theta_c)
    Q, R = by_loops(task, dataset, np.float64(ts), theta_1, theta_2, many, P, weights, 0.02)
    np.testing.assert_allclose(value, Q + R, rtol=1e-4)
    # The loss tells candidates apart; so does the norm, for units mix along the line.
    for part in (Q, R):
        assert part.std(1).min() > 5e-4 * value.mean()


def test_at_the_ends_every_candidate_is_as_good(tiny_task):
    # The networks at t = 0 and t = 1 compute the same whatever P is.
    value = objective_of(tiny_task, linear(tiny_task.spec), 0.1, [0.0, 1.0]).values(*problem(tiny_task))
    np.testing.assert_allclose(value, np.tile(value[:, :1], (1, CANDIDATES)), rtol=1e-5)
    assert value[0, 0] != pytest.approx(value[1, 0], rel=1e-3)


def test_the_objective_is_of_any_loss_and_draws_the_same_at_every_call(tiny_task):
    """A loss of one's own, with a key that is that of the batch's number."""

    def loss(theta, batch, key):
        size = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(theta))
        return size * jax.random.uniform(key), {"size": size}

    task, curve = Task(loss, tiny_task.train, model=tiny_task.model), linear(tiny_task.spec)
    theta_1, theta_2, theta_c, P = problem(task)
    grid = objective_of(task, curve, 0.0, [0.5])
    value = grid.values(theta_1, theta_2, theta_c, P)
    np.testing.assert_array_equal(value, grid.values(theta_1, theta_2, theta_c, P))
    drawn = np.mean([jax.random.uniform(jax.random.key(number)) for number in range(2)])
    for i, j in np.ndindex(PAIRS, CANDIDATES):
        one = {group: p[i, j] for group, p in P.items()}
        middle = curve(trees.index(theta_1, i), trees.index(theta_2, i), None, one, 0.5)
        size = sum(np.abs(np.float64(leaf)).sum() for leaf in jax.tree.leaves(middle))
        np.testing.assert_allclose(value[i, j], size * drawn, rtol=1e-5)


def test_candidates_beyond_the_norm_bound_are_infinitely_high(tiny_task):
    """The control point's network, ((theta_1 + P theta_2) / 2 + theta_c), in numpy; the bound is between its norms."""
    task, curve = tiny_task, bezier(tiny_task.spec)
    theta_1, theta_2, theta_c, P = problem(task)
    free = objective_of(task, curve, 0.0, [0.5])

    def largest(i, j):
        moved = permute(task.spec, {group: p[i, j] for group, p in P.items()}, trees.index(theta_2, i))
        ends = (trees.params(each) for each in (trees.index(theta_1, i), moved))
        point = jax.tree.map(lambda a, b, c: (a + b) / 2 + c, *ends, trees.index(theta_c, i))
        return max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(point))

    norms = np.array([[largest(i, j) for j in range(CANDIDATES)] for i in range(PAIRS)])
    bounded = free._replace(ball=OntoBall(curve, float(np.median(norms))))
    values = bounded.values(theta_1, theta_2, theta_c, P)
    inside = norms <= np.median(norms) * (1 + 1e-5)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(np.isfinite(values), inside)
    np.testing.assert_array_equal(values[inside], free.values(theta_1, theta_2, theta_c, P)[inside])
