"""The permutation half-step: its gradient against finite differences in numpy, and what a step leaves behind."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says
from variables import cross_entropy

from mcjax import InputError, Task, bezier, data, linear, models, nearest_permutation, trees
from mcjax.curves.config import PermutationFitConfig
from mcjax.curves.objective import tangent_part
from mcjax.curves.pam_step import OntoBirkhoff, PermutationEnds, permutation_fit
from mcjax.symmetry import project_birkhoff
from mcjax.training.fit import FitState, parts_of


def gradient_of(fit):
    """The gradient of its objective in the matrices, and the loss: (ends, P, batch, t, key) -> both."""
    descent, loss = parts_of(fit)

    @jax.jit
    def gradient(ends, P, batch, t, key):
        (_, found), slope = descent.gradient(loss, FitState(P, (), ends), batch, t, key)
        return slope, found.value

    return gradient


def soft(rng, n):
    """A doubly stochastic matrix, inside the polytope."""
    X = np.exp(rng.normal(size=(n, n)))
    for _ in range(500):
        X = X / X.sum(1, keepdims=True)
        X = X / X.sum(0, keepdims=True)
    return X


def as_float32(tree):
    return jax.tree.map(np.float32, tree)


def slopes(loss, P, epsilon=1e-6):
    """The derivative of loss(P) in every entry of every matrix, by central differences."""
    found = {}
    for group, p in P.items():
        found[group] = np.zeros_like(p)
        for at in np.ndindex(p.shape):
            moved = np.zeros_like(p)
            moved[at] = epsilon
            found[group][at] = (loss({**P, group: p + moved}) - loss({**P, group: p - moved})) / (2 * epsilon)
    return found


def on_curve(a, b, c, t):
    return (1 - t) * a + t * b + 2 * t * (1 - t) * c


def assert_close(gradient, expected):
    assert gradient.keys() == expected.keys()
    for group, each in expected.items():
        assert np.abs(each).max() > 1e-3
        np.testing.assert_allclose(gradient[group], each, atol=2e-5 * np.abs(each).max())


@pytest.fixture
def mlp(key, tiny_data, tiny_model):
    """An MLP's ends with biases, control points, two soft permutations, a batch as the model takes it, and stored."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(tiny_model.init, key)["params"]
    theta_1, theta_2, theta_c = (jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape), shapes) for _ in range(3))
    P, anchor = ({"dense_0": soft(rng, 6), "dense_1": soft(rng, 5)} for _ in range(2))
    x = data.normalize(tiny_data.train_images[:30], tiny_data.mean, tiny_data.std)
    batch = (tiny_data.train_images[:30], tiny_data.train_labels[:30])
    return (theta_1, theta_2, theta_c), P, anchor, (x, batch[1]), batch


def mlp_loss(ends, P, x, labels, t):
    """The cross entropy of an MLP on the curve."""
    h = np.asarray(x, np.float64).reshape(len(x), -1)
    for layer, (kernel, bias) in enumerate(mlp_layers(ends, P, t)):
        h = h @ kernel + bias[None]
        h = np.maximum(h, 0) if layer < 2 else h
    return cross_entropy(h, labels).mean()


def mlp_square(ends, P, t):
    """The squared norm of an MLP on the curve."""
    return sum((kernel**2).sum() + (bias**2).sum() for kernel, bias in mlp_layers(ends, P, t))


def mlp_layers(ends, P, t):
    """The layers of an MLP on the curve, every matrix multiplied by hand."""
    A, B = P["dense_0"], P["dense_1"]
    for layer, (into, out) in enumerate(((None, A), (A, B), (B, None))):
        first, second, control = (end[f"Dense_{layer}"] for end in ends)
        kernel, bias = second["kernel"], second["bias"]
        kernel = kernel if into is None else into @ kernel
        kernel, bias = (kernel, bias) if out is None else (kernel @ out.T, out @ bias)
        yield (
            on_curve(first["kernel"], kernel, control["kernel"], t),
            on_curve(first["bias"], bias, control["bias"], t),
        )


def ends_of(ends, anchor, rate=None):
    theta_1, theta_2, theta_c = map(as_float32, ends)
    return PermutationEnds({"params": theta_1}, {"params": theta_2}, theta_c, as_float32(anchor), rate or {})


def test_the_gradient_of_an_mlp_is_that_of_finite_differences(mlp, key, tiny_task):
    ends, P, anchor, (x, labels), batch = mlp
    settings = {"nu_P": 4.0, "weight_decay": 0.2}
    gradient_at = gradient_of(permutation_fit(tiny_task, bezier(tiny_task.spec), optax.sgd(1.0), **settings))
    for t in (0.3, 0.5, 1.0):
        gradient, measured = gradient_at(ends_of(ends, anchor), as_float32(P), batch, np.float32(t), key)

        def loss(P, t=t):
            proximal = sum(((p - anchor[group]) ** 2).sum() for group, p in P.items())
            return mlp_loss(ends, P, x, labels, t) + proximal / (2 * 4.0) + 0.1 * mlp_square(ends, P, t)

        assert_close(gradient, slopes(loss, P))
        # What is measured is without the proximal and the L2 term.
        np.testing.assert_allclose(measured, mlp_loss(ends, P, x, labels, t), rtol=1e-5)


TRUNK = ("stem", "a_0", "b_0", "a_1", "b_1", "out")


@pytest.fixture(scope="module")
def trunk():
    """Two residual blocks on a trunk of 5 units: x + tanh(x a) b, twice."""
    shapes = dict(zip(TRUNK, [(4, 5), (5, 3), (3, 5), (5, 2), (2, 5), (5, 3)], strict=True))

    def init(key):
        keys = dict(zip(TRUNK, jax.random.split(key, len(TRUNK)), strict=True))
        return {"params": {name: 0.7 * jax.random.normal(keys[name], shape) for name, shape in shapes.items()}}

    def apply(theta, x):
        w = theta["params"]
        x = x @ w["stem"]
        for i in range(2):
            x = x + jnp.tanh(x @ w[f"a_{i}"]) @ w[f"b_{i}"]
        return jnp.tanh(x) @ w["out"]

    return models.from_function(init, apply, jnp.zeros((1, 4)), name="trunk")


def residual_loss(ends, uses, x, labels, t):
    """The cross entropy on the line, every use of the trunk with a matrix of its own."""
    first, second = ends
    w = {}
    for name in TRUNK:
        M = uses[name]
        # The trunk is what stem and b_i produce and what a_i and out read.
        moved = second[name] @ M.T if name[0] in "sb" else M @ second[name]
        if name[0] in "ab":
            B = uses[f"block_{name[2]}"]
            moved = moved @ B.T if name[0] == "a" else B @ moved
        w[name] = (1 - t) * first[name] + t * moved
    x = x @ w["stem"]
    for i in range(2):
        x = x + np.tanh(x @ w[f"a_{i}"]) @ w[f"b_{i}"]
    return cross_entropy(np.tanh(x) @ w["out"], labels).mean()


def test_the_gradient_of_a_trunk_is_the_sum_over_its_uses(trunk, key):
    rng, t = np.random.default_rng(1), 0.6
    sizes = {group: trunk.spec.group_sizes(trunk.init(key))[group] for group in trunk.spec.groups}
    group = next(group for group, n in sizes.items() if n == 5)
    blocks = {f"block_{i}": next(g for g, n in sizes.items() if n == m) for i, m in ((0, 3), (1, 2))}
    assert len(sizes) == 3
    places = [*trunk.spec.producers(group), *trunk.spec.consumers(group)]
    assert sorted(path for path, _ in places) == sorted(f"params/{name}" for name in TRUNK)

    theta = [jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trunk.init(k)) for k in jax.random.split(key)]
    P = {name: soft(rng, n) for name, n in sizes.items()}
    x, labels = rng.normal(size=(20, 4)), np.arange(20) % 3
    theta_1, theta_2 = map(as_float32, theta)
    fixed = PermutationEnds(theta_1, theta_2, trees.scale(0.0, theta_1["params"]), as_float32(P), {})
    batch = (np.float32(x), labels)

    def entropy(theta, batch, key):
        return optax.softmax_cross_entropy_with_integer_labels(trunk.apply(theta, batch[0]), batch[1]).mean()

    fit = permutation_fit(Task(entropy, batch, model=trunk), linear(trunk.spec), optax.sgd(1.0), nu_P=np.inf)
    gradient, _ = gradient_of(fit)(fixed, as_float32(P), batch, t, key)

    ends = tuple(each["params"] for each in theta)

    def loss(uses):
        return residual_loss(ends, uses, x, labels, t)

    uses = {**dict.fromkeys(TRUNK, P[group]), **{name: P[each] for name, each in blocks.items()}}
    separate = slopes(loss, uses)
    one = slopes(lambda P: loss({**uses, **dict.fromkeys(TRUNK, P["trunk"])}), {"trunk": P[group]})["trunk"]
    # No use is idle, and the one matrix feels them all.
    assert all(np.abs(separate[name]).max() > 1e-3 for name in TRUNK)
    np.testing.assert_allclose(sum(separate[name] for name in TRUNK), one, atol=1e-7)
    assert_close(gradient, {group: one, **{each: separate[name] for name, each in blocks.items()}})


def groups_of(rng):
    sizes = {"a": 6, "b": 4, "c": 6, "d": 1, "e": 6}
    P = {group: soft(rng, n) for group, n in sizes.items()}
    gradient = {group: rng.normal(size=(n, n)) for group, n in sizes.items()}
    return as_float32((P, gradient, {"a": 0.1, "b": 0.2, "c": 0.0, "d": 0.5, "e": 0.3}))


@pytest.fixture(scope="module")
def descents():
    """(P, gradient, rate) -> P of both projections, and of bounded steps, compiled."""

    def descent(*given):
        def descend(P, gradient, rate):
            return OntoBirkhoff(*given)(P, trees.scale(-1.0, gradient), PermutationEnds((), (), (), P, rate))

        return jax.jit(descend)

    return {name: descent(name) for name in ("alternating", "sinkhorn")} | {"bounded": descent("alternating", 0.5)}


@jax.jit
def project(P, direction):
    return {group: project_birkhoff(P[group] - direction[group]) for group in P}


@pytest.mark.parametrize("projection", ["alternating", "sinkhorn"])
def test_a_step_stays_doubly_stochastic(descents, projection):
    P, gradient, rate = groups_of(np.random.default_rng(0))
    new = descents[projection](P, gradient, rate)
    assert new.keys() == P.keys()
    for p in new.values():
        for axis in (0, 1):
            np.testing.assert_allclose(np.asarray(p).sum(axis), 1, atol=1e-4)
        assert np.asarray(p).min() > (-0.02 if projection == "alternating" else 0)
    np.testing.assert_allclose(new["c"], P["c"], atol=1e-5)  # its rate is zero
    assert np.vdot(new["a"] - P["a"], gradient["a"]) < -0.1
    assert np.abs(new["e"] - P["e"]).max() > np.abs(new["a"] - P["a"]).max()


def test_a_step_is_the_projection_of_plain_descent(descents):
    P, gradient, rate = groups_of(np.random.default_rng(0))
    gradient = {group: np.float32(0.2) * each for group, each in gradient.items()}
    new = descents["alternating"](P, gradient, rate)
    expected = project(P, {group: rate[group] * gradient[group] for group in P})
    chex.assert_trees_all_close(new, expected, atol=1e-6)


def test_a_bounded_step_is_the_projection_of_tangent_descent(descents):
    """Of a gradient with the same number added everywhere, which plain descent feels: it would rectify more entries."""
    P, gradient, rate = groups_of(np.random.default_rng(0))
    shifted = {group: np.float32(0.2) * (each + 5) for group, each in gradient.items()}
    new, plain = descents["bounded"](P, shifted, rate), descents["alternating"](P, shifted, rate)
    expected = project(P, {group: rate[group] * tangent_part(np.float32(0.2) * gradient[group]) for group in P})
    chex.assert_trees_all_close(new, expected, atol=1e-5)
    assert np.abs(new["a"] - plain["a"]).max() > 1e-3


def test_a_step_in_logarithms_multiplies(descents):
    P, gradient, rate = groups_of(np.random.default_rng(0))
    new = descents["sinkhorn"](P, gradient, rate)
    for group in P:
        X = np.asarray(P[group], np.float64) * np.exp(-np.asarray(rate[group] * gradient[group], np.float64))
        for _ in range(20):
            X = X / X.sum(1, keepdims=True)
            X = X / X.sum(0, keepdims=True)
        np.testing.assert_allclose(new[group], X, rtol=1e-4)


def test_a_steep_point_throws_no_entry_farther_than_a_half(descents):
    P, gradient, rate = groups_of(np.random.default_rng(0))
    huge = {group: np.float32(1e6) * each for group, each in gradient.items()}
    new = descents["bounded"](P, huge, {**rate, "c": np.float32(1)})
    expected = project(P, {group: np.float32(0.5) * np.sign(tangent_part(gradient[group])) for group in P})
    chex.assert_trees_all_close(new, expected, atol=1e-5)


@pytest.mark.parametrize("projection", ["alternating", "sinkhorn"])
def test_a_half_step_starts_at_the_permutation_or_just_inside(tiny_ends, tiny_task, projection):
    rng, curve = np.random.default_rng(0), bezier(tiny_task.spec)
    P = {group: rng.permutation(n).astype(np.int32) for group, n in (("dense_0", 6), ("dense_1", 5))}
    rate = dict.fromkeys(P, np.float32(0.5))
    begun = permutation_fit(tiny_task, curve, optax.sgd(1.0), projection=projection).init(
        *tiny_ends, P, curve.zero(tiny_ends[0]["params"]), rate
    )
    assert begun.fixed.rate == rate
    chex.assert_trees_all_equal(begun.fixed[:2], tiny_ends)
    for group, p in P.items():
        each, n, M = begun.variables[group], len(p), np.eye(len(p), dtype=np.float32)[p]
        np.testing.assert_array_equal(begun.fixed.anchor[group], M)
        if projection == "alternating":
            np.testing.assert_array_equal(each, M)
            continue
        # On the straight line to the matrix of equal entries, some way along.
        share = n * float(each.min())
        assert 0.05 < share < 0.95
        np.testing.assert_allclose(each, (1 - share) * M + share / n, atol=1e-6)
        np.testing.assert_array_equal(nearest_permutation(each), p)


def test_the_rate_falls_to_zero_linearly(mlp, key, tiny_task):
    # Inside the polytope small steps are proportional to the rate.
    ends, *_, batch = mlp
    uniform = as_float32({"dense_0": np.full((6, 6), 1 / 6), "dense_1": np.full((5, 5), 1 / 5)})
    fixed = ends_of(ends, uniform, {"dense_0": np.float32(1e-2), "dense_1": np.float32(2e-2)})
    optimizer = PermutationFitConfig().optimizer(8, 2)
    fit = permutation_fit(tiny_task, bezier(tiny_task.spec), optimizer, nu_P=4.0)
    descent, _ = parts_of(fit)
    begun, step, moved = descent.start(uniform, fixed), jax.jit(fit.step), {}
    for number in (0, 2, 6, 8):
        counted = jax.tree.map(lambda _, number=number: np.int32(number), begun.optimizer)
        state, _ = step(begun._replace(optimizer=counted), batch, key)
        assert [int(count) for count in jax.tree.leaves(state.optimizer)] == [number + 1]
        moved[number] = jax.tree.map(np.subtract, state.variables, uniform)
    for group in uniform:
        assert np.abs(moved[0][group]).max() > 1e-4
        for number, share in ((2, 0.75), (6, 0.25), (8, 0.0)):
            np.testing.assert_allclose(moved[number][group], share * moved[0][group], atol=1e-6)


@pytest.mark.parametrize("projection", ["alternating", "sinkhorn"])
def test_a_step_is_against_the_gradient_at_its_t(mlp, key, tiny_task, projection):
    """The gradient at the t that was drawn, at the rates of the groups, and then the projection."""
    ends, P, anchor, _, batch = mlp
    fixed = ends_of(ends, anchor, {"dense_0": np.float32(0.3), "dense_1": np.float32(0.6)})
    fit = permutation_fit(tiny_task, bezier(tiny_task.spec), optax.sgd(1.0), nu_P=4.0, projection=projection)
    descent, _ = parts_of(fit)
    state, metrics = jax.jit(fit.step)(descent.start(as_float32(P), fixed), batch, key)
    slope, value = gradient_of(fit)(fixed, as_float32(P), batch, metrics["t"], key)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    for group, rate in fixed.rate.items():
        step, p = rate * np.float64(slope[group]), np.float64(P[group])
        if projection == "alternating":
            expected = project_birkhoff(np.float32(p - step))
        else:
            expected = p * np.exp(-step)
            for _ in range(20):
                expected = expected / expected.sum(1, keepdims=True)
                expected = expected / expected.sum(0, keepdims=True)
        np.testing.assert_allclose(state.variables[group], expected, atol=1e-5)
        assert np.abs(state.variables[group] - p).max() > 1e-4


def test_t_is_drawn_anew_for_every_key(mlp, tiny_task):
    # The loss is that of some t in [0, 1], and over keys it is the mean over [0, 1].
    ends, P, anchor, (x, labels), batch = mlp
    fit = permutation_fit(tiny_task, bezier(tiny_task.spec), optax.sgd(1.0), nu_P=4.0)
    descent, _ = parts_of(fit)
    state = descent.start(as_float32(P), ends_of(ends, anchor, dict.fromkeys(P, np.float32(0))))
    keys = jax.random.split(jax.random.key(0), 300)
    measured = jax.jit(jax.vmap(lambda k: fit.step(state, batch, k)[1]["loss"]))(keys)
    along = [mlp_loss(ends, P, x, labels, t) for t in np.linspace(0, 1, 201)]
    assert measured.min() > min(along) - 1e-3
    assert measured.max() < max(along) + 1e-3
    assert np.std(measured) == pytest.approx(np.std(along), rel=0.2)
    assert np.mean(measured) == pytest.approx(np.mean(along), abs=4 * np.std(along) / np.sqrt(300))


def test_bfloat16_is_of_the_network_on_the_curve(mlp, key, tiny_task):
    ends, P, anchor, _, batch = mlp
    fits = [
        permutation_fit(tiny_task, bezier(tiny_task.spec), optax.sgd(1.0), nu_P=4.0, compute_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    ]
    (exact, value), (rough, near) = (
        gradient_of(fit)(ends_of(ends, anchor), as_float32(P), batch, np.float32(0.4), key) for fit in fits
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves((rough, near))} == {"float32"}
    assert 0 < abs(near - value) < 0.02 * value
    for group, each in exact.items():
        assert 0 < np.linalg.norm(rough[group] - each) < 0.1 * np.linalg.norm(each)


def test_what_is_no_task_is_refused(tiny_model):
    with says(InputError, "Model", "mcjax.supervised(model, data)"):
        permutation_fit(tiny_model, bezier(tiny_model.spec), optax.sgd(1.0))


@pytest.mark.parametrize("option", [{"nu_P": 0}, {"largest_step": -1.0}])
def test_constants_are_positive(option, tiny_task, tiny_model):
    with says(InputError, *(f"{name}={value}" for name, value in option.items())):
        permutation_fit(tiny_task, bezier(tiny_model.spec), optax.sgd(1.0), **option)


def test_tangents_keep_the_sums_of_rows_and_columns():
    rng = np.random.default_rng(0)
    G = rng.normal(size=(3, 6, 6)).astype(np.float32)
    T = np.asarray(tangent_part(G))
    np.testing.assert_allclose(T.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(T.mean(-2), 0, atol=1e-6)
    # It is the orthogonal projection: the rest is a number a row plus a number a column.
    rest = (G - T)[0]
    np.testing.assert_allclose(rest - rest[:1] - rest[:, :1] + rest[0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(tangent_part(T), T, atol=1e-6)
    np.testing.assert_allclose(tangent_part(rng.normal(size=(6, 1)) + np.ones((1, 6))), 0, atol=1e-6)
