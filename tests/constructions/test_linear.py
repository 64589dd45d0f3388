"""Deep linear networks: products on straight lines, losses below their ends, ends of deficient rank, signs."""

from itertools import pairwise

import jax
import numpy as np
import pytest

from mcjax import InputError, data, evaluate_path, models, supervised, trees
from mcjax.constructions.linear import linear_network_path

TS = np.linspace(0, 1, 121)


def linear(widths):
    return models.create("mlp", widths[-1], widths[:1], widths=widths[1:-1], activation="linear", bias=False)


def theta_of(matrices):
    return {"params": {f"Dense_{i}": {"kernel": np.asarray(W).T} for i, W in enumerate(matrices)}}


def drawn(rng, widths, deficient=()):
    """Normal matrices; those in `deficient` of rank one, or zero if negative."""
    matrices = [rng.normal(size=(b, a)) for a, b in pairwise(widths)]
    for k in deficient:
        n, m = matrices[abs(k)].shape
        matrices[abs(k)] = np.zeros((n, m)) if k < 0 else rng.normal(size=(n, 1)) @ rng.normal(size=(1, m))
    return matrices


def products(networks):
    kernels = [np.asarray(networks["params"][f"Dense_{i}"]["kernel"]) for i in range(len(networks["params"]))]
    product = kernels[0]
    for kernel in kernels[1:]:
        product = product @ kernel
    return product.swapaxes(1, 2)


@jax.jit
def along(path, ts):
    return jax.vmap(path)(ts)


def measured(widths, first, second, ts=TS, **options):
    """The networks along the path in float64, and their products."""
    with jax.enable_x64(True):
        path = linear_network_path(linear(widths), theta_of(first), theta_of(second), **options)
        networks = jax.tree.map(np.asarray, along(path, np.float64(ts)))
    for i, end in ((0, first), (-1, second)):
        for leaf, W in zip(jax.tree.leaves(trees.index(networks, i)), end, strict=True):
            np.testing.assert_array_equal(leaf, W.T)
    return networks, products(networks)


def share_of_the_way(product):
    """How far along the straight line of products each is, and how far beside it."""
    whole = product[-1] - product[0]
    share = ((product - product[0]) * whole).sum((1, 2)) / (whole**2).sum()
    return share, np.abs(product - product[0] - share[:, None, None] * whole).max()


CASES = [
    ((5, 4, 4, 3), (), ()),
    ((3, 4, 4, 5), (), ()),
    ((5, 7, 4, 6, 2), (1,), (0, 3)),
    ((2, 4, 5, 4, 6), (2,), (-1,)),
    ((4, 3, 3, 3), (0,), ()),
    ((3, 3, 3, 4), (1,), (2,)),
    ((4, 6, 3), (-1,), ()),
    ((3, 1, 1), (-0, -1), ()),
    ((1, 4, 1), (), (-1,)),
]


@pytest.mark.parametrize(("widths", "first", "second"), CASES)
@pytest.mark.parametrize("ridge", [False, True])
def test_the_product_goes_straight_and_no_loss_exceeds_its_ends(widths, first, second, ridge):
    if ridge and len(widths) > 3:
        widths = (widths[0], max(widths[1:-1]), widths[-1])
        first, second = ([k for k in each if abs(k) < 2] for each in (first, second))
    rng = np.random.default_rng(len(widths) + ridge)
    ends = drawn(rng, widths, first), drawn(rng, widths, second)
    networks, product = measured(widths, *ends, ridge=ridge)
    if np.abs(product[-1] - product[0]).max() > 1e-9:
        share, beside = share_of_the_way(product)
        assert beside < 1e-9
        assert np.diff(share).min() > -1e-9
    x, y = rng.normal(size=(widths[0], 40)), rng.normal(size=(widths[-1], 40))
    losses = {
        "squares": np.square(product @ x - y).mean((1, 2)),
        "absolute": np.abs(product @ x - y).mean((1, 2)),
        "logistic": np.logaddexp(0, -(product @ x) * np.sign(y)).mean((1, 2)),
    }
    for loss in losses.values():
        norms = 0
        if ridge:
            norms = 0.1 * sum(np.square(leaf).reshape(len(TS), -1).sum(1) for leaf in jax.tree.leaves(networks))
        total = loss + norms
        assert total.max() <= max(total[0], total[-1]) + 1e-9 * total.max()


@pytest.mark.parametrize("ridge", [False, True])
def test_the_path_is_continuous(ridge):
    rng = np.random.default_rng(0)
    widths = (4, 5, 3) if ridge else (4, 5, 4, 3)
    ends = drawn(rng, widths, (1,)), drawn(rng, widths)
    jumps = []
    for points in (601, 2401):
        networks, _ = measured(widths, *ends, np.linspace(0, 1, points), ridge=ridge)
        jumps.append(max(np.abs(np.diff(leaf, axis=0)).max() for leaf in jax.tree.leaves(networks)))
    assert jumps[1] < 0.4 * jumps[0]


@pytest.mark.parametrize("widths", [(4, 5, 5, 3), (3, 4, 6, 4)])
def test_the_loss_falls_strictly_to_a_global_minimum(widths):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(widths[0], 30)), rng.normal(size=(widths[-1], 30))
    best = np.linalg.lstsq(x.T, y.T, rcond=None)[0].T
    second = drawn(rng, widths)
    # The regression's own solution, by the first or the last layer.
    if widths[0] >= widths[-1]:
        above = second[2] @ second[1]
        second[0] = np.linalg.pinv(above) @ best
    else:
        second[2] = best @ np.linalg.pinv(second[1] @ second[0])
    _, product = measured(widths, drawn(rng, widths), second)
    loss = np.square(product @ x - y).mean((1, 2))
    assert np.diff(loss).max() < 0
    np.testing.assert_allclose(loss[-1], np.square(best @ x - y).mean(), rtol=1e-9)
    # Of deficient rank it pauses, and then falls.
    _, product = measured(widths, drawn(rng, widths, (-1,)), second)
    change = np.diff(np.square(product @ x - y).mean((1, 2)))
    falling = np.flatnonzero(change < -1e-9)
    assert change.max() < 1e-9
    assert len(falling) > 30
    assert (np.diff(falling) == 1).all()


def test_ridge_falls_to_the_least_norm():
    rng = np.random.default_rng(0)
    widths = (4, 6, 3)
    first = drawn(rng, widths)
    networks, product = measured(widths, first, first, ridge=True)
    norms = sum(np.square(leaf).reshape(len(TS), -1).sum(1) for leaf in jax.tree.leaves(networks))
    nuclear = np.linalg.norm(product[0], "nuc")
    np.testing.assert_allclose(norms.min(), 2 * nuclear, rtol=1e-9)
    least = int(norms.argmin())
    assert np.diff(norms[: least + 1]).max() < 1e-9
    np.testing.assert_allclose(product, np.broadcast_to(product[:1], product.shape), atol=1e-9)


def of_signs(rng, widths, first, second):
    """Ends with these signs of the determinants of their last matrices."""
    ends = drawn(rng, widths), drawn(rng, widths)
    for end, sign in zip(ends, (first, second), strict=True):
        if np.linalg.det(end[-1]) * sign < 0:
            end[-1], end[-2] = end[-1][:, [1, 0, *range(2, widths[-2])]], end[-2][[1, 0, *range(2, widths[-2])]]
    return ends


def test_opposite_signs_are_parted_where_products_have_full_rank():
    """Of (1 - w_2 w_1)^2, the level sets below 1 are two branches of a hyperbola."""
    with pytest.raises(InputError, match=r"opposite signs, .* hidden layer of 1 units"):
        linear_network_path(linear((1, 1, 1)), theta_of([[[1.0]], [[1.0]]]), theta_of([[[-1.0]], [[-1.0]]]))
    for ridge in (False, True):
        rng = np.random.default_rng(2)
        # Products near one another, with a row more than columns, and three layers: no determinant of theirs is zero.
        for widths in ((3, 3, 3), (4, 3, 3)) + ((3, 3, 5, 3),) * (not ridge):
            first = drawn(rng, widths)
            flip = np.diag([-1.0, 1, 1])
            second = [W + 0.01 * rng.normal(size=W.shape) for W in (flip @ first[0], first[1] @ flip, *first[2:])]
            with pytest.raises(InputError, match=r"opposite signs, .* 3 units"):
                linear_network_path(linear(widths), theta_of(first), theta_of(second), ridge=ridge)
        # The same network with two units exchanged; or a unit more; or an end of rank two.
        widths = (4, 3, 3)
        first, second = of_signs(rng, widths, 1, -1)
        measured(widths, first, [second[0][[1, 0, 2]], second[1][:, [1, 0, 2]]], ridge=ridge)
        wider = [[np.pad(W[0], ((0, 1), (0, 0))), np.pad(W[1], ((0, 0), (0, 1)))] for W in (first, second)]
        measured((4, 4, 3), *wider, ridge=ridge)
        lower = [np.diag([1.0, 1, 0]) @ second[0], second[1]]
        _, product = measured(widths, first, lower, ridge=ridge)
        assert share_of_the_way(product)[1] < 1e-9


ROW = np.array([[1.0, -2, 0.5]])
SINGULAR = {
    "a number": ([[[1.0]], [[1.0]]], [[[1.0]], [[-1.0]]]),
    "a row and its negative": ([ROW, [[2.0]]], [0.3 * ROW, [[-1.0]]]),
    "a column": ([[[2.0]], ROW.T], [[[-0.5]], ROW.T]),
    "square": of_signs(np.random.default_rng(4), (3, 3, 3), 1, -1),
    "a double root": ([np.eye(2), np.eye(2)], [np.array([[-1.0, 5], [0, 1]]), np.diag([1.0, -1])]),
    # Det U_2 and det U_3 both change, or only one.
    "three layers": of_signs(np.random.default_rng(1), (3, 3, 3, 3), 1, -1),
    "wider in between": of_signs(np.random.default_rng(9), (2, 5, 2, 2), 1, -1),
}


@pytest.mark.parametrize(
    ("name", "ridge"), [*((name, False) for name in SINGULAR), *((name, True) for name in list(SINGULAR)[:5])]
)
def test_signs_change_where_the_straight_line_has_a_singular_product(name, ridge):
    first, second = ([np.asarray(W) for W in end] for end in SINGULAR[name])
    widths = [first[0].shape[1], *(len(W) for W in first)]
    networks, product = measured(widths, first, second, np.linspace(0, 1, 1201), ridge=ridge)
    share, beside = share_of_the_way(product)
    assert beside < 1e-9
    assert np.diff(share).min() > -1e-9
    # In between it has lower rank, which is why it took the way that it took.
    least = np.linalg.svd(product)[1].min(1)
    assert least.min() < 1e-9 < 1e-3 < min(least[0], least[-1])
    finer, _ = measured(widths, first, second, np.linspace(0, 1, 4801), ridge=ridge)
    jumps = [max(np.abs(np.diff(leaf, axis=0)).max() for leaf in jax.tree.leaves(each)) for each in (networks, finer)]
    # With ridge the factors are square roots of products, also of those near zero.
    assert jumps[1] < (0.55 if ridge else 0.4) * jumps[0]
    if ridge:
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(widths[0], 40)), rng.normal(size=(widths[-1], 40))
        norms = sum(np.square(leaf).reshape(1201, -1).sum(1) for leaf in jax.tree.leaves(networks))
        for kappa in (0.1, 10.0):
            total = np.square(product @ x - y).mean((1, 2)) + kappa * norms
            assert total.max() <= max(total[0], total[-1]) * (1 + 1e-9)


def test_it_is_a_path_like_any_other():
    rng = np.random.default_rng(0)
    widths = (4, 5, 2)
    ends = [jax.tree.map(np.float32, theta_of(drawn(rng, widths))) for _ in range(2)]
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    task = supervised(linear(widths), data.regression(x, y, x, y))
    metrics = evaluate_path(task, linear_network_path(task.model, *ends), ts=21)
    assert metrics.train_loss.max() <= max(metrics.train_loss[0], metrics.train_loss[-1]) * (1 + 1e-5)
    assert metrics.train_loss.dtype == np.float32


@pytest.mark.parametrize(
    ("widths", "options", "named"),
    [
        ((4, 2, 5), {}, "2 in hidden layer 1, .* 4"),
        ((5, 4, 3, 4), {}, "3 in hidden layer 2"),
        ((4, 4, 4, 4), {"ridge": True}, "3 layers with ridge"),
    ],
)
def test_widths_that_the_proposition_excludes(widths, options, named):
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=named):
        linear_network_path(linear(widths), *(theta_of(drawn(rng, widths)) for _ in range(2)), **options)


def test_networks_that_are_not_linear():
    curved, biased = (
        models.create("mlp", 3, (4,), widths=(5,), **options)
        for options in ({"activation": "relu", "bias": False}, {"activation": "linear"})
    )
    model, rng = linear((4, 5, 3)), np.random.default_rng(0)
    theta, with_bias = theta_of(drawn(rng, (4, 5, 3))), {"params": {}}
    for i, n in enumerate((5, 3)):
        with_bias["params"][f"Dense_{i}"] = {**theta["params"][f"Dense_{i}"], "bias": np.zeros(n)}
    many, infinite = (jax.tree.map(change, theta) for change in (lambda leaf: leaf[None], lambda leaf: leaf * np.inf))
    for of, ends, named in (
        (curved, (theta, theta), "is not linear"),
        (biased, (with_bias, with_bias), "params/Dense_0/bias"),
        (model, (many, many), "theta_1: .*several networks"),
        (model, (theta, infinite), "theta_2: params/Dense_0/kernel .*not finite"),
    ):
        with pytest.raises(InputError, match=named):
            linear_network_path(of, *ends)


def test_weights_stay_as_small_as_they_are_at_the_ends():
    """An end of tiny weights is left before the product moves: nothing is divided by them."""
    widths, rng = (4, 6, 5, 3), np.random.default_rng(0)
    first = [1e-4 * W for W in drawn(rng, widths)]
    networks, product = measured(widths, first, drawn(rng, widths))
    assert share_of_the_way(product)[1] < 1e-9
    assert np.diff(share_of_the_way(product)[0]).min() > 0
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(networks))
    assert largest < 30 * max(np.abs(leaf[-1]).max() for leaf in jax.tree.leaves(networks))
