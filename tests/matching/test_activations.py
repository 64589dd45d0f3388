"""Neuron alignment: planted permutations, correlations against numpy, dead units, trunks, pairs."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from streams import from_host, rows_of
from variables import alive, inverse, mlp, normalized, order, permuted, spaced, stacked

from mcjax import InputError, SpecError, Task, models, trees
from mcjax import match_activations as match_on_task
from mcjax.data import Stream
from mcjax.errors import InputWarning
from mcjax.training.batches import evenly_spaced

KINDS = {
    "mlp": {"input_shape": (6, 6, 1), "widths": (24, 17)},
    "tinysix": {"input_shape": (12, 12, 3)},
    "resnet20": {"input_shape": (8, 8, 3), "width": 0.5},
    "vgg11": {"input_shape": (32, 32, 3), "width": 0.25},
}


def network(name):
    options = dict(KINDS[name])
    model = models.create(name, 5, options.pop("input_shape"), **options)
    return model, np.random.default_rng(1).normal(size=(64, *model.input_shape)).astype(np.float32)


def inputs_alone(model, x):
    """A task whose batches are inputs of the model, without labels."""

    def loss(theta, batch, key):
        return jnp.square(model.apply(theta, batch)).mean()

    return Task(loss, x, model=model)


def match_activations(model, theta_1, theta_2, x, **options):
    """On all inputs."""
    return match_on_task(inputs_alone(model, x), theta_1, theta_2, examples=len(x), **options)


@pytest.mark.parametrize("name", [*list(KINDS)[:-1], pytest.param("vgg11", marks=pytest.mark.slow)])
def test_a_planted_permutation_is_recovered(name):
    model, x = network(name)
    theta = alive(model)
    planted = order(model.spec, theta, 2)
    match = match_activations(model, theta, permuted(model.spec, planted, theta), x, batch_size=32)
    for group, p in inverse(planted).items():
        lives = np.diagonal(match.info["correlation"][group][:, match.P[group]]) > 0.5
        assert lives.mean() > 0.8, f"{group}: too many dead units to tell"
        np.testing.assert_array_equal(match.P[group][lives], p[lives])
        np.testing.assert_allclose(match.info["after"][group], lives.mean(), atol=1e-3)
    again = match_activations(model, theta, theta, x, batch_size=32)
    assert all((p == np.arange(len(p))).all() for p in again.P.values())


def pearson(a, b):
    """The correlations of the columns; zero where one of them is constant."""
    n = a.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.corrcoef(a.T, b.T)[:n, n:])


@pytest.mark.parametrize(
    ("trunk", "of_stem"), [("stem_and_blocks", slice(4)), ("blocks", slice(1, 4)), ("published", slice(1))]
)
def test_a_trunk_is_matched_by_the_mean_over_stem_and_blocks(trunk, of_stem):
    model, x = network("resnet20")
    ends = alive(model, 3), alive(model, 4)
    match = match_activations(model, *ends, x, batch_size=32, trunk=trunk)
    activations = jax.jit(model.activations)
    first, second = (activations(theta, x) for theta in ends)
    for group, blocks in (("trunk_0", 4), ("trunk_1", 3), ("block_1", 1)):
        each = [
            pearson(*(np.asarray(m, np.float64).reshape(-1, m.shape[-1]) for m in pair))
            for pair in zip(first[group], second[group], strict=True)
        ]
        assert len(each) == blocks
        # The stem begins the first trunk; of the others all arrays are blocks.
        each = each[of_stem] if group == "trunk_0" else each
        np.testing.assert_allclose(match.info["correlation"][group], np.mean(each, 0), atol=1e-4)


def test_without_a_trunk_nothing_is_left_out_of_it(pair):
    for trunk in ("blocks", "published"):
        with says(InputError, f"trunk='{trunk}'", "mlp", "no residual trunk"):
            match_activations(*pair, trunk=trunk)


def test_constant_units_correlate_with_nothing(pair):
    """The mean of a constant such as 0.1 is rounded, and what is left about it is no variation."""
    model, *ends, _ = pair
    x = np.random.default_rng(0).normal(0.5, 1.0, (100, 8, 8, 1)).astype(np.float32)

    def constant(theta, unit, value):
        layer = dict(theta["params"]["Dense_0"])
        layer["kernel"] = np.asarray(layer["kernel"]) * (np.arange(6) != unit)
        layer["bias"] = np.where(np.arange(6) == unit, np.float32(value), layer["bias"])
        return {"params": {**theta["params"], "Dense_0": layer}}

    match = match_activations(model, constant(ends[0], 2, 0.1), constant(ends[1], 4, 0.7), x)
    correlation = match.info["correlation"]["dense_0"]
    np.testing.assert_array_equal(correlation[2], 0)
    np.testing.assert_array_equal(correlation[:, 4], 0)
    assert (np.delete(np.delete(correlation, 2, 0), 4, 1) != 0).all()


@pytest.fixture(scope="module")
def pair(tiny_model):
    """A model, two networks, and 24 images: what most matchings here are of, so that they share a program."""
    x = np.random.default_rng(0).normal(0.5, 1.0, (24, 8, 8, 1)).astype(np.float32)
    return tiny_model, alive(tiny_model, 0), alive(tiny_model, 1), x


@pytest.fixture(scope="module")
def match(pair):
    return match_activations(*pair)


def test_correlation_is_pearsons_whatever_the_batches(pair, match):
    model, theta_1, theta_2, x = pair
    hidden = [dict(zip(model.spec.groups, mlp(theta, x), strict=False)) for theta in (theta_1, theta_2)]
    assert {group: p.shape for group, p in match.P.items()} == {"dense_0": (6,), "dense_1": (5,)}
    for each in (match, match_activations(*pair, batch_size=10)):
        for group in model.spec.groups:
            expected = pearson(*(values[group] for values in hidden))
            np.testing.assert_allclose(each.info["correlation"][group], expected, atol=5e-5)
            np.testing.assert_allclose(each.info["before"][group], np.diagonal(expected).mean(), atol=5e-5)
            reached = expected[np.arange(len(expected)), each.P[group]].mean()
            np.testing.assert_allclose(each.info["after"][group], reached, atol=5e-5)


def test_the_match_maximises_its_cost(pair):
    model, theta_1, theta_2, x = pair
    hidden = dict(zip(model.spec.groups, zip(mlp(theta_1, x), mlp(theta_2, x), strict=True), strict=False))
    gains = {
        "correlation": pearson,
        "covariance": lambda a, b: (a - a.mean(0)).T @ (b - b.mean(0)) / len(a),
        "inner_product": lambda a, b: a.T @ b / len(a),
    }
    for cost, gain in gains.items():
        match = match_activations(*pair, cost=cost)
        matrices = {group: gain(a, b) for group, (a, b) in hidden.items()}
        reached = {group: m[np.arange(len(m)), match.P[group]].sum() for group, m in matrices.items()}
        best = max(sum(matrices["dense_1"][i, q[i]] for i in range(5)) for q in permutations(range(5)))
        np.testing.assert_allclose(reached["dense_1"], best, rtol=1e-4, err_msg=cost)
        np.testing.assert_allclose(match.objective, sum(reached.values()), rtol=1e-4, err_msg=cost)
        assert match.objective.dtype == np.float64


def with_units(theta, **changes):
    """theta with changed leaves of its first layer."""
    return {"params": {**theta["params"], "Dense_0": {**theta["params"]["Dense_0"], **changes}}}


def test_correlation_ignores_the_scale_of_units(pair, match):
    model, theta_1, theta_2, x = pair
    scales = np.float32([0.1, 1.0, 5.0, 20.0, 0.5, 0.01])
    layer = theta_2["params"]["Dense_0"]
    scaled = with_units(theta_2, kernel=layer["kernel"] * scales, bias=layer["bias"] * scales)
    other = match_activations(model, theta_1, scaled, x)
    np.testing.assert_allclose(match.info["correlation"]["dense_0"], other.info["correlation"]["dense_0"], atol=1e-5)


def test_units_that_nothing_tells_apart_stay_in_place(pair):
    """Dead units, which correlate with nothing, are matched to each other, each to the one of its index."""
    model, theta, _, x = pair
    layer = theta["params"]["Dense_0"]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        dead, p = rng.choice(6, 3, replace=False), np.arange(6)
        living = np.setdiff1d(p, dead)
        p[living] = rng.permutation(living)
        kernel, bias = (layer[name].copy() for name in ("kernel", "bias"))
        kernel[:, dead], bias[dead] = 0, -1
        one = with_units(theta, kernel=kernel, bias=bias)
        other = permuted(model.spec, {"dense_0": p, "dense_1": np.arange(5)}, one)
        found = match_activations(model, one, other, x)
        np.testing.assert_array_equal(found.P["dense_0"], np.argsort(p))
        assert (found.info["correlation"]["dense_0"][dead] == 0).all()
        assert (found.info["correlation"]["dense_0"][:, dead] == 0).all()
    with pytest.warns(InputWarning, match="dense_0, dense_1"):
        nothing = match_activations(model, theta, jax.tree.map(np.zeros_like, theta), x)
    assert (nothing.P["dense_1"] == np.arange(5)).all()


def test_many_pairs_at_once_are_each_pair_alone(pair):
    model, _, _, x = pair
    firsts, seconds = ([alive(model, 3 * i + j) for j in range(3)] for i in range(2))
    together = match_activations(model, stacked(firsts), stacked(seconds), x)
    assert together.P["dense_0"].shape == (3, 6)
    for i, ends in enumerate(zip(firsts, seconds, strict=True)):
        alone = match_activations(model, *ends, x)
        np.testing.assert_allclose(together.objective[i], alone.objective, rtol=1e-5)
        for group in model.spec.groups:
            np.testing.assert_array_equal(together.P[group][i], alone.P[group])
            for name in ("correlation", "after"):
                np.testing.assert_allclose(together.info[name][group][i], alone.info[name][group], atol=1e-6)


def test_a_fifth_of_the_examples_is_used(pair, tiny_data, tiny_task):
    x = normalized(spaced(tiny_data.train_images, 24), tiny_data)
    one, other = match_on_task(tiny_task, *pair[1:3]), match_activations(*pair[:3], x)
    np.testing.assert_allclose(one.info["correlation"]["dense_1"], other.info["correlation"]["dense_1"], atol=1e-5)


def test_examples_sorted_by_class_are_of_all_classes(pair, tiny_data, tiny_task):
    """As many of each class as of the set in another order, whose match is the same."""
    order = np.argsort(tiny_data.train_labels, kind="stable")
    by_class = tiny_task.with_examples(train=jax.tree.map(lambda leaf: np.asarray(leaf)[order], tiny_task.train))
    counts = np.bincount(np.asarray(evenly_spaced(by_class.train, 24)[1]))
    np.testing.assert_allclose(counts, 24 * np.bincount(tiny_data.train_labels) / 120, atol=1)
    x = normalized(spaced(tiny_data.train_images[order], 24), tiny_data)
    found, expected = match_on_task(by_class, *pair[1:3]), match_activations(*pair[:3], x)
    np.testing.assert_allclose(found.info["correlation"]["dense_1"], expected.info["correlation"]["dense_1"], atol=1e-5)


def test_bad_input_is_named(pair, tiny_task):
    model, theta_1, theta_2, _ = pair
    narrow = alive(models.create("mlp", 3, (8, 8, 1), widths=(4, 5)))
    broken = jax.tree.map(lambda leaf: leaf * np.nan, theta_2)
    bare = Task(tiny_task.loss, tiny_task.train)
    for task, other, options, error, words in (
        (model, theta_2, {}, InputError, ("Model", "expected Task", "supervised")),
        (bare, theta_2, {}, InputError, ("no model", "model=")),
        (tiny_task, theta_2, {"examples": 121}, InputError, ("examples=121", "120")),
        (tiny_task, narrow, {}, SpecError, ("Dense_0/kernel", "(64, 4)", "(64, 6)")),
        (tiny_task, stacked([theta_2] * 2), {}, InputError, ("theta_1", "theta_2")),
        (tiny_task, theta_2, {"cost": "euclid"}, InputError, ("cost", "'euclid'", "covariance")),
        (tiny_task, theta_2, {"trunk": "stem"}, InputError, ("trunk", "'stem'", "blocks")),
        (tiny_task, theta_2, {"batch_size": 0}, InputError, ("batch_size=0",)),
        (tiny_task, broken, {}, InputError, ("Dense_0", "infinity or NaN")),
    ):
        with says(error, *words):
            match_on_task(task, theta_1, other, **options)


def test_networks_of_extreme_weights(tiny_task):
    """The match does not depend on the scale, up to where float32 ends, which is said."""

    def scaled(scale, seed):
        """All activations of a network of rectifiers times a factor."""
        leaves = trees.flatten(alive(tiny_task.model, seed))
        return trees.nest(
            {
                name: leaf * (1 if "Dense_2" in name or name == "params/Dense_1/kernel" else np.float32(scale))
                for name, leaf in leaves.items()
            }
        )

    expected = match_on_task(tiny_task, scaled(1, 0), scaled(1, 1)).P
    for scale in (1e-14, 1e14):
        found = match_on_task(tiny_task, scaled(scale, 0), scaled(scale, 1)).P
        for group, p in expected.items():
            np.testing.assert_array_equal(found[group], p)
    with pytest.warns(InputWarning, match="dense_0, dense_1"):
        found = match_on_task(tiny_task, scaled(1, 0), scaled(1e-30, 1)).P
    np.testing.assert_array_equal(found["dense_0"], np.arange(6))
    with says(InputError, "'dense_0'", "float32"):
        match_on_task(tiny_task, scaled(1, 0), scaled(1e25, 1))


def test_complex_activations_are_refused():
    def init(key):
        return {"a": jax.random.normal(key, (5, 4)), "b": jax.random.normal(key, (4, 3))}

    x = np.ones((20, 5), np.float32)
    model = models.from_function(init, lambda w, x: ((jnp.tanh(x @ w["a"]) + 1j) ** 2 @ w["b"]).real, x)
    theta = model.init(jax.random.key(0))
    with says(InputError, "complex", "weights"):
        match_on_task(inputs_alone(model, x), theta, theta)


def test_units_are_matched_on_a_stream_as_on_arrays(tiny_task):
    """By one pass over a fifth, the first, or over all where nobody knows how many there are."""
    theta_1, theta_2 = (stacked([alive(tiny_task.model, seed) for seed in (i, i + 1)]) for i in (0, 2))
    rows = [rows_of(tiny_task.train, slice(i, i + 10)) for i in range(0, 120, 10)]
    sized = tiny_task.with_examples(train=Stream(rows))
    streamed, sources = from_host(tiny_task, "train", size=17)
    for task, examples, used in (
        (sized, None, 24),
        (sized, 50, 50),
        (streamed, None, 120),
        (streamed, 50, 50),
    ):
        got = match_on_task(task, theta_1, theta_2, examples=examples, batch_size=16)
        first = tiny_task.with_examples(train=rows_of(tiny_task.train, slice(used)))
        expected = match_on_task(first, theta_1, theta_2, examples=used, batch_size=16)
        for group, p in expected.P.items():
            np.testing.assert_array_equal(got.P[group], p)
            np.testing.assert_allclose(got.info["correlation"][group], expected.info["correlation"][group], atol=1e-6)
    assert sources["train"].begun == [0, 0]
    with says(InputError, "examples=121", "120"):
        match_on_task(sized, theta_1, theta_2, examples=121)
    with says(InputError, "got 120 examples", "at least 121"):
        match_on_task(streamed, theta_1, theta_2, examples=121)
