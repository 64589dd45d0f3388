"""The theorems: numbers of segments, functions along every segment, and the loss along whole paths."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from segments import check_moves
from variables import drawn, stacked

from mcjax import InputError, SpecError, evaluate_path, models, supervised, train_endpoints, trees
from mcjax.constructions.chain import chain_of
from mcjax.constructions.dropout import DropoutStability, dropout_stability
from mcjax.constructions.dropout_paths import drop_path, dropout_path, halves_path, interpolation_path, narrow_path
from mcjax.training import SGD, Criterion, TrainConfig


def scaled(chain, theta, factors):
    """`theta` with the outputs of every unit times its factor, in what reads them: by numpy indexing."""
    leaves = dict(trees.flatten(theta))
    for group, factor in factors.items():
        unit_axis = chain.outgoing(group)
        for unit, each in enumerate(factor):
            rows = unit_axis.take(leaves[unit_axis.name], np.array([unit]))
            leaves[unit_axis.name] = unit_axis.put(leaves[unit_axis.name], np.array([unit]), rows * np.float32(each))
    return trees.map_with_name(lambda name, _: leaves[name], theta)


def stability(model, theta, keep, factor):
    """The network with all units but `keep` dropped, without a search."""
    chain = chain_of(model)
    depth = len(chain.groups)
    theta = jax.tree.map(np.float32, theta)
    masks = {g: np.isin(np.arange(n), keep[g]) for g, n in zip(chain.groups, chain.sizes, strict=True)}
    thetas = [scaled(chain, theta, {g: factor * masks[g] for g in chain.groups[i:]}) for i in range(depth)]
    factors = np.triu(np.full((depth, depth), factor)) + np.tril(np.ones((depth, depth)), -1)
    return DropoutStability(theta, stacked(thetas), masks, factors, 0.0, np.zeros(depth), 0.5)


def random_half(model, seed):
    chain, rng = chain_of(model), np.random.default_rng(seed)
    keep = {g: rng.permutation(n)[: n // 2] for g, n in zip(chain.groups, chain.sizes, strict=True)}
    return stability(model, drawn(model, seed), keep, 1.7)


def test_figure_1_block_by_block():
    model = models.create("mlp", 2, (4,), widths=(6, 4), bias=False)
    stable = stability(model, drawn(model), {"dense_0": [0, 1, 2], "dense_1": [0, 1]}, 1.5)
    construction = drop_path(model, stable)
    A_1, A_2, A_3 = (np.asarray(stable.theta["params"][f"Dense_{i}"]["kernel"]).T for i in range(3))
    blocks = {
        "L1": A_1[:3], "B1": A_1[3:],
        "L2": A_2[:2, :3], "C2": A_2[:2, 3:], "D2": A_2[2:, :3], "R2": A_2[2:, 3:],
        "L3": A_3[:, :2], "R3": A_3[:, 2:],
    }  # fmt: skip
    blocks |= {f"r{name}": np.float32(1.5) * block for name, block in blocks.items()}

    def matrix(text):
        rows = [[blocks.get(name) for name in row.split()] for row in text.split(";")]
        height = [
            next(b.shape[0] for b in row if b is not None) if any(b is not None for b in row) else 2 for row in rows
        ]
        width = [next((row[j].shape[1] for row in rows if row[j] is not None), None) for j in range(len(rows[0]))]
        width = [n or (3 if len(rows) > 1 else 2) for n in width]
        sizes = [[(h, w) for w in width] for h in height]
        return np.block(
            [
                [np.zeros(size) if block is None else block for block, size in zip(*each, strict=True)]
                for each in zip(rows, sizes, strict=True)
            ]
        )

    figure = [
        ("", "L3 R3", "L2 C2; D2 R2", "L1; B1"),
        ("a", "rL3 0", "L2 C2; D2 R2", "L1; B1"),
        ("b", "rL3 0", "L2 C2; rL2 0", "L1; B1"),
        ("a", "0 rL3", "L2 C2; rL2 0", "L1; B1"),
        ("b", "0 rL3", "rL2 0; rL2 0", "L1; B1"),
        ("a", "rL3 0", "rL2 0; rL2 0", "L1; B1"),
        ("b", "rL3 0", "rL2 0; 0 0", "L1; B1"),
    ]
    assert [move.kind for move in construction.moves] == [kind for kind, *_ in figure[1:]]
    for i, (_, third, second, first) in enumerate(figure):
        knot = trees.index(construction.knots, i)["params"]
        want = [matrix(first), matrix(second), matrix(third)]
        if i == 6:
            want[0][3:] = 0
        for j in range(3):
            np.testing.assert_array_equal(knot[f"Dense_{j}"]["kernel"].T, want[j])
    assert [move.layers for move in construction.moves] == [(3,), (2,), (3,), (2,), (3,), (1, 2)]


class Mixed(nn.Module):
    """A convolution with batch norm whose maps are flattened, a dense layer of tanh units, and the top."""

    widths: tuple = (4, 5)

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.widths[0], (3, 3), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(3)(nn.tanh(nn.Dense(self.widths[1])(x)))


def mixed(widths):
    return models.from_flax(Mixed(widths), jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32), name="mixed")


def perceptron(*widths, **options):
    return models.create("mlp", 3, (4,), widths=widths, **options)


MODELS = {
    "two": lambda: perceptron(5),
    "three": lambda: perceptron(9, 8),
    "odd, narrow, deep": lambda: perceptron(7, 5, 3, 1, 4),
    "tanh": lambda: perceptron(5, 6, activation="tanh"),
    "mixed": lambda: mixed((6, 5)),
    "flattened": lambda: models.create("mnist_convnet", 3, (8, 8, 1), width=0.2),
    "batch norm": lambda: models.create("tinysix", 3, (8, 8, 1), width=0.4),
}
NARROW = {
    "three": lambda: perceptron(2, 3),
    "mixed": lambda: mixed((2, 2)),
    "flattened": lambda: models.create("mnist_convnet", 3, (8, 8, 1), width=0.05),
    "batch norm": lambda: models.create("tinysix", 3, (8, 8, 1), width=0.1),
}
SLOW = ("tanh", "flattened", "batch norm")


def named(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.fixture(scope="module", params=named(MODELS))
def pair(request):
    model = MODELS[request.param]()
    return model, random_half(model, 1), random_half(model, 2)


def images(model, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(6, *model.input_shape)), rng.integers(0, 3, 6)


def is_knot(construction, i, theta):
    chex.assert_trees_all_equal(trees.index(construction.knots, i), theta)


def test_theorem_1(pair):
    model, one, two = pair
    depth = len(one.losses) + 1
    construction = dropout_path(model, one, two)
    assert len(construction.moves) == 2 * (4 * depth - 6) + 8
    assert {move.kind for move in construction.moves} == {"a", "b", "c"}
    assert all(move.layers == (depth,) for move in construction.moves if move.kind == "a" and move.layers)
    is_knot(construction, 0, one.theta)
    is_knot(construction, -1, two.theta)
    check_moves(model, construction, *images(model))
    check_moves(model, construction.shortened(), *images(model))


def test_theorem_1_passes_every_theta_i(pair):
    model, one, _ = pair
    construction, last = drop_path(model, one), len(one.losses) - 1
    assert len(construction.moves) == 4 * len(one.losses) - 2
    # After every fourth segment the function is that of the next theta_i.
    apply, x = jax.jit(model.apply), np.float32(images(model)[0])
    for i in range(last + 1):
        got, want = (
            apply(trees.index(*which), x) for which in ((construction.knots, 1 + 4 * (last - i)), (one.thetas, i))
        )
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(np.abs(want).max() + 1))


def test_theorem_2(pair):
    model, one, two = pair
    construction = interpolation_path(model, one, two)
    assert len(construction.moves) == 10
    assert [i for i, move in enumerate(construction.moves) if move.kind == "line"] == [0, 9]
    check_moves(model, construction, *images(model))
    for i, theta in (
        (0, one.theta),
        (1, trees.index(one.thetas, 0)),
        (-2, trees.index(two.thetas, 0)),
        (-1, two.theta),
    ):
        is_knot(construction, i, theta)


@pytest.mark.parametrize("name", named(NARROW))
def test_theorem_3(name):
    model, narrow_model, stable = MODELS[name](), NARROW[name](), []
    chain = chain_of(model)
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        # Fewer than half are dropped: as many as the narrow network needs.
        keep = {
            g: rng.permutation(n)[: n - max(1, -(-2 * n // 5))] for g, n in zip(chain.groups, chain.sizes, strict=True)
        }
        stable.append(stability(model, drawn(model, seed), keep, 1.2))
    narrow = drawn(narrow_model, 3)
    construction = narrow_path(model, *stable, narrow)
    assert len(construction.moves) == 13
    assert [i for i, move in enumerate(construction.moves) if move.kind == "line"] == [0, 12]
    is_knot(construction, 0, stable[0].theta)
    is_knot(construction, -1, stable[1].theta)
    x, labels = images(model)
    check_moves(model, construction, x, labels)
    # Half way it is the narrow network.
    got = jax.jit(model.apply)(trees.index(construction.knots, 4), np.float32(x))
    want = jax.jit(narrow_model.apply)(jax.tree.map(np.float32, narrow), np.float32(x))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))


@pytest.mark.parametrize("widths", [(8, 3, 5), (1, 7, 2), (4, 6, 8)])
def test_lemma_2_of_random_halves(widths):
    """Halves that lie anyhow in each other, zero rows among them."""
    model = models.create("mlp", 2, (3,), widths=widths)
    chain = chain_of(model)
    for seed in range(4):
        rng, thetas = np.random.default_rng(seed), []
        for i in range(2):
            factors = {
                g: np.isin(np.arange(n), rng.permutation(n)[: rng.integers(0, n // 2 + 1)])
                for g, n in zip(chain.groups, chain.sizes, strict=True)
            }
            theta = scaled(chain, jax.tree.map(np.float32, drawn(model, 2 * seed + i)), factors)
            theta["params"]["Dense_0"]["kernel"] *= (rng.random(widths[0]) < 0.7)[None]
            thetas.append(theta)
        construction = halves_path(model, *thetas)
        assert len(construction.moves) == 8
        is_knot(construction, 0, thetas[0])
        is_knot(construction, -1, thetas[1])
        check_moves(model, construction, rng.normal(size=(6, 3)), rng.integers(0, 2, 6))


@pytest.mark.parametrize("kind", ["mlp", pytest.param("tinysix", marks=pytest.mark.slow)])
def test_the_loss_of_trained_networks_stays_below_the_bound(kind, tiny_task, tiny_networks, tiny_data, key):
    task, trained = tiny_task, tiny_networks
    if kind == "tinysix":
        task = supervised(models.create(kind, 3, (8, 8, 1), width=0.5), tiny_data)
        config = TrainConfig(epochs=6, batch_size=20, optimizer=SGD(0.05))
        trained = train_endpoints(jax.random.split(key, 2), task, config).theta
    stable = [
        dropout_stability(jax.random.key(i), task, trees.index(trained, i), draws=8, search_examples=60)
        for i in range(2)
    ]
    assert max(each.loss for each in stable) < 0.7
    construction = dropout_path(task.model, *stable)
    metrics = evaluate_path(task, construction.path, ts=200)
    bound = max(each.loss + each.epsilon for each in stable)
    assert metrics.train_loss.max() <= bound + 1e-5
    # The bound is reached, or nearly: at the worst theta_i.
    assert metrics.train_loss.max() > bound - 0.3
    np.testing.assert_allclose([stable[0].loss, stable[1].loss], metrics.train_loss[[0, -1]], rtol=1e-4)


def many(theta):
    return jax.tree.map(lambda leaf: leaf[None], theta)


def nan(theta):
    return jax.tree.map(lambda leaf: leaf * np.nan, theta)


def test_bad_input():
    model, wide, deep = perceptron(6, 5), drawn(perceptron(3, 2)), perceptron(2, 2, 2)
    few = stability(model, drawn(model), {"dense_0": np.arange(4), "dense_1": np.arange(2)}, 1.0)
    half = random_half(model, 0)
    other = drawn(models.create("mlp", 3, (5,), widths=(2, 2)))
    for kind, arguments, words in (
        (dropout_path, (half, few), ("fraction=0.5", "dense_0: 2 free, 4 needed")),
        (interpolation_path, (few, half), ("fraction=0.5", "dense_0: 2 free, 3 needed")),
        (halves_path, (half.theta, half.theta), ("dense_0: 0 free, 3 needed",)),
        (halves_path, (many(half.theta),) * 2, ("theta_1", "several networks")),
        (narrow_path, (few, half, wide), ("narrow", "dense_0: 2 free, 3 needed")),
        (narrow_path, (half, half, other), ("narrow: params/Dense_0/kernel", "(5, 2)", "(4, 6)")),
        (narrow_path, (half, half, drawn(deep)), ("narrow", "architecture")),
        (narrow_path, (half, half, many(wide)), ("narrow", "one network")),
        (narrow_path, (half, half, nan(wide)), ("narrow", "not finite")),
        (dropout_path, (half, half._replace(criterion=Criterion(split="test"))), ("different criteria",)),
        (dropout_path, (half, random_half(deep, 0)), ("mlp", "params/Dense_3/kernel")),
        (interpolation_path, (half, random_half(deep, 0)), ("mlp", "params/Dense_3/kernel")),
        (dropout_path, (half, half.theta), ("dict", "dropout_stability")),
        (interpolation_path, (half, half.theta), ("dict", "dropout_stability")),
    ):
        with pytest.raises(InputError) as refused:
            kind(model, *arguments)
        assert all(word in str(refused.value) for word in words), refused.value
        assert isinstance(refused.value, SpecError) == ("params/Dense_3/kernel" in words)
