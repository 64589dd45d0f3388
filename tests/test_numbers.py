"""The floor of numbers: dtypes stay, sums are float32 at least, and counters, masks and keys are carried to the bit.

Every public function that makes a network from networks, for each dtype and for each kind of state.
"""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from variables import permuted

import mcjax
from mcjax import models, strings, trees
from mcjax.landscape import arc_length, plane_axes
from mcjax.training import Criterion, Task, spawn

DTYPES = ("bfloat16", "float16", "float32", "float64", "mixed")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype(np.float32), RNG.integers(0, 3, 60)
KEY = jax.random.key(0)


def apply(theta, x):
    """A hidden layer of five units under a norm, of which a mask closes some."""
    p, stats = theta["params"], theta["batch_stats"]
    h = (x @ p["in"] - stats["mean"][None]) / jnp.sqrt(stats["var"][None] + 1e-3) * p["scale"][None]
    return (jnp.tanh(h) * p["open"][None]) @ p["out"] + p["bias"][None]


def loss(theta, batch, key):
    """Cross entropy in training mode; the statistics of the batch, a counter that counts, and a key."""
    x, y = batch
    h = x @ theta["params"]["in"]
    stats = {"mean": h.mean(0), "var": h.var(0)}
    logits = apply({**theta, "batch_stats": stats}, x)
    more = {name: leaf for name, leaf in theta["batch_stats"].items() if name not in stats}
    value = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), y).mean()
    return value, {}, {**stats, **more}


def numbers(seed):
    """A network in float64."""
    rng = np.random.default_rng(seed)
    shapes = {"in": (4, 5), "scale": (5,), "out": (5, 3), "bias": (3,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return {"params": params, "batch_stats": {"mean": rng.normal(size=5), "var": 0.5 + rng.random(5)}}


def state(seed):
    """Leaves that are not floating-point: of the parameters, and of the batch statistics."""
    params = {
        "open": np.roll([True, False, True, True, True], seed),
        "step": np.int32(seed),
        "key": jax.random.key(seed),
        "raw": jax.random.PRNGKey(seed),
    }
    return params, {"count": np.uint8(seed), "stream": jax.random.split(jax.random.key(9 + seed), 2)}


def network(seed, dtype="float32"):
    """A network of this dtype ("mixed": kernels in bfloat16, all else in float32), with state."""
    theta, (params, stats) = numbers(seed), state(seed)

    def cast(name, leaf):
        own = ("bfloat16" if leaf.ndim > 1 else "float32") if dtype == "mixed" else dtype
        return jnp.asarray(leaf, own)

    theta = trees.map_with_name(cast, theta)
    whole = {"params": {**theta["params"], **params}, "batch_stats": {**theta["batch_stats"], **stats}}
    return jax.tree.map(jnp.asarray, whole)


@pytest.fixture(scope="module")
def model():
    return models.from_function(lambda key: network(0), apply, X)


@pytest.fixture(scope="module")
def task(model):
    return Task(loss, train=(X, Y), test=(X[:20], Y[:20]), model=model)


@pytest.fixture(params=DTYPES)
def dtype(request):
    """float64 is there under x64 alone."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def exact(theta):
    """The floating-point leaves in float64."""
    return {name: np.asarray(leaf, np.float64) for name, leaf in trees.flatten(trees.floating(theta)).items()}


def rounded_once(got, expected, like, scale=10.0):
    """Assert the dtypes of `like`, and the expected numbers up to one rounding to them, by sums in float32 at least."""
    found, leaves = trees.flatten(trees.floating(got)), trees.flatten(trees.floating(like))
    assert {name: leaf.dtype for name, leaf in found.items()} == {name: leaf.dtype for name, leaf in leaves.items()}
    for name, leaf in found.items():
        rounding, wide = jnp.finfo(leaf.dtype), jnp.finfo(jnp.promote_types(leaf.dtype, jnp.float32))
        error = np.abs(np.asarray(leaf, np.float64) - expected[name])
        bound = float(rounding.eps) / 2 * np.abs(expected[name]) + float(wide.eps) * scale + float(rounding.tiny)
        assert (error <= bound).all(), (name, (error - bound).max())


def carried(got, like):
    """Assert that all leaves that are not floating-point are those of `like`, to the bit."""
    found, leaves = trees.flatten(got), trees.flatten(like)
    assert found.keys() == leaves.keys()
    for name, leaf in leaves.items():
        if not trees.is_floating(leaf):
            assert found[name].dtype == leaf.dtype, name
            one, other = (trees.on_host(trees.without_keys(each[name])) for each in (found, leaves))
            np.testing.assert_array_equal(one, other, err_msg=name)


def control_points(curve, theta):
    """theta_c drawn by numpy, in the dtypes of the curve's own."""
    rng = np.random.default_rng(7)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) if trees.is_floating(leaf) else leaf,
        curve.zero(theta),
    )


CURVES = {
    "line": (mcjax.linear, lambda t: []),
    "quadratic": (mcjax.bezier, lambda t: [2 * t * (1 - t)]),
    "cubic": (lambda spec: mcjax.bezier(spec, 3), lambda t: [3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)]),
    "chain": (lambda spec: mcjax.polygonal_chain(spec, 1), lambda t: [1 - abs(2 * t - 1)]),
}


@pytest.mark.parametrize("kind", CURVES)
def test_a_network_on_a_curve_is_rounded_once_and_has_the_state_of_theta_1(model, dtype, kind):
    make, weights = CURVES[kind]
    curve = make(model.spec)
    theta_1, theta_2 = network(1, dtype), network(2, dtype)
    theta_c = control_points(curve, theta_1)
    P = {group: np.roll(np.arange(5), 2) for group in model.spec.groups}
    a, b, c = exact(theta_1), exact(mcjax.permute(model.spec, P, theta_2)), exact(theta_c)
    path = curve.bind(theta_1, theta_2, theta_c, P)
    for t in (0.3, np.float64(0.3), jnp.asarray(0.75, jnp.bfloat16)):
        # The number that t is, where there is no float64.
        at = float(jnp.asarray(t))
        shares = np.array(weights(at))
        bent = {name: np.tensordot(shares, c[name].reshape(len(shares), *leaf.shape), 1) for name, leaf in a.items()}
        expected = {name: (1 - at) * leaf + at * b[name] + bent[name] for name, leaf in a.items()}
        for point in (path(t), jax.jit(path)(t)):
            rounded_once(point, expected, theta_1)
            carried(point, theta_1)


def test_control_points_are_float32_at_least_and_zero_in_place_of_state(model, dtype):
    theta = network(1, dtype)
    for curve in (mcjax.bezier(model.spec), mcjax.bezier(model.spec, 3)):
        zero = curve.zero(theta)
        assert trees.shapes(trees.index(zero, 0) if curve.control_points > 1 else zero) == trees.shapes(theta)
        for (name, leaf), own in zip(trees.flatten(zero).items(), jax.tree.leaves(theta), strict=True):
            expected = jnp.promote_types(own.dtype, jnp.float32) if trees.is_floating(own) else own.dtype
            assert leaf.dtype == expected, name
            assert not np.asarray(trees.without_keys(leaf)).any()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_permuted_network_is_rounded_once_and_its_masks_are_moved(model, dtype, soft):
    theta = network(1, dtype)
    groups = dict.fromkeys(model.spec.groups, 5)
    hard = {group: np.random.default_rng(3).permutation(n).astype(np.int32) for group, n in groups.items()}
    P = hard
    expected = {
        name: np.asarray(leaf) for name, leaf in trees.flatten(permuted(model.spec, hard, as_numpy(theta))).items()
    }
    mask = expected["params/open"]
    if soft:
        P = {g: 0.6 * np.eye(5, dtype=np.float32)[p] + 0.08 for g, p in hard.items()}
        M = np.float64(next(iter(P.values())))
        expected = exact(theta)
        for name in ("params/scale", "batch_stats/mean", "batch_stats/var", "params/out"):
            expected[name] = M @ expected[name]
        expected["params/in"] = expected["params/in"] @ M.T
    moved = mcjax.permute(model.spec, P, theta)
    rounded_once(moved, expected, theta)
    np.testing.assert_array_equal(moved["params"]["open"], mask)
    carried(moved, {**theta, "params": {**theta["params"], "open": jnp.asarray(mask)}})


def as_numpy(theta):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape) if trees.is_key(leaf) else np.asarray(leaf), theta)


def test_means_and_points_between_networks_are_rounded_once(model, dtype):
    thetas = [network(seed, dtype) for seed in range(3)]
    many, (a, b, c) = trees.stack(thetas), map(exact, thetas)
    line = mcjax.curves.Polyline(trees.stack(thetas[:2]))
    corners = plane_axes(*thetas)
    x, y = corners.points[2]
    at_u, at_v = corners.at(corners.points[1, 0], 0.0), corners.at(x, y)
    for got, expected in (
        (trees.mean(many), {n: (a[n] + b[n] + c[n]) / 3 for n in a}),
        (trees.interpolate(*thetas[:2], 0.3), {n: 0.7 * a[n] + 0.3 * b[n] for n in a}),
        (line.path(0.25), {n: 0.75 * a[n] + 0.25 * b[n] for n in a}),
        (at_u, b),
        (at_v, c),
    ):
        rounded_once(got, expected, thetas[0], scale=30.0)
        carried(got, thetas[0])
    # Distances are of the numbers that the networks hold, to the last digits of float32.
    far = np.sqrt(sum(np.square(b[n] - a[n]).sum() for n in a if n.startswith("params/")))
    wide = float(jnp.finfo("float64" if dtype == "float64" else "float32").eps)
    for got in (line.length, corners.points[1, 0], trees.norm(trees.subtract(*map(trees.params, thetas[:2])))):
        np.testing.assert_allclose(float(got), far, rtol=2e-7 if got is corners.points[1, 0] else 8 * wide)
    straight = arc_length(mcjax.linear(model.spec).bind(*thetas[:2]), 2)
    np.testing.assert_allclose(float(straight), far, rtol=8 * wide)


def test_merged_networks_keep_the_dtypes_and_the_state_of_the_first(model, dtype):
    first = network(1, dtype)
    P = {group: np.roll(np.arange(5), 2).astype(np.int32) for group in model.spec.groups}
    copy = mcjax.permute(model.spec, P, network(1, dtype))
    copy["params"]["step"] = jnp.int32(8)
    merged = mcjax.merge(KEY, model.spec, trees.stack([first, copy]), restarts=1)
    # The copy is found to the bit, so that the mean is the network itself.
    rounded_once(merged.theta, exact(first), first)
    carried(merged.theta, first)


def test_statistics_are_pooled_and_moved_in_float32_at_least(task, dtype):
    theta = network(1, dtype)
    theta["batch_stats"]["count"] = jnp.uint8(200)
    kernel = exact(theta)["params/in"]
    for got in (mcjax.reestimate(task, theta, batch_size=25), mcjax.repair(task, theta, trees.stack([theta] * 2))):
        # The model's own dtype is that of the product, which is rounded before the moments are taken.
        product = np.asarray(jnp.asarray(X) @ theta["params"]["in"], np.float64)
        np.testing.assert_allclose(product, X @ kernel, atol=0.1)
        moved = exact(theta) | {"batch_stats/mean": product.mean(0), "batch_stats/var": product.var(0)}
        rounded_once(got, moved, theta)
        carried(got, theta)


def test_matchings_of_networks_with_state_recover_a_planted_permutation(model, task, dtype):
    theta_1 = network(1, dtype)
    (group,) = model.spec.groups
    P = {group: np.array([3, 1, 4, 0, 2], np.int32)}
    theta_2 = mcjax.permute(model.spec, P, theta_1)
    theta_2["params"] |= {"step": jnp.int32(9), "key": jax.random.key(8)}
    found = mcjax.match_weights(KEY, model.spec, theta_1, theta_2)
    np.testing.assert_array_equal(found.P[group], np.argsort(P[group]))
    square = sum(np.square(leaf).sum() for name, leaf in exact(theta_1).items() if name.startswith("params/"))
    np.testing.assert_allclose(found.objective, square, rtol=1e-14 if dtype == "float64" else 1e-6)
    found = mcjax.match_activations(task, theta_1, theta_2)
    closed = ~np.asarray(theta_1["params"]["open"])
    right = found.P[group] == np.argsort(P[group])
    assert (right | closed).all()
    assert found.info["correlation"][group].dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(found.info["after"][group], (~closed).mean(), rtol=1e-6)


TRAINING = mcjax.TrainConfig(epochs=2, batch_size=20, steps_per_epoch=2, optimizer=optax.adam(1e-2))
CURVE = mcjax.FitConfig(epochs=1, batch_size=20, steps_per_epoch=2, optimizer=optax.adam(1e-2))
PAM = mcjax.PamConfig(
    curve=CURVE,
    permutation=mcjax.curves.PermutationFitConfig(epochs=1, samples=1),
    iterations=1,
    nu_P=1e3,
    nu_phi=0.5,
    objective_examples=40,
    objective_points=2,
)


def on_the_way(theta, batch):
    """0 at two networks with the first bias at 1 and 2, and 1 halfway."""
    return 1 - jnp.abs(2 * theta["params"]["bias"][0].astype(jnp.float32) - 3)


BEADS = strings.StringConfig(TRAINING, Criterion(on_the_way), beads=1, depth=1, zeta=0.1)
MATCHING = mcjax.matching.StraightThroughConfig(epochs=1, batch_size=20, steps_per_epoch=2, examples=40)


def drawn(task, theta):
    """The task of networks that start at this one."""
    return task.replace(init=lambda key: theta)


def a_bead(task, a, b, **penalty):
    """A bead of the string between networks with the first bias at 1 and 2."""
    a, b = (
        mcjax.trees.with_params(x, {**x["params"], "bias": x["params"]["bias"].at[0].set(i)})
        for i, x in ((1, a), (2, b))
    )
    config = replace(BEADS, **penalty)
    string = strings.sample_string(KEY, task, a, b, 0.5, config=config)
    assert string.beads == 1
    return trees.index(string.knots, 1)


def endpoints(task, a, **options):
    return trees.index(mcjax.train_endpoints(KEY[None], drawn(task, a), TRAINING, **options).theta, 0)


FITS = {
    "train_endpoints": lambda task, a, b: endpoints(task, a, target=1e-3),
    "spawn": lambda task, a, b: trees.index(spawn(KEY, drawn(task, a), (1,), TRAINING).theta, (0, 1)),
    "fit_curve": lambda task, a, b: mcjax.fit_curve(KEY, task, mcjax.bezier(task.spec), a, b, config=CURVE).path(0.6),
    "fit_pam": lambda task, a, b: mcjax.fit_pam(KEY, task, mcjax.bezier(task.spec), a, b, config=PAM).path(0.6),
    "sample_string": lambda task, a, b: a_bead(task, a, b),
    "kappa": lambda task, a, b: a_bead(task, a, b, kappa=math.inf),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_trains_floats_around_the_state_and_keeps_dtypes(task, name):
    """Kernels in bfloat16 and all else in float32, as networks are trained on accelerators."""
    theta_1, theta_2 = network(1, "mixed"), network(2, "mixed")
    found = FITS[name](task, theta_1, theta_2)
    carried(found, theta_1)
    leaves, start = trees.flatten(trees.trained(found)), trees.flatten(trees.trained(theta_1))
    assert {name: leaf.dtype for name, leaf in leaves.items()} == {name: leaf.dtype for name, leaf in start.items()}
    assert all((np.asarray(leaf) != np.asarray(start[name])).any() for name, leaf in leaves.items())


def test_straight_through_matching_and_measurements_take_networks_with_state(task):
    theta_1, theta_2 = network(1), network(2)
    match = mcjax.match_straight_through(KEY, task, theta_1, theta_2, config=MATCHING)
    assert np.isfinite(match.objective)
    # A measurement does not depend on state that the network does not read.
    found = []
    for other in (theta_2, {**theta_2, "params": {**theta_2["params"], "step": jnp.int32(1), "key": KEY}}):
        metrics = mcjax.evaluate_path(task, mcjax.linear(task.spec).bind(theta_1, other), 3)
        rest = mcjax.plane(task, theta_1, other, network(3), 2).values["train_loss"]
        found.append((metrics.train_loss, metrics.distance, rest, mcjax.evaluate(task, theta_1)[0]["loss"]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
