"""Many networks and many points in one program: the loop over them, in the order that is fast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax.runtime.mapping import over_models, over_points, sequential_is_faster, steps_from_host


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what is fast on the CPU")
@pytest.mark.parametrize(
    ("convolutions", "sequence", "host"), [("none", False, False), ("canonical", True, False), ("plain", True, True)]
)
def test_the_faster_way_on_the_cpu(convolutions, sequence, host):
    assert sequential_is_faster(convolutions) is sequence
    assert steps_from_host(convolutions) is host


@pytest.mark.parametrize("convolutions", ["none", "canonical"])
def test_over_models_is_the_loop(convolutions):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 2, 2)).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
    many = over_models(lambda tree, y: {"z": tree["x"] @ y}, convolutions)
    result = jax.jit(many)({"x": a}, b)
    np.testing.assert_allclose(result["z"], np.einsum("mij,mj->mi", a, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("convolutions", ["none", "canonical"])
@pytest.mark.parametrize("chunk", [None, 1, 3, 20])
def test_over_points_is_the_loop(convolutions, chunk):
    ts = np.linspace(0, 1, 17).astype(np.float32)
    result = jax.jit(lambda ts: over_points(lambda t: (t**2, jnp.sin(t)), ts, convolutions, chunk))(ts)
    np.testing.assert_allclose(result, (ts**2, np.sin(ts)), rtol=1e-5)
