"""The theorems: numbers of segments, functions along every segment, and the loss along whole paths."""

import jax
import numpy as np
import pytest
from segments import check_moves
from variables import drawn

from mcjax import Criterion, InputError, SpecError, evaluate_path, models, train_endpoints, trees
from mcjax.paths.dropout import DropoutStability, dropout_stability
from mcjax.paths.dropout_paths import drop_path, dropout_path, halves_path, interpolation_path, narrow_path
from mcjax.paths.feedforward import chain, scale_outputs
from mcjax.training import TrainConfig


def stability(model, theta, keep, factor):
    """What dropping all units but `keep` leaves, without a search."""
    chained = chain(model)
    depth = len(chained.groups)
    theta = jax.tree.map(np.float32, theta)
    masks = {g: np.isin(np.arange(n), keep[g]) for g, n in zip(chained.groups, chained.sizes, strict=True)}
    thetas = [
        scale_outputs(chained, theta, {g: np.float32(factor * masks[g]) for g in chained.groups[i:]})
        for i in range(depth)
    ]
    factors = np.triu(np.full((depth, depth), factor)) + np.tril(np.ones((depth, depth)), -1)
    return DropoutStability(theta, trees.stack(thetas), masks, factors, 0.0, np.zeros(depth), 0.5)


def random_half(model, seed):
    chained, rng = chain(model), np.random.default_rng(seed)
    keep = {g: rng.permutation(n)[: n // 2] for g, n in zip(chained.groups, chained.sizes, strict=True)}
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


MODELS = {
    "two": ("mlp", (4,), {"widths": (5,)}),
    "three": ("mlp", (4,), {"widths": (9, 8)}),
    "odd, narrow, deep": ("mlp", (4,), {"widths": (7, 5, 3, 1, 4)}),
    "tanh": ("mlp", (4,), {"widths": (5, 6), "activation": "tanh"}),
    "flattened": ("mnist_convnet", (8, 8, 1), {"width": 0.2}),
    "batch norm": ("tinysix", (8, 8, 1), {"width": 0.4}),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    name, shape, options = MODELS[request.param]
    model = models.create(name, 3, shape, **options)
    return model, random_half(model, 1), random_half(model, 2)


def images(model, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(6, *model.input_shape)), rng.integers(0, 3, 6)


def ends(construction, theta_1, theta_2):
    for i, theta in ((0, theta_1), (-1, theta_2)):
        for a, b in zip(jax.tree.leaves(trees.index(construction.knots, i)), jax.tree.leaves(theta), strict=True):
            np.testing.assert_array_equal(a, b)


def test_theorem_1(pair):
    model, one, two = pair
    depth = len(one.losses) + 1
    construction = dropout_path(model, one, two)
    assert len(construction.moves) == 2 * (4 * depth - 6) + 8
    assert {move.kind for move in construction.moves} == {"a", "b", "c"}
    assert all(move.layers == (depth,) for move in construction.moves if move.kind == "a" and move.layers)
    ends(construction, one.theta, two.theta)
    check_moves(model, construction, *images(model))
    start = drop_path(model, one)
    assert len(start.moves) == 4 * depth - 6
    check_moves(model, construction.shortened(), *images(model))


def test_theorem_1_passes_every_theta_i(pair):
    model, one, _ = pair
    construction = drop_path(model, one)
    # After every fourth segment the function is that of the next theta_i.
    x = np.float32(images(model)[0])
    last = len(one.losses) - 1
    for i in range(last + 1):
        knot = trees.index(construction.knots, 1 + 4 * (last - i))
        want = model.apply(trees.index(one.thetas, i), x)
        np.testing.assert_allclose(model.apply(knot, x), want, rtol=1e-4, atol=1e-5 * float(np.abs(want).max() + 1))


def test_theorem_2(pair):
    model, one, two = pair
    construction = interpolation_path(model, one, two)
    assert len(construction.moves) == 10
    assert [move.kind for move in construction.moves if move.kind == "line"] == ["line"] * 2
    ends(construction, one.theta, two.theta)
    check_moves(model, construction, *images(model))
    for knot, stable in ((1, one), (-2, two)):
        want = trees.index(stable.thetas, 0)
        for a, b in zip(jax.tree.leaves(trees.index(construction.knots, knot)), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["three", "flattened", "batch norm"])
def test_theorem_3(name):
    called, shape, options = MODELS[name]
    model = models.create(called, 3, shape, **options)
    small = {"widths": (2, 3)} if called == "mlp" else {"width": options["width"] / 4}
    narrow_model = models.create(called, 3, shape, **small)
    chained = chain(model)
    stable = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        # Fewer than half are dropped: as many as the narrow network needs.
        keep = {
            g: rng.permutation(n)[: n - max(1, -(-2 * n // 5))]
            for g, n in zip(chained.groups, chained.sizes, strict=True)
        }
        stable.append(stability(model, drawn(model, seed), keep, 1.2))
    narrow = drawn(narrow_model, 3)
    construction = narrow_path(model, *stable, narrow)
    assert len(construction.moves) == 13
    assert [i for i, move in enumerate(construction.moves) if move.kind == "line"] == [0, 12]
    ends(construction, stable[0].theta, stable[1].theta)
    x, labels = images(model)
    check_moves(model, construction, x, labels)
    # Half way it is the narrow network.
    got = model.apply(trees.index(construction.knots, 4), np.float32(x))
    want = narrow_model.apply(jax.tree.map(np.float32, narrow), np.float32(x))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))


@pytest.mark.parametrize("seed", range(8))
def test_lemma_2_of_random_halves(seed):
    """Halves that lie anyhow in each other, zero rows among them."""
    rng = np.random.default_rng(seed)
    model = models.create("mlp", 2, (3,), widths=tuple(int(n) for n in rng.integers(1, 9, 3)))
    chained = chain(model)
    thetas = []
    for i in range(2):
        factors = {}
        for g, n in zip(chained.groups, chained.sizes, strict=True):
            factors[g] = np.isin(np.arange(n), rng.permutation(n)[: rng.integers(0, n // 2 + 1)])
        theta = scale_outputs(chained, jax.tree.map(np.float32, drawn(model, 2 * seed + i)), factors)
        theta["params"]["Dense_0"]["kernel"] = (
            np.asarray(theta["params"]["Dense_0"]["kernel"]) * (rng.random(chained.sizes[0]) < 0.7)[None]
        )
        thetas.append(theta)
    construction = halves_path(model, *thetas)
    assert len(construction.moves) == 8
    ends(construction, *thetas)
    x, labels = rng.normal(size=(6, 3)), rng.integers(0, 2, 6)
    check_moves(model, construction, x, labels)


@pytest.mark.parametrize("kind", ["mlp", "tinysix"])
def test_the_loss_of_trained_networks_stays_below_the_bound(kind, tiny_data, key):
    options = {"widths": (12, 9, 8)} if kind == "mlp" else {"width": 0.5}
    model = models.create(kind, 3, (8, 8, 1), **options)
    config = TrainConfig(epochs=6, batch_size=20, learning_rate=0.05)
    trained = train_endpoints(jax.random.split(key, 2), model, tiny_data, config).theta
    stable = [
        dropout_stability(jax.random.key(i), model, trees.index(trained, i), tiny_data, draws=8, search_images=60)
        for i in range(2)
    ]
    assert max(each.loss for each in stable) < 0.7
    construction = dropout_path(model, *stable)
    metrics = evaluate_path(model, construction.path, tiny_data, ts=200)
    bound = max(each.loss + each.epsilon for each in stable)
    assert metrics.train_loss.max() <= bound + 1e-5
    # The bound is reached, or nearly: at the worst theta_i.
    assert metrics.train_loss.max() > bound - 0.3
    np.testing.assert_allclose(stable[0].loss, Criterion()(model, stable[0].theta, tiny_data), rtol=1e-5)


def test_bad_input(key):
    model = models.create("mlp", 3, (4,), widths=(6, 5))
    few = stability(model, drawn(model), {"dense_0": np.arange(4), "dense_1": np.arange(2)}, 1.0)
    half = random_half(model, 0)
    with pytest.raises(InputError, match=r"at least half .*fraction=0.5 or more:\n  dense_0: 2 free, 4 needed"):
        dropout_path(model, half, few)
    with pytest.raises(InputError, match=r"at least half .*fraction=0.5 or more:\n  dense_0: 2 free, 3 needed"):
        interpolation_path(model, few, half)
    with pytest.raises(InputError, match="dense_0: 0 free, 3 needed"):
        halves_path(model, half.theta, half.theta)
    with pytest.raises(InputError, match="several networks"):
        halves_path(model, *(jax.tree.map(lambda leaf: leaf[None], half.theta),) * 2)
    wide = models.create("mlp", 3, (4,), widths=(3, 2))
    with pytest.raises(InputError, match=r"narrow network does not fit .*\n  dense_0: 2 free, 3 needed"):
        narrow_path(model, few, half, drawn(wide))
    other = models.create("mlp", 3, (5,), widths=(2, 2))
    with pytest.raises(InputError, match=r"narrow: params/Dense_0/kernel"):
        narrow_path(model, half, half, drawn(other))
    deep = models.create("mlp", 3, (4,), widths=(2, 2, 2))
    for narrow, said in (
        (drawn(deep), "narrow: expected one network of the same architecture"),
        (jax.tree.map(lambda leaf: leaf[None], drawn(wide)), "narrow: expected one network"),
        (jax.tree.map(lambda leaf: leaf * np.nan, drawn(wide)), "narrow holds values that are not finite"),
    ):
        with pytest.raises(InputError, match=said):
            narrow_path(model, half, half, narrow)
    with pytest.raises(InputError, match="measured by different criteria"):
        dropout_path(model, half, half._replace(criterion=Criterion(on="test")))
    for path in (dropout_path, interpolation_path):
        with pytest.raises(SpecError, match="not those of mlp"):
            path(model, half, random_half(deep, 0))
        with pytest.raises(InputError, match="got dict, expected what dropout_stability returns"):
            path(model, half, half.theta)
