"""Maps between layers: the layers after a point give the outputs; spectral norms against dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import drawn

from mcjax import models
from mcjax.landscape.interlayer_maps import InterlayerMaps, spectral_norms


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", (4, 4, 1), {"widths": (6, 5)}),
        ("tinysix", (8, 8, 1), {"width": 0.25}),
        pytest.param("filters_convnet", (2, 2, 1), {"width": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_the_cut_network_is_the_network(name, shape, options):
    model = models.create(name, 3, shape, **options)
    theta = jax.tree.map(np.float32, drawn(model))
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    maps = InterlayerMaps(model, theta)

    @jax.jit
    def whole(theta, image):
        return model.apply(theta, image[None]), model.activations(theta, image[None])

    @jax.jit
    def cut(theta, image):
        here = maps.preactivations(theta, image)
        onward = [maps.maps_from(theta, image, i)(here[i - 1]) for i in range(1, len(here))]
        return here, onward, maps.homogeneity_errors(theta, image, here)

    (outputs, active), (here, onward, errors) = whole(theta, image), cut(theta, image)
    np.testing.assert_allclose(here[-1], outputs, rtol=1e-4, atol=1e-4 * np.abs(outputs).max())
    for group, before in zip(maps.chain.groups, here, strict=False):
        want = active[group][0]
        np.testing.assert_allclose(np.maximum(before, 0), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    for i, passed in enumerate(onward, 1):
        for there, want in zip(passed, here[i:], strict=True):
            np.testing.assert_allclose(there, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    assert np.asarray(errors).max() < 1e-5


def test_spectral_norms_against_svd(key):
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(m, 12)).astype(np.float32) for m in (7, 3, 1)]

    def several(x):
        return tuple(jnp.tanh(matrix @ x.reshape(-1)).reshape(1, -1) for matrix in matrices)

    x = 0.1 * rng.normal(size=(1, 3, 4)).astype(np.float32)
    found = jax.jit(lambda iterations: spectral_norms(several, x, key, iterations))
    norms, moved = found(100)
    for k, matrix in enumerate(np.float64(each) for each in matrices):
        dense = (1 - np.tanh(matrix @ x.ravel()) ** 2)[:, None] * matrix
        np.testing.assert_allclose(norms[k], np.linalg.norm(dense, 2), rtol=1e-4)
        np.testing.assert_allclose(moved[k][0], dense @ x.ravel(), rtol=1e-3, atol=1e-5)
    # From below, and closer with every iteration.
    fewer = [np.asarray(found(n)[0]) for n in (1, 4, 16)]
    assert (np.diff([*fewer, np.asarray(norms)], axis=0) > -1e-5).all()


def test_a_jacobian_of_zero(key):
    norms, _ = jax.jit(lambda x: spectral_norms(lambda x: (0 * x, x), x, key, 5))(np.ones(3, np.float32))
    np.testing.assert_allclose(norms, [0, 1], atol=1e-6)
