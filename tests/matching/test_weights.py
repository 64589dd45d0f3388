"""Weight matching: brute force, planted permutations, ascent, every kind of axis, pairs, ties."""

from itertools import permutations, product

import chex
import jax
import numpy as np
import pytest
from leaves import SPECS, drawn, inner_product
from refusals import says
from scipy.optimize import linear_sum_assignment
from variables import inverse, order, permuted, stacked

from mcjax import Axis, InputError, PermutationSpec, SpecError, merge, models, trees
from mcjax.matching.weights import match_weights

MODELS = {
    "mlp": {"input_shape": (6, 6, 1), "widths": (24, 17)},
    "resnet20": {"input_shape": (8, 8, 3), "width": 0.5},
}


def created(name, seed):
    """A spec and variables as they are at initialisation: zero biases, unit scales, normal kernels."""
    options, rng = dict(MODELS[name]), np.random.default_rng(seed)
    model = models.create(name, 5, options.pop("input_shape"), **options)

    def value(leaf, like):
        constant = {"bias": 0, "scale": 1, "mean": 0, "var": 1}.get(leaf.split("/")[-1])
        drawn = rng.normal(size=like.shape) * like.size**-0.25 if constant is None else np.full(like.shape, constant)
        return drawn.astype(np.float32)

    return model.spec, trees.map_with_name(value, jax.eval_shape(model.init, jax.random.key(0)))


def noisy(theta, share, seed):
    """Noise on every leaf, of `share` of the leaf's norm, but for batch statistics."""
    rng = np.random.default_rng(seed)

    def moved(name, leaf):
        noise = rng.normal(size=leaf.shape)
        noise *= share * np.linalg.norm(leaf) / np.linalg.norm(noise)
        return leaf if name.startswith("batch_stats/") else (leaf + noise).astype(np.float32)

    return trees.map_with_name(moved, jax.tree.map(np.asarray, theta))


def is_inverse(P, planted):
    return all((planted[group][P[group]] == np.arange(len(p))).all() for group, p in planted.items())


def plant(spec, theta, seed, noise=0.0):
    planted = order(spec, theta, seed)
    return planted, noisy(permuted(spec, planted, theta), noise, seed)


def recovered(spec, theta, runs, noise, **options):
    """How many of so many planted permutations come back."""
    count = 0
    for i in range(runs):
        planted, other = plant(spec, theta, i, noise)
        count += is_inverse(match_weights(jax.random.key(100 + i), spec, theta, other, **options).P, planted)
    return count


@pytest.mark.parametrize("seed", range(3))
def test_one_group_is_matched_as_by_brute_force(seed):
    spec = PermutationSpec({"in": (None, "h"), "bias": ("h",), "out": ("h", None), "last": (None,)})
    rng = np.random.default_rng(seed)
    shapes = {"in": (3, 5), "bias": (5,), "out": (5, 2), "last": (2,)}
    theta_1, theta_2 = ({name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(2))
    best = max(
        sum((theta_1[name] * {**theta_2, **moved}[name]).sum() for name in shapes)
        for p in map(list, permutations(range(5)))
        for moved in [{"in": theta_2["in"][:, p], "bias": theta_2["bias"][p], "out": theta_2["out"][p]}]
    )
    match = match_weights(jax.random.key(seed), spec, theta_1, theta_2, restarts=1)
    np.testing.assert_allclose(match.objective, best, rtol=1e-5)
    np.testing.assert_allclose(inner_product(spec, match.P, theta_1, theta_2), best, rtol=1e-5)


@pytest.mark.parametrize("name", ["heads", "itself"])
def test_restarts_reach_the_optimum_of_brute_force(name):
    """Two groups on one axis, or one that meets itself: neither is a single assignment."""
    axes = {"w": (None, (Axis("g", inner=3), Axis("h", outer=4)))} if name == "heads" else {"w": ("g", "g")}
    spec, rng = PermutationSpec(axes), np.random.default_rng(1)
    shape, sizes = ((2, 12), {"g": 4, "h": 3}) if name == "heads" else ((5, 5), {"g": 5})
    theta_1, theta_2 = ({"w": rng.normal(size=shape).astype(np.float32)} for _ in range(2))
    every = product(*([np.array(p) for p in permutations(range(n))] for n in sizes.values()))
    best = max(inner_product(spec, dict(zip(sizes, each, strict=True)), theta_1, theta_2) for each in every)
    match = match_weights(jax.random.key(0), spec, theta_1, theta_2, restarts=30)
    np.testing.assert_allclose(match.objective, best, rtol=1e-5)
    assert match.info["restarts"].max() <= best * (1 + 1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", MODELS)
def test_a_planted_permutation_is_recovered(name, noise, key):
    spec, theta = created(name, 0)
    assert recovered(spec, theta, 2, noise, restarts=1) == 2
    planted, other = plant(spec, theta, 9, noise)
    match = match_weights(key, spec, theta, other, restarts=3)
    assert is_inverse(match.P, planted)
    np.testing.assert_allclose(match.objective, inner_product(spec, match.P, theta, other), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_planted_permutations_are_recovered_every_time(name):
    spec, theta = created(name, 0)
    for noise in (0.0, 0.1, 1.0):
        assert recovered(spec, theta, 50, noise, restarts=1) == 50


@pytest.mark.parametrize("name", [name for name in SPECS if name != "blocks"])
def test_a_planted_permutation_is_recovered_whatever_the_axes(name):
    spec, theta = drawn(name, 0)
    for noise in (0.0, 0.1):
        assert recovered(spec, theta, 4, noise) == 4


def test_propagation_recovers_residual_blocks_where_other_starts_stick():
    spec, theta = drawn("blocks", 0, width=30)
    start = {group: np.arange(n) for group, n in spec.group_sizes(theta).items()}
    assert recovered(spec, theta, 6, 0.1, restarts=1) == 6
    assert recovered(spec, theta, 6, 0.1, restarts=1, P=start) <= 3


@pytest.mark.parametrize("name", SPECS)
def test_the_objective_never_falls(name):
    (spec, theta_1), (_, theta_2) = (drawn(name, seed) for seed in range(2))
    for seed in range(3):
        key, start = jax.random.key(seed), order(spec, theta_1, seed)
        values, sweeps = [inner_product(spec, start, theta_1, theta_2)], 0
        while sweeps + 1 == len(values) < 50:
            match = match_weights(key, spec, theta_1, theta_2, 1, P=start, max_sweeps=len(values))
            np.testing.assert_allclose(match.objective, inner_product(spec, match.P, theta_1, theta_2), rtol=1e-5)
            values.append(match.objective)
            sweeps = int(match.info["sweeps"][0])
        assert len(values) > 2
        assert (np.diff(values) >= -1e-6 * np.abs(values[:-1])).all(), values


@pytest.mark.parametrize("name", MODELS)
def test_the_result_is_never_below_its_start(name, key):
    (spec, theta_1), (_, theta_2) = (created(name, seed) for seed in range(2))
    for seed in range(2):
        first = match_weights(jax.random.key(seed), spec, theta_1, theta_2, 1, max_sweeps=1)
        for start, restarts in product((first.P, order(spec, theta_1, seed)), (1, 3)):
            match = match_weights(key, spec, theta_1, theta_2, restarts, P=start)
            assert match.objective >= inner_product(spec, start, theta_1, theta_2) * (1 - 1e-6)
            assert match.info["restarts"].shape == match.info["sweeps"].shape == (restarts,)
            np.testing.assert_allclose(match.objective, match.info["restarts"].max(), rtol=1e-6)
    planted, other = plant(spec, theta_1, 0)
    match = match_weights(key, spec, theta_1, other, 1, P=inverse(planted))
    assert is_inverse(match.P, planted)
    assert match.info["sweeps"] == 1


def test_many_pairs_at_once_are_each_pair_alone(key):
    (spec, _), thetas = drawn("blocks", 0), [drawn("blocks", seed)[1] for seed in range(6)]
    theta_1, theta_2 = stacked(thetas[:3]), stacked(thetas[3:])
    start = stacked([order(spec, thetas[0], seed) for seed in range(3)])
    for P in (None, start):
        together = match_weights(key, spec, theta_1, theta_2, 2, P=P)
        assert together.info["restarts"].shape == together.info["sweeps"].shape == (3, 2)
        for i in range(3):
            alone = match_weights(key, spec, thetas[i], thetas[3 + i], 2, P=None if P is None else trees.index(P, i))
            chex.assert_trees_all_equal(trees.index(together, i), alone)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_matched_to_itself_by_the_identity(name, key):
    spec, theta = created(name, 0)
    # A dead unit, and two that are the same.
    flat = {leaf: np.array(value) for leaf, value in trees.flatten(theta).items()}
    for leaf, position, _ in spec.places(spec.groups[0]):
        units = np.moveaxis(flat[leaf], position, 0)
        units[1], units[3] = units[2], 0
    theta = trees.nest(flat)
    match = match_weights(key, spec, theta, theta, 5)
    assert all((p == np.arange(len(p))).all() and p.dtype == np.int32 for p in match.P.values())
    nothing, start = jax.tree.map(np.zeros_like, theta), order(spec, theta, 0)
    chex.assert_trees_all_equal(match_weights(key, spec, theta, nothing, 1, P=start).P, start)


def test_batch_statistics_follow_and_do_not_weigh_in(key):
    (spec, theta_1), (_, theta_2) = (created("resnet20", seed) for seed in range(2))
    other = trees.with_batch_stats(theta_2, jax.tree.map(lambda leaf: 1e6 + leaf[::-1], theta_2["batch_stats"]))
    one, two = (match_weights(key, spec, theta_1, theta, 2) for theta in (theta_2, other))
    chex.assert_trees_all_equal(one, two)


def test_one_key_one_result(key):
    (spec, theta_1), (_, theta_2) = (drawn("blocks", seed) for seed in range(2))
    one, two, three = (match_weights(k, spec, theta_1, theta_2, 6) for k in (key, key, jax.random.key(1)))
    chex.assert_trees_all_equal(one, two)
    assert (one.info["restarts"] != three.info["restarts"]).any()
    assert len(np.unique(one.info["restarts"])) > 1


def test_nothing_to_match_and_a_single_unit(key):
    spec, theta = PermutationSpec({"w": (None, None), "b": None}), {"w": np.full((2, 3), 2.0), "b": np.ones(4)}
    match = match_weights(key, spec, theta, theta)
    assert match.P == {}
    assert match.objective == 28
    assert (match.info["sweeps"] == 0).all()
    spec = PermutationSpec({"in": (None, "h"), "out": ("h", None)})
    theta = {"in": np.ones((3, 1)), "out": np.ones((1, 2))}
    assert match_weights(key, spec, theta, theta).P["h"].tolist() == [0]


def test_bad_input_is_named(key):
    spec, theta = created("mlp", 0)
    P, pair = order(spec, theta, 0), stacked([theta, theta])
    for changes, error, words in (
        ({"restarts": 0}, InputError, ("restarts=0",)),
        ({"max_sweeps": 0}, InputError, ("max_sweeps=0",)),
        ({"P": {"dense_0": P["dense_0"]}}, SpecError, ("another spec", "dense_1")),
        ({"P": {**P, "dense_1": P["dense_0"]}}, SpecError, ("dense_1", "(24,)", "(17,)")),
        ({"P": {**P, "dense_1": np.zeros(17, int)}}, SpecError, ("dense_1", "repeated [0]")),
        ({"P": {**P, "dense_1": np.eye(17)}}, SpecError, ("soft P for dense_1",)),
        ({"P": (P,)}, SpecError, ("tuple",)),
        ({"theta_1": pair, "theta_2": pair, "P": P}, SpecError, ("2 pairs",)),
        ({"theta_1": trees.index(pair, slice(0)), "theta_2": trees.index(pair, slice(0))}, SpecError, ("empty",)),
        ({"theta_2": pair}, SpecError, ("Dense_0/bias", "(24,)", "(2, 24)")),
        ({"spec": created("resnet20", 0)[0]}, SpecError, ("Dense_1/kernel", "Conv_0")),
        ({"spec": theta}, InputError, ("dict", "PermutationSpec")),
        ({"key": 0}, InputError, ("int",)),
        ({"key": jax.random.split(key)}, InputError, ("(2,)", "one key")),
    ):
        with says(error, *words):
            match_weights(**{"key": key, "spec": spec, "theta_1": theta, "theta_2": theta, **changes})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad, key):
    spec, theta = created("mlp", 0)
    flat = {leaf: np.array(value) for leaf, value in trees.flatten(theta).items()}
    for leaf in ("params/Dense_0/bias", "params/Dense_2/bias"):
        wrong = trees.nest({**flat, leaf: np.full_like(flat[leaf], bad)})
        for ends in ((theta, wrong), (wrong, theta)):
            with says(InputError, leaf, "infinity or NaN"):
                match_weights(key, spec, *ends)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e18])
@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_the_match_does_not_depend_on_the_scale(name, scale, key):
    """Also where products of weights leave the range of float32."""
    (spec, theta), (_, other) = created(name, 0), created(name, 1)
    expected = match_weights(key, spec, theta, other)
    small, large = (trees.scale(np.float32(scale), each) for each in (theta, other))
    found = match_weights(key, spec, small, large)
    for group, p in expected.P.items():
        np.testing.assert_array_equal(found.P[group], p)
    np.testing.assert_allclose(found.objective, np.float64(scale) ** 2 * expected.objective, rtol=1e-4)
    np.testing.assert_allclose(found.info["restarts"], np.float64(scale) ** 2 * expected.info["restarts"], rtol=1e-4)


def test_complex_weights_are_matched_by_the_real_part_of_their_products(key):
    """One group, against scipy."""
    rng = np.random.default_rng(0)
    shapes = {"a": (5, 7), "b": (7, 3)}
    spec = PermutationSpec({"a": (None, "g"), "b": ("g", None)})
    first, second = (
        {name: (rng.normal(size=s) + 1j * rng.normal(size=s)).astype(np.complex64) for name, s in shapes.items()}
        for _ in range(2)
    )
    gain = first["a"].conj().T @ second["a"] + first["b"].conj() @ second["b"].T
    rows, columns = linear_sum_assignment(gain.real, maximize=True)
    match = match_weights(key, spec, first, second)
    np.testing.assert_array_equal(match.P["g"], columns)
    np.testing.assert_allclose(match.objective, gain.real[rows, columns].sum(), rtol=1e-5)
    merged = merge(key, spec, trees.stack([first, second]))
    np.testing.assert_allclose(merged.theta["a"], (first["a"] + second["a"][:, columns]) / 2, rtol=1e-5)
    np.testing.assert_allclose(merged.objective[-1], match.objective, rtol=1e-5)


def test_quantised_weights_are_no_weights_to_match_by(key):
    rng = np.random.default_rng(0)
    theta = {name: rng.integers(60, 120, shape).astype(np.int8) for name, shape in (("w", (4, 6)), ("o", (6, 3)))}
    spec = PermutationSpec({"w": (None, "u"), "o": ("u", None)})
    for match in (lambda: match_weights(key, spec, theta, theta), lambda: merge(key, spec, trees.stack([theta] * 2))):
        with says(InputError, "'u'", "w of int8", "o of int8", "float32"):
            match()
    # One floating-point leaf says where units belong, and a mask goes with them.
    moved = {"w": theta["w"].astype(np.float32), "o": theta["o"]}
    p = rng.permutation(6)
    other = {"w": moved["w"][:, p], "o": moved["o"][p]}
    np.testing.assert_array_equal(match_weights(key, spec, moved, other).P["u"], np.argsort(p))
