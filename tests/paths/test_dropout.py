"""Dropout stability: subsets against a brute-force search, factors, epsilon, and Algorithm 1."""

from functools import partial
from itertools import combinations

import jax
import numpy as np
import pytest
from variables import drawn

from mcjax import Criterion, InputError, models, train_endpoints, trees
from mcjax.paths.dropout import dropout_stability, dropped_out, kept_units
from mcjax.paths.feedforward import chain, scale_outputs
from mcjax.training import TrainConfig


@pytest.fixture(scope="module")
def trained(tiny_data):
    model = models.create("mlp", 3, (8, 8, 1), widths=(4, 6))
    config = TrainConfig(epochs=8, batch_size=20, learning_rate=0.1)
    return model, trees.index(
        train_endpoints(jax.random.split(jax.random.key(0), 1), model, tiny_data, config).theta, 0
    )


def test_many_draws_find_the_best_subsets_there_are(trained, tiny_data, key):
    model, theta = trained
    criterion = Criterion(images=60)
    stable = dropout_stability(
        key, model, theta, tiny_data, draws=200, rescale="fixed", criterion=criterion, search_images=None
    )
    # Layer 2 first, then layer 1 given it, over all subsets.
    measured = jax.jit(lambda factors: criterion(model, scale_outputs(chain(model), theta, factors), tiny_data))
    above = {}
    for i, (group, n) in reversed(list(enumerate((("dense_0", 4), ("dense_1", 6))))):
        subsets = [np.isin(np.arange(n), kept) for kept in combinations(range(n), n // 2)]
        best = min(measured({**above, group: 2.0 * mask}) for mask in subsets)
        np.testing.assert_allclose(stable.losses[i], best, rtol=1e-5)
        above[group] = 2.0 * stable.keep[group]
    np.testing.assert_array_equal(stable.factors, [[2, 2], [1, 2]])
    np.testing.assert_allclose(stable.loss, criterion(model, theta, tiny_data), rtol=1e-5)
    assert stable.epsilon == max(0, stable.losses.max() - stable.loss)
    assert stable.fraction == 0.5


@pytest.mark.parametrize("search", ["layers", "together"])
def test_the_line_search_finds_factors_and_theta_i_are_the_definition(search, trained, tiny_data, key):
    model, theta = trained
    losses = {}
    for rescale in ("layer", "one", "fixed"):
        stable = dropout_stability(key, model, theta, tiny_data, draws=5, rescale=rescale, search=search)
        losses[rescale] = stable.losses
        assert stable.factors[1, 0] == 1
        if rescale == "one":
            assert stable.factors[0, 0] == stable.factors[0, 1]
        for i, of in enumerate(("dense_0", "dense_1")):
            masks = {
                group: stable.keep[group] * stable.factors[i, j]
                for j, group in enumerate(("dense_0", "dense_1"))
                if j >= i
            }
            want = scale_outputs(chain(model), theta, masks)
            for a, b in zip(jax.tree.leaves(trees.index(stable.thetas, i)), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)
            assert stable.keep[of].sum() == len(stable.keep[of]) // 2
    # Of the same subsets in layer 2, a factor that is searched for is at least as good.
    assert losses["layer"][1] <= losses["fixed"][1] + 1e-6
    # The best factor of one layer, by a dense grid of its own.
    best = dropout_stability(key, model, theta, tiny_data, draws=5, search=search)

    @jax.jit
    def at(r):
        return Criterion()(model, scale_outputs(chain(model), theta, {"dense_1": best.keep["dense_1"] * r}), tiny_data)

    assert best.losses[1] <= min(map(at, np.linspace(1, 2.3, 131))) + 1e-3


def test_better_than_one_draw(trained, tiny_data, key):
    one, many = (dropout_stability(key, *trained, tiny_data, draws=n).epsilon for n in (1, 60))
    assert many < one


def test_batch_statistics_are_estimated_anew(tiny_colour_data, key):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.3)
    theta = drawn(model)
    stable = dropout_stability(key, model, theta, tiny_colour_data, draws=2, search_images=40)
    want = Criterion()(model, trees.index(stable.thetas, 0), tiny_colour_data)
    np.testing.assert_allclose(stable.losses[0], want, rtol=1e-5)


def test_numbers_of_units():
    found = chain(models.create("mlp", 3, (4,), widths=(10, 7, 1)))
    assert kept_units(found, 0.5) == {"dense_0": 5, "dense_1": 3, "dense_2": 0}
    assert kept_units(found, 0.9) == {"dense_0": 1, "dense_1": 0, "dense_2": 0}
    assert kept_units(found, {"dense_0": 0.3, "dense_1": 0.2, "dense_2": 0.1}) == {
        "dense_0": 7,
        "dense_1": 5,
        "dense_2": 0,
    }


def test_algorithm_1_keeps_the_mean_of_what_reads(trained, key):
    model, theta = trained
    many = jax.vmap(lambda each: dropped_out(each, model, theta, 0.25))(jax.random.split(key, 4000))
    for name, leaf in trees.flatten(many).items():
        before = np.asarray(trees.flatten(theta)[name])
        if name in ("params/Dense_1/kernel", "params/Dense_2/kernel"):
            np.testing.assert_allclose(leaf.mean(0), before, atol=0.05 * np.abs(before).max())
            zero = np.asarray(leaf == 0).all(-1)
            np.testing.assert_allclose(zero.mean(), 0.25, atol=0.02)
            np.testing.assert_allclose(
                np.asarray(leaf)[~zero], np.broadcast_to(before / 0.75, leaf.shape)[~zero], rtol=1e-6
            )
        else:
            np.testing.assert_array_equal(leaf, np.broadcast_to(before, leaf.shape))


def test_a_model_never_seen_before_is_looked_at_while_a_caller_is_traced(key):
    model = models.create("mlp", 3, (4, 4, 1), widths=(4,))
    theta, keys = model.init(key), jax.random.split(key, 3)
    drop = partial(dropped_out, model=model, theta=theta, fraction=0.5)
    together = jax.jit(lambda keys: jax.lax.map(drop, keys))(keys)
    for i, each in enumerate(keys):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, drop(each))


@pytest.mark.parametrize(
    "fraction", [0.0, 1.0, -0.5, float("nan"), "half", None, [0.5, 0.5], {"dense_0": 0.5, "dense_1": 1.5}]
)
def test_a_fraction_outside_is_refused(fraction, trained, tiny_data, key):
    with pytest.raises(InputError, match=r"fraction=.* expected a share"):
        dropout_stability(key, *trained, tiny_data, fraction)


def test_bad_input(trained, tiny_data, key):
    model, theta = trained
    for arguments, said in (
        ({"fraction": {"dense_0": 0.5}}, "one each of dense_0, dense_1"),
        ({"draws": 0}, "draws=0"),
        ({"draws": 2.5}, "draws=2.5"),
        ({"chunk": -1}, "chunk=-1"),
        ({"criterion": Criterion("error")}, "of the error, expected loss or perplexity"),
        ({"criterion": "loss"}, "criterion='loss', expected a Criterion"),
        ({"rescale": "ones"}, "rescale"),
        ({"search": "layer"}, "search"),
    ):
        with pytest.raises(InputError, match=said):
            dropout_stability(key, model, theta, tiny_data, **arguments)
    for refuse in (dropout_stability, lambda key, model, theta, _: dropped_out(key, model, theta, 0.5)):
        with pytest.raises(InputError, match="several networks"):
            refuse(key, model, jax.tree.map(lambda leaf: leaf[None], theta), tiny_data)
        with pytest.raises(InputError, match="these variables are not those of mlp"):
            refuse(key, model, None, tiny_data)
    with pytest.raises(InputError, match="params/Dense_0/bias holds values that are not finite"):
        dropout_stability(key, model, jax.tree.map(lambda leaf: leaf * np.nan, theta), tiny_data)
    resnet = models.create("resnet20", 3, (8, 8, 1), width=0.25)
    with pytest.raises(InputError, match=r"resnet20: .* alone"):
        dropout_stability(key, resnet, resnet.init(key), tiny_data)
