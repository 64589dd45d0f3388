"""PAM's candidates: assignment and draws follow the decomposition; the objective is a loop over pairs and points."""

import chex
import jax
import numpy as np
import pytest
from refusals import says

from mcjax import Augmentation, InputError, bezier, linear, models, nearest_permutation, permute, polygonal_chain, trees
from mcjax.curves.pam_step import candidate_permutations, midpoint_grid, objective_on_grid
from mcjax.training.fixed import fixed_images

PAIRS, CANDIDATES = 2, 3


def test_the_grid_is_of_midpoints():
    np.testing.assert_allclose(midpoint_grid(1), [0.5])
    np.testing.assert_allclose(midpoint_grid(4), [0.125, 0.375, 0.625, 0.875])
    assert midpoint_grid(11).dtype == np.float32


def problem(model, images, control_points=1):
    """Endpoints, control points and candidates of two pairs, and images in two batches."""
    rng = np.random.default_rng(0)
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
    return theta_1, theta_2, theta_c, P, fixed_images(images, Augmentation.none(), 40, 20)


def point(theta_1, moved, theta_c, weights, t):
    """The parameters of r(t), leaf by leaf in numpy."""
    line = jax.tree.map(
        lambda a, b: (1 - t) * np.asarray(a, np.float64) + t * np.asarray(b, np.float64), theta_1, moved
    )
    return jax.tree.map(lambda x, c: x + np.tensordot(weights(t), np.asarray(c, np.float64), 1), line, theta_c)


def by_loops(model, fixed, ts, theta_1, theta_2, theta_c, P, weights, weight_decay):
    logits_of = jax.jit(
        lambda params, stats, x: model.apply_train({"params": params, **stats}, x, jax.random.key(0))[0]
    )
    mean, std = np.asarray(fixed.mean), np.asarray(fixed.std)
    cross_entropy, squares = np.zeros((2, PAIRS, CANDIDATES, len(ts)))
    permuted = jax.jit(permute)
    for i, j in np.ndindex(PAIRS, CANDIDATES):
        moved = permuted(model.spec, {group: p[i, j] for group, p in P.items()}, trees.index(theta_2, i))["params"]
        first, control = trees.index(theta_1, i), trees.index(theta_c, i)
        stats = {name: part for name, part in first.items() if name != "params"}
        for k, t in enumerate(ts):
            r = point(first["params"], moved, control, weights, t)
            for images, labels in zip(np.asarray(fixed.images), np.asarray(fixed.labels), strict=True):
                x = ((images / 255 - mean) / std).astype(np.float32)
                logits = np.asarray(logits_of(jax.tree.map(np.float32, r), stats, x), np.float64)
                loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
                cross_entropy[i, j, k] += loss.mean() / len(fixed.labels)
            squares[i, j, k] = sum((leaf**2).sum() for leaf in jax.tree.leaves(r))
    return cross_entropy.mean(-1), weight_decay / 2 * squares.mean(-1)


@pytest.mark.parametrize("name", ["mlp", "normed", pytest.param("tinysix", marks=pytest.mark.slow)])
def test_the_objective_is_the_loop_over_pairs_candidates_and_points(
    name, tiny_data, tiny_colour_data, tiny_model, normed
):
    model, images = {"mlp": (tiny_model, tiny_data), "normed": (normed, tiny_data)}.get(name, (None, tiny_colour_data))
    if name == "tinysix":
        model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    # A chain of two bends for one of them, a Bezier curve of one control point for the others.
    points = 2 if name == "mlp" else 1
    curve = polygonal_chain(model.spec, 2) if name == "mlp" else bezier(model.spec)
    theta_1, theta_2, theta_c, P, fixed = problem(model, images, points)
    ts = np.float32([0.2, 0.6, 0.9])
    value = objective_on_grid(model, curve, 0.02, ts, fixed, theta_1, theta_2, theta_c, P)
    assert value.shape == (PAIRS, CANDIDATES)
    assert value.dtype == np.float64

    def weights(t):
        return np.maximum(0, 1 - np.abs(3 * t - np.array([1, 2]))) if name == "mlp" else np.array([2 * t * (1 - t)])

    many = theta_c if name == "mlp" else jax.tree.map(lambda leaf: leaf[:, None], theta_c)
    Q, R = by_loops(model, fixed, np.float64(ts), theta_1, theta_2, many, P, weights, 0.02)
    np.testing.assert_allclose(value, Q + R, rtol=1e-4)
    # The loss tells candidates apart; so does the norm, for units mix along the line.
    for part in (Q, R):
        assert part.std(1).min() > 5e-4 * value.mean()


def test_at_the_ends_every_candidate_is_as_good(tiny_data, tiny_model):
    # The networks at t = 0 and t = 1 compute the same whatever P is.
    theta_1, theta_2, theta_c, P, fixed = problem(tiny_model, tiny_data)
    ts = np.float32([0.0, 1.0])
    value = objective_on_grid(tiny_model, linear(tiny_model.spec), 0.1, ts, fixed, theta_1, theta_2, theta_c, P)
    np.testing.assert_allclose(value, np.tile(value[:, :1], (1, CANDIDATES)), rtol=1e-5)
    assert value[0, 0] != pytest.approx(value[1, 0], rel=1e-3)


WEIGHTS = np.array([0.2, 0.5, 0.3])


def planted(n, seed):
    """Three permutations that share no entry, and their mixture (n, n)."""
    p = np.random.default_rng(seed).permutation(n)
    parts = np.stack([np.roll(p, k) for k in (1, 0, 2)])
    return parts, np.tensordot(WEIGHTS, np.eye(n)[parts], 1).astype(np.float32)


@pytest.fixture
def soft():
    """Two groups of two pairs."""
    return {
        "a": np.stack([planted(4, seed)[1] for seed in (0, 1)]),
        "b": np.stack([planted(7, seed)[1] for seed in (2, 3)]),
    }


def parts_of(group, pair):
    return planted({"a": 4, "b": 7}[group], {"a": 0, "b": 2}[group] + pair)[0]


def which(group, drawn):
    """The index of the planted part that each candidate (pairs, candidates, n) is."""
    same = [(drawn[pair, :, None] == parts_of(group, pair)).all(-1) for pair in range(2)]
    assert np.all(np.sum(same, -1) == 1)
    return np.argmax(same, -1)


@pytest.mark.parametrize(("rounding", "samples"), [("assignment", 16), ("assignment", 0), ("sampled", 0)])
def test_the_assignment_alone(key, soft, rounding, samples):
    found = candidate_permutations(key, soft, rounding, samples)
    for group, matrices in soft.items():
        np.testing.assert_array_equal(found[group], nearest_permutation(matrices)[:, None])
        np.testing.assert_array_equal(which(group, found[group]), [[1], [1]])


def test_the_assignment_comes_first_and_the_draws_follow(key, soft):
    found = candidate_permutations(key, soft, "sampled", 5)
    for group, n in (("a", 4), ("b", 7)):
        assert found[group].shape == (2, 6, n)
        assert found[group].dtype == np.int32
        np.testing.assert_array_equal(found[group][:, 0], nearest_permutation(soft[group]))
        np.testing.assert_array_equal(np.sort(found[group], -1), np.broadcast_to(np.arange(n), (2, 6, n)))


def test_draws_are_as_frequent_as_in_the_mixture_and_independent(key, soft):
    found = candidate_permutations(key, soft, "sampled", 6000)
    drawn = {group: which(group, found[group])[:, 1:] for group in soft}
    expected = np.outer(WEIGHTS, WEIGHTS)
    for pair in range(2):
        together = np.zeros((3, 3))
        np.add.at(together, (drawn["a"][pair], drawn["b"][pair]), 1 / 6000)
        # Five standard deviations of the most frequent.
        np.testing.assert_allclose(together, expected, atol=0.03)
    # Nor does one pair repeat the other.
    assert np.mean(drawn["a"][0] == drawn["a"][1]) == pytest.approx((WEIGHTS**2).sum(), abs=0.03)


def test_the_same_key_draws_the_same(soft):
    one, again, other = (candidate_permutations(jax.random.key(seed), soft, "sampled", 50) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    assert any((one[group] != other[group]).any() for group in soft)
    for group in soft:
        np.testing.assert_array_equal(one[group][:, 0], other[group][:, 0])


def test_a_permutation_matrix_is_its_only_candidate(key):
    p = np.random.default_rng(0).permutation(6)
    found = candidate_permutations(key, {"g": np.eye(6, dtype=np.float32)[None, p]}, "sampled", 8)["g"]
    np.testing.assert_array_equal(found, np.tile(p, (1, 9, 1)))


@pytest.mark.parametrize("rounding", ["assignment", "sampled"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_group_that_is_not_finite_is_named(key, soft, rounding, bad):
    soft["b"][1, 2, 3] = bad
    with says(InputError, "group 'b'", "not finite"):
        candidate_permutations(key, soft, rounding, 4)
