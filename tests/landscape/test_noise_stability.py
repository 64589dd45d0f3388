"""Noise stability against matrices written out, and what it is invariant to."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from variables import drawn, order, permuted

from mcjax import InputError, Task, data, models, supervised
from mcjax.constructions.chain import chain_of
from mcjax.constructions.dropout import random_factors
from mcjax.landscape.noise_stability import noise_stability

MLP = models.create("mlp", 3, (8, 8, 1), widths=(11, 10, 9), bias=False)
IMAGES = 5
OPTIONS = {"examples": IMAGES, "draws": 3, "ts": 4, "iterations": 200, "fraction": 0.4}


def matrices(theta):
    return [np.asarray(theta["params"][f"Dense_{i}"]["kernel"], np.float64).T for i in range(4)]


def forward(weights, x):
    """x^1, ..., x^d of one image."""
    found = [weights[0] @ x]
    for W in weights[1:]:
        found.append(W @ np.maximum(found[-1], 0))
    return found


def onward(weights, i, j, z):
    """M^{i, j}, layers from 1."""
    for W in weights[i:j]:
        z = W @ np.maximum(z, 0)
    return z


def jacobian(weights, i, j, z):
    J = np.eye(len(z))
    for W in weights[i:j]:
        J = W @ np.diag(z > 0) @ J
        z = W @ np.maximum(z, 0)
    return J


@pytest.fixture(scope="module")
def measured(tiny_data):
    theta = jax.tree.map(np.float32, drawn(MLP))
    found = noise_stability(jax.random.key(3), supervised(MLP, tiny_data), theta, **OPTIONS)
    x = (tiny_data.train_images[:IMAGES] / 255.0 - np.asarray(tiny_data.mean)) / np.asarray(tiny_data.std)
    return theta, found, x.reshape(IMAGES, -1)


def test_cushions_and_contraction_against_matrices(measured):
    theta, found, images = measured
    weights = matrices(theta)
    for n, x in enumerate(images):
        here = forward(weights, x)
        read = [x, *(np.maximum(z, 0) for z in here[:-1])]
        for i in range(4):
            norms = np.linalg.norm(weights[i]) * np.linalg.norm(read[i])
            np.testing.assert_allclose(found.layer_cushion[i, n], np.linalg.norm(here[i]) / norms, rtol=1e-4)
            for j in range(i, 4):
                J = jacobian(weights, i + 1, j + 1, here[i])
                want = np.linalg.norm(J @ here[i]) / (np.linalg.norm(J, 2) * np.linalg.norm(here[i]))
                np.testing.assert_allclose(found.interlayer_cushion[i, j, n], want, rtol=1e-3)
        for i in range(3):
            phi = read[i + 1]
            np.testing.assert_allclose(
                found.contraction[i, n], np.linalg.norm(here[i]) / np.linalg.norm(phi), rtol=1e-4
            )
        np.testing.assert_allclose(found.output_norm[n], np.linalg.norm(here[-1]), rtol=1e-4)
    assert np.isnan(found.interlayer_cushion[2, 1]).all()


def test_smoothness_and_spread_against_matrices(measured):
    theta, found, images = measured
    weights = matrices(theta)
    for draw, key in enumerate(jax.random.split(jax.random.key(3), 4)[1:]):
        thrown = [np.asarray(each, np.float64) for each in random_factors(key, chain_of(MLP), 0.4).values()]
        for n, x in enumerate(images):
            exact = forward(weights, x)
            for i in range(2, 5):
                noisy = []
                for dropped in (i, i - 1):
                    for t in np.linspace(0, 1, 4):
                        mixed = [
                            W * (t + (1 - t) * thrown[k - 2]) if 2 <= k <= dropped else W
                            for k, W in enumerate(weights, 1)
                        ]
                        noisy.append(forward(mixed, x)[i - 1])
                if i < 4:
                    phi = np.maximum(noisy[:4], 0)
                    want = (len(phi[0]) ** 0.5 * phi.max(1) / np.linalg.norm(phi, axis=1)).max()
                    np.testing.assert_allclose(found.spread[draw, i - 1, n], want, rtol=1e-4)
                for j in range(i, 5):
                    J, here = jacobian(weights, i, j, exact[i - 1]), exact[i - 1]
                    allowed = np.inf
                    for z in noisy:
                        error = np.linalg.norm(onward(weights, i, j, z) - J @ z)
                        if error > 1e-6 * np.linalg.norm(exact[j - 1]):
                            noise = np.linalg.norm(z - here) / np.linalg.norm(here)
                            allowed = min(allowed, noise * np.linalg.norm(exact[j - 1]) / error)
                    np.testing.assert_allclose(found.smoothness[draw, i - 1, j - 1, n], allowed, rtol=1e-3)
    assert np.isnan(found.smoothness[:, 0]).all()


def test_epsilon_is_that_of_definition_4(measured):
    _, found, _ = measured
    cushions = found.layer_cushion.min(1)
    least = [np.nanmin(found.interlayer_cushion[i]) for i in range(4)]
    np.testing.assert_allclose(found.minimal_interlayer_cushion, least)
    want = 2**0.5 * found.contraction.max() * 4**1.5 * found.output_norm.max()
    want /= 3 * min(cushions[i] * least[i] for i in (1, 2, 3))
    np.testing.assert_allclose(found.epsilon(), want, rtol=1e-5)
    np.testing.assert_allclose(found.epsilon(lipschitz=1.0), want / 2**0.5, rtol=1e-5)
    # Of three draws two have to allow rho.
    each = sorted(np.nan_to_num(found.smoothness, nan=np.inf).min((1, 2, 3)))
    assert found.rho == each[1]
    # And two of four: the larger half.
    four = found._replace(smoothness=np.concatenate([found.smoothness, found.smoothness[:1] * 3]))
    each = sorted(np.nan_to_num(four.smoothness, nan=np.inf).min((1, 2, 3)))
    assert each[1] < each[2]
    assert four.rho == each[2]
    assert found.smooth_enough == (found.rho >= 12)


def assert_same(a, b, rtol=2e-3):
    for name in ("layer_cushion", "contraction", "interlayer_cushion", "smoothness", "spread"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, err_msg=name)


class Pooled(nn.Module):
    """A convolution with batch norm, pooled and flattened, and a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(3)(nn.relu(nn.Dense(5)(x)))


def test_what_is_read_is_pooled(key):
    """A 1 x 1 convolution is a matrix for every pixel; the layer above reads the largest of four pixels."""

    class Pixels(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.max_pool(nn.relu(nn.Conv(5, (1, 1), use_bias=False)(x)), (2, 2), (2, 2))
            return nn.Dense(3, use_bias=False)(x.reshape(len(x), -1))

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (3, 4, 4, 2), np.uint8), np.arange(3)
    model = models.from_flax(Pixels(), jax.ShapeDtypeStruct((2, 4, 4, 2), np.float32), name="pixels")
    task = supervised(model, data.from_arrays(pixels, labels, pixels, labels))
    theta = jax.tree.map(np.float32, drawn(model))
    found = noise_stability(key, task, theta, examples=3, draws=1, ts=2)
    x = np.asarray(task.model_inputs(task.train), np.float64) @ theta["params"]["Conv_0"]["kernel"][0, 0]
    phi = np.maximum(x, 0).reshape(3, 2, 2, 2, 2, 5).max((2, 4))
    norms = [np.linalg.norm(each.reshape(3, -1), axis=1) for each in (x, phi)]
    np.testing.assert_allclose(found.contraction[0], norms[0] / norms[1], rtol=1e-4)
    # Nothing is dropped below layer 1.
    np.testing.assert_allclose(found.spread[0, 0], 20**0.5 * phi.max((1, 2, 3)) / norms[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("pooled", None),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("filters_convnet", None), ("tinysix", (3,)))),
    ],
)
def test_permuting_units_changes_nothing(name, layers, tiny_data, key):
    if name == "pooled":
        model = models.from_flax(Pooled(), jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32), name=name)
    else:
        model = models.create(name, 3, (8, 8, 1), width=0.15 if name == "filters_convnet" else 0.3)
    theta = jax.tree.map(np.float32, drawn(model))
    moved = permuted(model.spec, order(model.spec, theta), theta)
    options = {"examples": 4, "draws": 1, "ts": 2, "iterations": 400, "layers": layers}
    before, after = (noise_stability(key, supervised(model, tiny_data), each, **options) for each in (theta, moved))
    for quantity in ("layer_cushion", "contraction", "interlayer_cushion", "output_norm"):
        np.testing.assert_allclose(getattr(after, quantity), getattr(before, quantity), rtol=5e-3, err_msg=quantity)
    np.testing.assert_allclose(after.epsilon(), before.epsilon(), rtol=1e-2)


def test_scaling_whole_layers_changes_nothing(measured, tiny_data):
    theta, found, _ = measured
    scaled = {
        "params": {
            f"Dense_{i}": {"kernel": c * theta["params"][f"Dense_{i}"]["kernel"]} for i, c in enumerate((2, 0.5, 3, 1))
        }
    }
    again = noise_stability(jax.random.key(3), supervised(MLP, tiny_data), scaled, **OPTIONS)
    assert_same(found, again)
    np.testing.assert_allclose(again.output_norm, 3 * found.output_norm, rtol=1e-4)


def test_layers_that_are_asked_for(measured, tiny_data):
    theta, found, _ = measured
    some = noise_stability(jax.random.key(3), supervised(MLP, tiny_data), theta, **OPTIONS, layers=(2,))
    np.testing.assert_allclose(some.interlayer_cushion[1], found.interlayer_cushion[1], rtol=1e-4)
    assert np.isnan(some.interlayer_cushion[[0, 2, 3]]).all()
    assert np.isnan(some.smoothness[:, [0, 2, 3]]).all()
    assert np.isnan(some.epsilon())
    assert np.isnan(some.rho)
    assert not some.smooth_enough
    assert "of 4 layers on 5 examples" in repr(some)
    assert np.isnan(some.minimal_interlayer_cushion[[0, 2, 3]]).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"examples": 0}, "examples=0, .* 1 to 120"),
        ({"examples": 500}, "examples=500, .* 1 to 120"),
        ({"draws": 0}, "draws=0, .* 1"),
        ({"ts": 1}, "ts=1, .* 2"),
        ({"layers": (0,)}, r"layers=\(0,\), .* 1 to 4"),
        ({"layers": 3}, "layers=3, .* 1 to 4"),
        ({"examples": 2.5}, "examples=2.5"),
        ({"chunk": None}, "chunk=None"),
        ({"fraction": 1.0}, "fraction=1.0"),
    ],
)
def test_options_that_are_refused(options, named, tiny_data, key):
    with pytest.raises(InputError, match=named):
        noise_stability(key, supervised(MLP, tiny_data), jax.tree.map(np.float32, drawn(MLP)), **options)


class Skipping(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(len(x), -1)
        hidden = nn.relu(nn.Dense(5)(x))
        return nn.Dense(3)(hidden) + nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: models.create("mlp", 3, (8, 8, 1), widths=(4,), activation="tanh"), "'dense_0'"),
        (lambda: models.create("resnet20", 3, (8, 8, 1), width=0.25), "resnet20"),
        (
            lambda: models.from_flax(Skipping(), jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32), name="skipping"),
            "skipping: .*outputs are not a linear map",
        ),
    ],
    ids=["not homogeneous", "residual", "skip to the outputs"],
)
def test_models_that_are_refused(make, named, tiny_data, key):
    model = make()
    theta = jax.tree.map(np.float32, drawn(model))
    with pytest.raises(InputError, match=named):
        noise_stability(key, supervised(model, tiny_data), theta, examples=2, draws=1, ts=2, iterations=2)
    with pytest.raises(InputError, match="several networks"):
        noise_stability(key, supervised(MLP, tiny_data), jax.tree.map(lambda leaf: np.float32(leaf[None]), drawn(MLP)))
    alone = Task(lambda theta, batch, key: theta.sum(), tiny_data.train_images, name="a loss alone")
    with pytest.raises(InputError, match="a loss alone has no model"):
        noise_stability(key, alone, np.zeros(3, np.float32))
