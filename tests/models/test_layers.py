"""The layers against numpy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from scipy.signal import correlate
from scipy.special import expit
from variables import alive, mlp

from mcjax import InputError, models
from mcjax.models.layers import ACTIVATIONS, BatchNorm, Conv, activation, along_last, huberized_relu, scaled


def huberized(x, delta=0.1):
    return np.where(x <= 0, 0, np.where(x <= delta, x**2 / (2 * delta), x - delta / 2))


CLOSED_FORMS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * expit(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "tanh": np.tanh,
    "sigmoid": expit,
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "huberized_relu": huberized,
    "linear": lambda x: x,
}


def test_activations():
    x = np.linspace(-4, 4, 33).astype(np.float32)
    values = jax.jit(lambda x: {name: activation(name)(x) for name in ACTIVATIONS})(x)
    assert values.keys() == CLOSED_FORMS.keys()
    for name, form in CLOSED_FORMS.items():
        np.testing.assert_allclose(values[name], form(x), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("name", "delta"), [("huberized_relu(0.05)", 0.05), ("huberized_relu(2)", 2.0)])
def test_huberized_relu_with_a_delta(name, delta):
    x = np.concatenate([np.linspace(-1, 3, 81), [0, delta, np.nextafter(delta, 0), 1e3]]).astype(np.float32)
    y = np.asarray(jax.jit(activation(name))(x))
    np.testing.assert_allclose(y, huberized(x, delta), rtol=1e-5, atol=1e-6)
    assert y[81] == 0
    np.testing.assert_allclose(y[82], delta / 2, rtol=1e-6)
    # Never above ReLU, and never farther below than delta / 2, which it is from delta on.
    below = np.maximum(x, 0) - y
    assert below.min() >= 0
    assert below[:-1].max() == pytest.approx(delta / 2, rel=1e-5)


def test_the_derivative_of_huberized_relu_is_a_ramp():
    slopes = jax.jit(jax.vmap(jax.grad(huberized_relu), (0, None)))
    for delta in (0.05, 0.1, 1.0):
        x = np.concatenate([np.linspace(-0.5, 1.5, 101), [-1e-6, 0, 1e-6, delta - 1e-6, delta, delta + 1e-6]])
        # Continuous at 0 and at delta too, where a ReLU jumps.
        np.testing.assert_allclose(slopes(x.astype(np.float32), delta), np.clip(x / delta, 0, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((f"huberized_relu({delta})", (f"delta={delta} ",)) for delta in ("0", "-0.1", "nan", "inf", "-inf")),
        *((f"huberized_relu({delta})", (f"delta={delta} ",)) for delta in ("wide", "0,1", " ", "1e-400")),
        *((name, (f"'{name}'",)) for name in ("huberized_relu()", "huberized_relu(0.1", "huberized_relu((1))")),
        ("relu(0.1)", ("'relu(0.1)'",)),
        ("relo", ("'relo'", "Did you mean 'relu'")),
        ("ReLU", ("'ReLU'", "Did you mean 'relu'")),
        ("soft_plus", ("'soft_plus'", "Did you mean 'softplus'")),
    ],
)
def test_unknown_activations_are_refused(name, words):
    with says(InputError, *words):
        activation(name)


def test_a_network_with_a_huberized_relu():
    model = models.create("mlp", 3, (4, 4, 1), activation="huberized_relu(0.2)", widths=(7,))
    theta, x = alive(model), np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    hidden, expected = mlp(theta, x, lambda x: huberized(x, 0.2))
    outputs, activations = jax.jit(lambda: (model.apply(theta, x), model.activations(theta, x)))()
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(activations["dense_0"][0], hidden, rtol=1e-4, atol=1e-5)
    assert np.abs(mlp(theta, x)[-1] - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("channels", "width", "result"), [(16, 1.0, 16), (16, 0.25, 4), (16, 0.01, 1), (5, 0.3, 2), (6, 2, 12)]
)
def test_scaled(channels, width, result):
    assert scaled(channels, width) == result


@pytest.mark.parametrize("ndim", [1, 2, 4])
def test_along_last(ndim):
    shape = (1,) * (ndim - 1) + (3,)
    assert jax.eval_shape(lambda x: along_last(x, ndim), np.arange(3)).shape == shape


@pytest.mark.parametrize(
    ("size", "stride", "padding", "use_bias"), [(3, 1, 1, True), (3, 2, 1, False), (1, 2, 0, True), (5, 1, 0, True)]
)
def test_conv_is_correlation(size, stride, padding, use_bias):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 6, 3)).astype(np.float32)
    layer = Conv(4, size, stride, padding, use_bias)
    params = {
        name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in abstract(layer, x)["params"].items()
    }
    assert params.keys() == ({"kernel", "bias"} if use_bias else {"kernel"})
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Mode valid leaves the channel axis with length 1.
    maps = [
        np.stack([correlate(image, params["kernel"][..., d], "valid")[::stride, ::stride, 0] for d in range(4)], -1)
        for image in padded
    ]
    expected = np.stack(maps) + params.get("bias", 0)
    got = jax.jit(lambda: layer.apply({"params": params}, x))()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def abstract(layer, x, *args):
    return jax.eval_shape(lambda: layer.init(jax.random.key(0), x, *args))


@pytest.mark.parametrize("shape", [(50, 3), (4, 5, 6, 3)])
def test_batch_norm(shape):
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=shape) + 2).astype(np.float32)
    params = {"scale": rng.normal(size=3).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    stats = {"mean": rng.normal(size=3).astype(np.float32), "var": rng.random(3).astype(np.float32) + 0.5}
    axes = tuple(range(x.ndim - 1))

    def normalised(mean, var):
        return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    def run(train):
        return jax.jit(lambda v: BatchNorm().apply(v, x, train, mutable=["batch_stats"]))(
            {"params": params, "batch_stats": stats}
        )

    outputs, updates = run(train=True)
    np.testing.assert_allclose(outputs, normalised(x.mean(axes), x.var(axes)), rtol=1e-3, atol=1e-4)
    # The batch's own statistics, mixed with nothing.
    np.testing.assert_allclose(updates["batch_stats"]["mean"], x.mean(axes), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], x.var(axes), rtol=1e-4)
    outputs, updates = run(train=False)
    np.testing.assert_allclose(outputs, normalised(stats["mean"], stats["var"]), rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, updates.get("batch_stats", stats), stats)


def test_batch_norm_begins_at_the_standard():
    theta = jax.jit(lambda key: BatchNorm().init(key, np.ones((2, 3), np.float32), True))(jax.random.key(0))
    for leaves in ({"params/scale": 1, "batch_stats/var": 1}, {"params/bias": 0, "batch_stats/mean": 0}):
        for name, value in leaves.items():
            collection, leaf = name.split("/")
            np.testing.assert_array_equal(theta[collection][leaf], np.full(3, value))


def test_batch_norm_computes_bfloat16_statistics_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 2)) + 10, jnp.bfloat16)
    one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
    variables = {"params": {"scale": one, "bias": zero}, "batch_stats": {"mean": zero, "var": one}}
    outputs, updates = jax.jit(lambda x: BatchNorm().apply(variables, x, True, mutable=["batch_stats"]))(x)
    exact = np.asarray(x.astype(np.float32), np.float64)
    assert outputs.dtype == jnp.bfloat16
    assert updates["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(updates["batch_stats"]["mean"], exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact.var(0), rtol=1e-3)


def test_a_channel_that_never_varies_has_no_variance_below_zero():
    """Far from zero, where what rounding leaves of the squares may be negative."""
    x = np.tile(np.linspace(10, 3e4, 300, dtype=np.float32), (50, 1))
    params = {"scale": np.ones(300, np.float32), "bias": np.zeros(300, np.float32)}
    stats = {"mean": np.zeros(300, np.float32), "var": np.ones(300, np.float32)}
    variables = {"params": params, "batch_stats": stats}
    outputs, updates = jax.jit(lambda x: BatchNorm().apply(variables, x, True, mutable=["batch_stats"]))(x)
    assert np.isfinite(outputs).all()
    assert (updates["batch_stats"]["var"] >= 0).all()
