"""Every registered model: its contract, and errors for wrong names."""

import hashlib
import os
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from variables import order, permuted

from mcjax import InputError, bezier, models, trees

# Those of a kind that has a smaller one.
SLOW = {"tinyten", "vgg11", "vgg16", "googlenet", "resnet32", "cifar_convnet"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in models.REGISTRY]
DEEP = {*SLOW, "resnet20"}
PLAIN = ("mlp", "mnist_convnet", "cifar_convnet", "filters_convnet", "lstm")  # without batch norm


@cache
def created(name, **options):
    width = 0.05 if name.startswith("vgg") else 0.1 if name.endswith("convnet") else 0.03 if name == "lstm" else 0.25
    small = {"widths": (8, 6)} if name == "mlp" else {"width": width}
    shape = {"lstm": (6,)}.get(name, (32, 32, 3) if name.startswith("vgg") else (10, 9, 3))
    return models.create(name, 3, shape, **small, **options)


def inputs(model, n):
    rng = np.random.default_rng(1)
    if model.input_dtype == "int32":
        return rng.integers(0, model.num_classes, (n, *model.input_shape))
    return rng.normal(size=(n, *model.input_shape))


def anywhere(model, seed=0):
    # No leaf at a value that is special: also biases and batch statistics are drawn.
    rng = np.random.default_rng(seed)

    def draw(name, leaf):
        if name.endswith(("kernel", "recurrent", "embedding")):
            return rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        positive = name.endswith(("var", "scale"))
        return rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(size=leaf.shape)

    return trees.map_with_name(draw, jax.eval_shape(model.init, jax.random.key(0)))


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(np.asarray(a)).max())


@pytest.mark.parametrize("name", NAMES)
def test_the_function_is_unchanged_under_permutations(name):
    model = created(name)
    theta, x = anywhere(model), inputs(model, 3)
    sizes = model.spec.group_sizes(theta)
    P = order(model.spec, theta, 2)
    moved = permuted(model.spec, P, theta)

    @jax.jit
    def function(theta):
        key = jax.random.key(0)
        return model.apply(theta, x), model.activations(theta, x), model.apply_train(theta, x, key)

    with jax.enable_x64(True):
        # As numpy, so that no float64 of jax is left outside.
        one, other = (jax.tree.map(np.asarray, function(each)) for each in (theta, moved))
    outputs, activations, (train_outputs, train_stats) = one
    outputs_moved, activations_moved, (train_outputs_moved, train_stats_moved) = other
    # The statistics of a batch lie as those of theta do.
    train_stats = trees.batch_stats(permuted(model.spec, P, trees.with_batch_stats(theta, train_stats)))
    changed = [(a != b).any() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(theta), strict=True)]
    assert sum(changed) > len(changed) / 2
    assert outputs.dtype == np.float64
    assert_close(outputs, outputs_moved)
    assert activations.keys() == activations_moved.keys() == sizes.keys()
    for group, arrays in activations.items():
        for before, after in zip(arrays, activations_moved[group], strict=True):
            assert before.shape[0] == 3
            assert before.shape[-1] == sizes[group]
            if name != "lstm":
                assert np.min(before) >= 0 < np.max(before)  # relu has been applied
            assert_close(before[..., P[group]], after)
    if not name.startswith(("vgg", "google", "mnist")):  # dropout draws by position
        assert_close(train_outputs, train_outputs_moved)
    jax.tree.map(assert_close, train_stats, train_stats_moved)


@pytest.mark.parametrize("name", models.REGISTRY)
def test_the_fields_of_a_model(name, key):
    model = created(name)
    theta = jax.eval_shape(model.init, key)
    model.spec.validate(theta)
    assert (model.name, model.num_classes) == (name, 3)
    assert hash(model) == hash(created(name))
    assert theta.keys() == ({"params"} if name in PLAIN else {"params", "batch_stats"})
    x = jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype)
    outputs, stats = jax.eval_shape(model.apply_train, theta, x, key)
    places = model.input_shape if name == "lstm" else ()
    assert outputs.shape == jax.eval_shape(model.apply, theta, x).shape == (2, *places, 3)
    assert trees.shapes(stats) == trees.shapes(trees.batch_stats(theta))
    # Units are made by a kernel, and read by another.
    for group in model.spec.groups:
        for places in (model.spec.producers(group), model.spec.consumers(group)):
            assert any(leaf.endswith(("kernel", "embedding")) for leaf, _ in places)


@pytest.mark.parametrize("name", ["mlp", "tinysix"])
def test_the_activation_can_be_chosen(name):
    model = created(name, activation="tanh")
    x = np.float32(inputs(model, 4))
    arrays = jax.tree.leaves(jax.jit(model.activations)(anywhere(model), x))
    assert all(-1 <= array.min() < 0 < array.max() <= 1 for array in map(np.asarray, arrays))


def test_the_same_arguments_give_the_same_model():
    model = models.create("mlp", 3, (8, 8, 1), widths=[6, 5], activation="relu")
    assert models.create("mlp", 3, [8, 8, 1], activation="relu", widths=(6, 5)) is model
    assert models.create("mlp", 4, (8, 8, 1), widths=(6, 5), activation="relu") is not model


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        (("tinysx",), {}, ("'tinysx'", "Did you mean 'tinysix'")),
        (("resnet",), {}, ("'resnet'", "Did you mean 'resnet")),
        (("tinysix",), {"widht": 2}, ("tinysix", "'widht'", "Did you mean 'width'")),
        (("tinysix",), {"widths": (3,)}, ("tinysix", "'widths'", "activation, width")),
        (("tinysix",), {"activation": "rleu"}, ("'rleu'", "Did you mean 'relu'")),
        (("tinysix",), {"width": 0}, ("width=0",)),
        (("tinysix",), {"width": -0.5}, ("width=-0.5",)),
        (("tinysix", 0), {}, ("num_classes=0",)),
        (("mlp", 10, (8, 0, 3)), {}, ("input_shape=0",)),
        (("resnet20", 10, (-1, 8, 3)), {}, ("input_shape=-1",)),
        (("resnet20", 10, (32, 32)), {}, ("input_shape=(32, 32)",)),
        (("resnet20", 10, (3,)), {}, ("input_shape=(3,)",)),
    ],
)
def test_bad_names_and_arguments_are_refused(args, options, words):
    with says(InputError, *words):
        models.create(*args, **options)


@pytest.mark.parametrize("name", models.REGISTRY)
def test_images_of_another_shape_are_refused(name, key):
    model, x = created(name), np.zeros((2, 5, 5, 1), np.float32)
    for call, more in ((model.apply, ()), (model.apply_train, (key,)), (model.activations, ())):
        with says(InputError, name, "(2, 5, 5, 1)", str(model.input_shape)):
            call({}, x, *more)


DIGEST = """
import hashlib, jax, numpy as np
from mcjax import models, random_permutation, trees
model = models.create("mlp", 3, (4, 4, 1), widths=(6, 5))
theta = jax.jit(model.init)(jax.random.key(7))
P = random_permutation(jax.random.key(8), model.spec, theta)
digest = hashlib.sha256()
for name, leaf in sorted((trees.flatten(theta) | P).items()):
    digest.update(name.encode() + np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_another_process(capsys):
    exec(DIGEST, {})
    here = capsys.readouterr().out.split()
    run = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env={**os.environ, "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert len(here[0]) == hashlib.sha256().digest_size * 2
    assert run.stdout.split() == here


# The larger ones take up to minutes to compile, and have no layer that others do not have.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP))
        for name in models.REGISTRY
        if name not in ("googlenet", "resnet32", "vgg16")
    ],
)
def test_derivatives_of_every_mode_are_finite_differences(name):
    """Along a curve of the parameters, in float64: forward, reverse, and forward over reverse, in compiled programs."""
    model = created(name, activation="tanh") if name != "lstm" else created(name)
    with jax.enable_x64(True):
        x = inputs(model, 2)
        theta_1, theta_2 = (jax.tree.map(np.float64, anywhere(model, seed)) for seed in (3, 4))
        weights = np.random.default_rng(5).normal(size=jax.eval_shape(model.apply, theta_1, x).shape)
        path = bezier(model.spec).bind(theta_1, theta_2)

        def loss(theta):
            return jnp.sum(weights * jnp.sin(model.apply(theta, x)))

        @jax.jit
        def derivatives(t):
            outputs = jax.jacfwd(lambda t: model.apply(path(t), x))(t)
            theta, direction = jax.jvp(path, (t,), (1.0,))
            forward = jax.jvp(loss, (theta,), (direction,))[1]
            # The derivative along the curve of the derivative along the curve, by forward over reverse.
            gradient, change = jax.jvp(jax.grad(loss), (theta,), (direction,))
            return outputs, forward, trees.dot(gradient, direction), trees.dot(change, direction)

        @jax.jit
        def values(t):
            theta, direction = jax.jvp(path, (t,), (1.0,))
            return model.apply(theta, x), loss(theta), theta, direction

        t, step = 0.4, 1e-5
        outputs, forward, reverse, second = derivatives(t)
        (up, above, *_), (down, below, *_) = values(t + step), values(t - step)
        _, _, theta, direction = values(t)
        around = [trees.add(theta, trees.scale(way * step, direction)) for way in (1, -1)]
        slopes = [(loss(moved) - loss(theta)) / step for moved in around]
        assert_near(outputs, (up - down) / (2 * step), 1e-6)
        assert_near(forward, (above - below) / (2 * step), 1e-6)
        assert_near(reverse, forward, 1e-9)
        assert_near(second, (slopes[0] + slopes[1]) / step, 1e-3)


def assert_near(a, b, share):
    np.testing.assert_allclose(a, b, rtol=0, atol=share * max(1, np.abs(np.asarray(b)).max()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_programs_for_other_platforms_have_no_form_of_the_cpu(name, platform):
    """Convolutions and their gradients are lowered by JAX's own rule, one of each, and nothing is held in place."""
    model = created(name)
    theta, x = jax.eval_shape(model.init, jax.random.key(0)), inputs(model, 2)

    def program(theta, x, key):
        outputs, stats = model.apply_train(theta, x, key)
        return jnp.sum(outputs**2), stats

    traced = jax.jit(jax.value_and_grad(program, has_aux=True, allow_int=True)).trace(theta, x, jax.random.key(0))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "optimization_barrier" not in text
    assert text.count("stablehlo.convolution") == str(traced.jaxpr).count("conv_general_dilated[")
    if name not in ("mlp", "lstm"):
        assert "stablehlo.convolution" in text
        assert "optimization_barrier" in traced.lower(lowering_platforms=("cpu",)).as_text()
