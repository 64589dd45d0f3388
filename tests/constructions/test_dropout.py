"""Dropout stability: subsets against a brute-force search, factors, epsilon, and Algorithm 1."""

from functools import partial
from itertools import combinations

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from variables import alive, drawn

from mcjax import InputError, Task, models, supervised, trees
from mcjax.constructions.chain import Chain, Layer, chain_of, scale_outputs
from mcjax.constructions.dropout import drop_units, dropout_lines, dropout_stability, kept_units
from mcjax.constructions.subset_search import line_search
from mcjax.training import Criterion
from mcjax.training.supervised import label_losses

CRITERION = Criterion(examples=60)
KEPT = {"dense_0": 3, "dense_1": 2}
"""Units kept of the 6 and 5 units of `tiny_model`, at a fraction of one half."""


@pytest.fixture(scope="module")
def measured(tiny_model, tiny_ends, tiny_task):
    """The loss when the outputs of units are multiplied by factors, all of them given."""
    factors = {"dense_0": np.ones(6, np.float32), "dense_1": np.ones(5, np.float32)}

    @jax.jit
    def loss(given):
        return CRITERION(tiny_task, scale_outputs(chain_of(tiny_model), tiny_ends[0], given))

    return lambda given: float(loss({**factors, **{g: np.float32(each) for g, each in given.items()}}))


@pytest.fixture(scope="module")
def stable_of(tiny_ends, tiny_task):
    options = {"criterion": CRITERION, "search_examples": None}
    return lambda **more: dropout_stability(jax.random.key(0), tiny_task, tiny_ends[0], **{**options, **more})


def test_many_draws_find_the_best_subsets_there_are(stable_of, measured):
    stable = stable_of(draws=200, rescale="fixed")
    # Layer 2 first, then layer 1 given it, over all subsets.
    above = {}
    for i, (group, n) in ((1, ("dense_1", 5)), (0, ("dense_0", 6))):
        subsets = [np.isin(np.arange(n), kept) for kept in combinations(range(n), KEPT[group])]
        best = min(measured({**above, group: n / KEPT[group] * mask}) for mask in subsets)
        np.testing.assert_allclose(stable.losses[i], best, rtol=1e-4)
        above[group] = n / KEPT[group] * stable.keep[group]
    np.testing.assert_array_equal(stable.factors, [[2, 2.5], [1, 2.5]])
    np.testing.assert_allclose(stable.loss, measured({}), rtol=1e-5)
    assert stable.epsilon == max(0, stable.losses.max() - stable.loss)
    np.testing.assert_allclose(stable.fraction, 6 / 11)
    assert stable.epsilon < stable_of(draws=1, rescale="fixed").epsilon


@pytest.mark.parametrize("search", ["layers", "together"])
def test_the_line_search_finds_factors_and_theta_i_are_the_definition(
    search, stable_of, measured, tiny_model, tiny_ends
):
    losses, groups = {}, ("dense_0", "dense_1")
    for rescale in ("layer", "one", "fixed"):
        stable = stable_of(draws=4, rescale=rescale, search=search)
        losses[rescale] = stable.losses
        assert stable.factors[1, 0] == 1
        if rescale == "one":
            assert stable.factors[0, 0] == stable.factors[0, 1]
        for i, of in enumerate(groups):
            # Dense layer j + 1 reads group j: its rows are scaled.
            want = jax.tree.map(np.array, tiny_ends[0])
            masks = {groups[j]: stable.keep[groups[j]] * stable.factors[i, j] for j in range(i, 2)}
            for group, mask in masks.items():
                want["params"][f"Dense_{groups.index(group) + 1}"]["kernel"] *= np.float32(mask)[:, None]
            got = jax.tree.map(np.asarray, trees.index(stable.thetas, i))
            chex.assert_trees_all_close(got, want, rtol=1e-6)
            np.testing.assert_allclose(stable.losses[i], measured(masks), rtol=1e-4)
            assert stable.keep[of].sum() == KEPT[of]
        if rescale == "layer":
            # The best factor of one layer, by a dense grid of its own.
            kept = stable.keep["dense_1"]
            best = min(measured({"dense_1": kept * r}) for r in np.linspace(0, 4, 201))
            assert stable.losses[1] <= best + 1e-4
    # Of the same subsets in layer 2, a factor that is searched for is at least as good.
    assert losses["layer"][1] <= losses["fixed"][1] + 1e-6


@pytest.mark.parametrize("best", [0.0, 0.03, 0.4, 0.97, 1.0, 1.9, 40.0])
def test_the_line_search_is_over_all_factors(best):
    asked = []

    def squares(factors):
        asked.extend(factors)
        return (np.asarray(factors) - best) ** 2

    factors = np.array([0, 0.5, 1, 2**0.5, 2, 2**1.5])
    found = line_search(squares, factors, squares(factors))
    assert abs(found - best) < 0.01 * max(1, best)
    assert squares([found])[0] == min(squares(asked))
    # Bounded below though it has no minimum.
    assert 2**20 <= line_search(lambda r: 1 / (1 + r), factors, 1 / (1 + factors)) < 2**24


def test_a_network_that_is_better_silent_is_silenced(tiny_model, tiny_ends, tiny_task):
    """With outputs of the wrong sign every r > 0 is worse than r = 0, at which the classes are guessed: ln 3."""
    wrong = jax.tree.map(np.array, tiny_ends[0])
    wrong["params"]["Dense_2"]["kernel"] *= -1
    wrong["params"]["Dense_2"]["bias"] *= 0
    for rescale in ("layer", "one"):
        stable = dropout_stability(jax.random.key(0), tiny_task, wrong, 0.2, draws=3, rescale=rescale)
        assert (stable.losses <= np.log(3) + 1e-5).all()
        assert stable.loss > np.log(3)
    # What is dropped does not matter to a network that is right; of all examples no factor is worse than r = 1.
    for seed in range(3):
        stable = dropout_stability(jax.random.key(seed), tiny_task, tiny_ends[0], 0.2, draws=1, search_examples=4)
        for i, theta in enumerate(("dense_0", "dense_1")):
            for r in (0, 1, len(stable.keep[theta]) / stable.keep[theta].sum()):
                factors = {g: stable.factors[i, j] for j, g in enumerate(stable.keep) if j >= i} | {theta: r}
                masks = {g: np.float32(stable.keep[g] * factor) for g, factor in factors.items()}
                other = scale_outputs(chain_of(tiny_model), tiny_ends[0], masks)
                assert stable.losses[i] <= float(Criterion()(tiny_task, other)) + 1e-6


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(6, use_bias=False)(x.reshape(len(x), -1))
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))


@pytest.mark.parametrize("kind", ["dense", pytest.param("convolutional", marks=pytest.mark.slow)])
def test_batch_statistics_are_estimated_anew(kind, tiny_colour_data, key):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.3)
    if kind == "dense":
        model = models.from_flax(Normed(), jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32), name="normed")
    task, theta = supervised(model, tiny_colour_data), alive(model)
    stable = dropout_stability(key, task, theta, draws=2, search_examples=40)
    want = jax.jit(lambda theta: Criterion()(task, theta))(trees.index(stable.thetas, 0))
    np.testing.assert_allclose(stable.losses[0], want, rtol=1e-5)


def test_numbers_of_units():
    groups = ("dense_0", "dense_1", "dense_2")
    found = Chain((*(Layer("", None, group, ()) for group in groups), Layer("", None, None, ())), (), (10, 7, 1))
    for fraction, counts in (
        (0.5, (5, 3, 0)),
        (0.9, (1, 0, 0)),
        (dict(zip(groups, (0.3, 0.2, 0.1), strict=True)), (7, 5, 0)),
    ):
        assert kept_units(found, fraction) == dict(zip(groups, counts, strict=True))


def test_algorithm_1_keeps_the_mean_of_the_next_layer(tiny_model, tiny_ends, key):
    theta = tiny_ends[0]
    drop = jax.jit(jax.vmap(lambda each: drop_units(each, tiny_model, theta, 0.25)))
    for name, leaf in trees.flatten(drop(jax.random.split(key, 4000))).items():
        leaf, before = np.asarray(leaf), np.asarray(trees.flatten(theta)[name])
        if name in ("params/Dense_1/kernel", "params/Dense_2/kernel"):
            np.testing.assert_allclose(leaf.mean(0), before, atol=0.05 * np.abs(before).max())
            zero = (leaf == 0).all(-1)
            np.testing.assert_allclose(zero.mean(), 0.25, atol=0.02)
            np.testing.assert_allclose(leaf[~zero], np.broadcast_to(before / 0.75, leaf.shape)[~zero], rtol=1e-6)
        else:
            np.testing.assert_array_equal(leaf, np.broadcast_to(before, leaf.shape))


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_the_probability_of_lemma_3_over_all_coins(fraction, measured, tiny_task, tiny_ends):
    """Its exact value, by all 2^11 subsets of units with their weights."""
    lines = dropout_lines(jax.random.key(1), tiny_task, tiny_ends[0], fraction, draws=600, ts=3, criterion=CRITERION)
    np.testing.assert_allclose(lines.losses[:, 0], measured({}), rtol=1e-5)
    assert lines.losses.shape == (600, 3)
    kept = (np.arange(2**11)[:, None] >> np.arange(11)) & 1
    chances = np.prod(np.where(kept, 1 - fraction, fraction), axis=1)
    np.testing.assert_allclose(chances.sum(), 1)
    masks = 1 + np.array([0.5, 1])[:, None, None] * (kept / (1 - fraction) - 1)
    chain = chain_of(tiny_task.model)

    @jax.jit
    def loss(mask):
        return CRITERION(tiny_task, scale_outputs(chain, tiny_ends[0], {"dense_0": mask[:6], "dense_1": mask[6:]}))

    values = np.asarray(jax.jit(lambda many: jax.lax.map(loss, many, batch_size=64))(np.float32(masks.reshape(-1, 11))))
    rises = np.maximum(values.reshape(2, -1).max(0) - measured({}), 0)
    for rise in np.quantile(rises, [0.1, 0.4, 0.7]):
        # Four standard deviations of the share of 600 draws.
        exact = chances[rises <= rise].sum()
        assert abs(lines.probability(rise) - exact) < 4 * np.sqrt(exact * (1 - exact) / 600) + 1e-9
    order = np.argsort(rises)
    below, above = (rises[order][np.searchsorted(np.cumsum(chances[order]), share)] for share in (0.18, 0.32))
    assert below <= lines.rise() <= above
    assert lines.probability(lines.rise(0.25)) >= 0.25 > (lines.rises < lines.rise(0.25)).mean()
    assert lines.rise(1.0) == lines.rises.max()


def test_a_new_model_works_inside_the_trace_of_its_caller(key):
    model = models.create("mlp", 3, (4, 4, 1), widths=(4,))._replace(name="never seen before")
    keys = jax.random.split(key, 3)
    drop = partial(drop_units, model=model, theta=alive(model), fraction=0.5)
    together = jax.jit(lambda keys: jax.lax.map(drop, keys))(keys)
    alone = jax.jit(drop)
    for i, each in enumerate(keys):
        chex.assert_trees_all_equal(trees.index(together, i), alone(each))


HALF = {"dense_0": 0.5}


def margin(theta, batch):
    return 0.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *(
            ({"fraction": fraction}, "fraction=")
            for fraction in (0.0, 1.0, -0.5, float("nan"), "half", None, [0.5, 0.5], {**HALF, "dense_1": 1.5})
        ),
        ({"fraction": HALF}, "one each of dense_0, dense_1"),
        ({"draws": 0}, "draws=0"),
        ({"draws": 2.5}, "draws=2.5"),
        ({"chunk": -1}, "chunk=-1"),
        ({"criterion": Criterion("error")}, "error.*loss or perplexity.*convex"),
        ({"criterion": Criterion(margin)}, "margin.*loss or perplexity"),
        ({"criterion": Criterion(examples=121)}, "examples=121, .* 120"),
        ({"criterion": "loss"}, "criterion='loss'"),
        ({"rescale": "ones"}, "rescale.*'ones'"),
        ({"search": "layer"}, "search.*'layer'"),
    ],
)
def test_numbers_and_names_that_are_refused(arguments, named, tiny_ends, tiny_task, key):
    with pytest.raises(InputError, match=named):
        dropout_stability(key, tiny_task, tiny_ends[0], **arguments)


def test_networks_and_tasks_that_are_refused(tiny_task, tiny_ends, tiny_data, key):
    theta = tiny_ends[0]
    for options, named in (({"draws": 0}, "draws=0"), ({"ts": 1}, "ts=1"), ({"chunk": 0}, "chunk=0")):
        with pytest.raises(InputError, match=named):
            dropout_lines(key, tiny_task, theta, 0.5, **options)
    refusing = (
        dropout_stability,
        lambda key, task, theta: drop_units(key, task.model, theta, 0.5),
        lambda key, task, theta: dropout_lines(key, task, theta, 0.5),
    )
    for refuse in refusing:
        for wrong, named in ((jax.tree.map(lambda leaf: leaf[None], theta), "several networks"), (None, "mlp")):
            with pytest.raises(InputError, match=named):
                refuse(key, tiny_task, wrong)
    with pytest.raises(InputError, match=r"params/Dense_0/bias .*not finite"):
        dropout_stability(key, tiny_task, jax.tree.map(lambda leaf: leaf * np.nan, theta))
    resnet = models.create("resnet20", 3, (8, 8, 1), width=0.25)
    with pytest.raises(InputError, match=r"resnet20: .* one by one"):
        dropout_stability(key, supervised(resnet, tiny_data), drawn(resnet))
    with pytest.raises(InputError, match="bare has no model"):
        dropout_stability(key, Task(tiny_task.loss, tiny_task.train, name="bare"), theta)
    with pytest.raises(InputError, match="Dataset for task"):
        dropout_stability(key, tiny_data, theta)


def test_losses_of_ones_own_are_measured(tiny_task, tiny_ends, tiny_data, key):
    """The criterion is the loss of the task: here a hundred times its loss, and the same in a task without outputs."""
    model = tiny_task.model

    def hundredfold(outputs, labels):
        return 100 * label_losses(outputs, labels)

    def whole(theta, batch, key):
        return hundredfold(model.apply(theta, tiny_task.model_inputs(batch)), batch[1]).mean()

    one, *more = (
        dropout_stability(key, task, tiny_ends[0], draws=2, criterion=CRITERION)
        for task in (
            tiny_task,
            supervised(model, tiny_data, loss=hundredfold),
            Task(whole, tiny_task.train, model=model),
        )
    )
    for many in more:
        np.testing.assert_allclose([many.loss, *many.losses], 100 * np.array([one.loss, *one.losses]), rtol=1e-4)
        for group, kept in one.keep.items():
            np.testing.assert_array_equal(kept, many.keep[group])
