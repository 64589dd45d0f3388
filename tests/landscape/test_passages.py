"""Networks cut open: passing on from a layer is the network itself; spectral norms against dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import drawn

from mcjax import models
from mcjax.landscape.passages import Passages, spectral_norms


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (4, 4, 1)), ("tinysix", (8, 8, 1)), ("filters_convnet", (2, 2, 1))]
)
def test_the_cut_network_is_the_network(name, shape):
    options = {"widths": (6, 5)} if name == "mlp" else {"width": 0.25 if name == "tinysix" else 0.1}
    model = models.create(name, 3, shape, **options)
    theta = jax.tree.map(np.float32, drawn(model))
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    passages = Passages(model, theta)
    here, outputs = passages.preactivations(theta, image), model.apply(theta, image[None])
    np.testing.assert_allclose(here[-1], outputs, rtol=1e-4, atol=1e-4 * np.abs(outputs).max())
    active = model.activations(theta, image[None])
    for group, before in zip(passages.chained.groups, here, strict=False):
        want = active[group][0]
        np.testing.assert_allclose(jax.nn.relu(before), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    for i in range(1, len(here)):
        for there, want in zip(passages.onward(theta, image, i)(here[i - 1]), here[i:], strict=True):
            np.testing.assert_allclose(there, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    assert np.asarray(passages.curved(theta, image, here)).max() < 1e-5


def test_spectral_norms_against_svd(key):
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(m, 12)).astype(np.float32) for m in (7, 3, 1)]

    def passed(x):
        return tuple(jnp.tanh(matrix @ x.reshape(-1)).reshape(1, -1) for matrix in matrices)

    x = 0.1 * rng.normal(size=(1, 3, 4)).astype(np.float32)
    norms, moved = spectral_norms(passed, x, key, 100)
    for k, jacobian in enumerate(jax.jacobian(passed)(x)):
        dense = np.asarray(jacobian).reshape(-1, 12)
        np.testing.assert_allclose(norms[k], np.linalg.norm(dense, 2), rtol=1e-4)
        np.testing.assert_allclose(moved[k][0], dense @ x.ravel(), rtol=1e-3, atol=1e-5)
    # From below, and closer with every iteration.
    fewer = [np.asarray(spectral_norms(passed, x, key, n)[0]) for n in (1, 4, 16)]
    assert (np.diff([*fewer, np.asarray(norms)], axis=0) > -1e-5).all()


def test_a_jacobian_of_zero(key):
    norms, _ = spectral_norms(lambda x: (0 * x, x), jnp.ones(3), key, 5)
    np.testing.assert_allclose(norms, [0, 1], atol=1e-6)
