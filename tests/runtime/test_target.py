"""The platform that programs are compiled for: the given one, that of a mesh, or that of JAX's device."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from modules.convolutions import lowered, lowering_of_jax
from refusals import says

from mcjax import InputError, models, supervised
from mcjax.runtime.compiling import compiler_options, jit
from mcjax.runtime.mapping import over_models
from mcjax.runtime.target import compiling_for, lowering_platforms, on_mesh_of, target
from mcjax.training import loop, measure, totals
from mcjax.training.endpoints import endpoint_fit

HERE = jax.devices()[0].platform


class Device:
    """A device of another kind."""

    def __init__(self, platform):
        self.platform = platform


class Config:
    def __init__(self, device):
        self.jax_default_device = device


def test_by_default_it_is_that_of_jax(monkeypatch):
    assert target() == HERE
    assert lowering_platforms() is None
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        assert target() == "cpu"
    with jax.default_device("cpu"):
        assert target() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert target() == "gpu"
    monkeypatch.setattr(jax, "config", Config(Device("tpu")))
    assert target() == "tpu"


def test_the_innermost_context_holds_and_ends():
    with compiling_for("tpu"):
        assert (target(), lowering_platforms()) == ("tpu", ("tpu",))
        with compiling_for("cuda"):
            assert (target(), lowering_platforms()) == ("cuda", ("cuda",))
        assert target() == "tpu"
    with pytest.raises(ZeroDivisionError), compiling_for("tpu"):
        _ = 1 / 0
    assert (target(), lowering_platforms()) == (HERE, None)


def test_other_threads_are_left_alone():
    found = []
    with compiling_for("tpu"):
        thread = threading.Thread(target=lambda: found.append(target()))
        thread.start()
        thread.join()
    assert found == [HERE]


def test_names_that_jax_does_not_lower_for_are_refused():
    with says(InputError, "gpu", "cuda", "rocm"):
        compiling_for("gpu")


class Mesh(jax.sharding.Mesh):
    """A mesh of devices that are not here."""

    def __new__(cls, platform):
        mesh = object.__new__(cls)
        object.__setattr__(mesh, "devices", np.array([Device(platform)]))
        return mesh

    def __init__(self, platform):
        pass


def test_that_of_the_mesh_among_the_arguments():
    here = jax.make_mesh((1,), ("pair",), devices=jax.devices()[:1])
    with on_mesh_of((1, here)):
        assert (target(), lowering_platforms()) == (HERE, None)
    with on_mesh_of((1, None)):
        assert target() == HERE
    for platform in ("tpu", "gpu"):
        with on_mesh_of(["a", Mesh(platform)]):
            assert target() == platform
            # JAX tells CUDA from ROCm by the devices.
            assert lowering_platforms() == (("tpu",) if platform == "tpu" else None)
    with compiling_for("tpu"):
        with on_mesh_of((here,)):
            assert target() == HERE
        with on_mesh_of(()):
            assert (target(), lowering_platforms()) == ("tpu", ("tpu",))


def test_what_was_traced_for_another_platform_is_traced_again():
    found = []

    @jax.jit
    def inner(x):
        found.append(target())
        return x

    def body(x, _):
        found.append(target())
        return x, None

    @jit()
    def outer(x):
        return lax.scan(body, inner(x), length=2)[0]

    for platform in ("tpu", "cuda", "tpu"):
        with compiling_for(platform):
            outer(1.0)
    assert found == ["tpu", "tpu", "cuda", "cuda"]


def networks(count):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(count, *shape)).astype(np.float32) for shape in ((2, 3, 6, 6), (4, 3, 3, 3))]


@jit()
def gradients(x, kernel):
    def one(x, kernel):
        return jax.grad(lambda x, kernel: jnp.sum(lax.conv(x, kernel, (2, 2), "SAME") ** 2), (0, 1))(x, kernel)

    return over_models(one)(x, kernel)


def test_entry_points_are_lowered_for_the_target():
    text = {}
    for platform in ("cpu", "cuda", "tpu"):
        with compiling_for(platform):
            text[platform] = gradients.lower(*networks(2)).as_text()
            assert bool(compiler_options()) <= (platform == "cpu")
    assert "stablehlo.while" in text["cpu"]
    assert "optimization_barrier" in text["cpu"]
    for platform in ("cuda", "tpu"):
        assert "stablehlo.while" not in text[platform]
        assert "optimization_barrier" not in text[platform]
        assert "feature_group_count = 2" in text[platform]


def test_programs_for_another_platform_compute_the_same():
    expected = gradients(*networks(2))
    with compiling_for("tpu"):
        found = gradients(*networks(2))
    for got, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def convolutional(tiny_colour_data):
    """The task of a network with convolutions and strides, and the shapes of two of its networks."""
    task = supervised(models.create("tinysix", 3, (8, 8, 3), width=0.1), tiny_colour_data)
    keys = jax.random.split(jax.random.key(0), 2)
    return task, keys, jax.eval_shape(jax.vmap(task.init), keys)


def epoch_of_two(task, keys, thetas):
    fit = endpoint_fit(task, optax.sgd(0.1))
    states = jax.eval_shape(jax.vmap(fit.init), thetas)
    return loop._compiled_epoch.lower(fit, task, loop.EpochPlan(20, 2), states, keys, 0, None, None)


def measures_of_two(task, keys, thetas):
    measured = measure._MetricsOfArrays((("train", totals.Reading(20)),), None, None)
    of_network = jax.tree_util.Partial(measured, task.functions())
    at = jax.tree_util.Partial(measure._PointOf(False), totals.each_network)
    given = (of_network, at, {"train": task.train}, (thetas, None))
    return totals._of_arrays.lower(False, None, None, *given)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("program", [epoch_of_two, measures_of_two])
def test_networks_are_side_by_side_in_programs_for_accelerators(convolutional, program, platform):
    with compiling_for(platform):
        text = program(*convolutional).as_text()
    assert "optimization_barrier" not in text
    assert "feature_group_count = 2" in text
    with lowering_of_jax(), compiling_for(platform):
        assert program(*convolutional).as_text() == text
    with compiling_for("cpu"):
        assert "feature_group_count = 2" not in program(*convolutional).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", ["tinysix", "resnet20"])
def test_models_have_what_jax_gives_them_on_accelerators(name, platform):
    model = models.create(name, 3, (8, 8, 3), width=0.1)
    theta = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)

    def gradient(theta, x):
        return jax.grad(lambda theta: jnp.sum(model.apply(theta, x) ** 2))(theta)

    for fn in (model.apply, gradient):
        text = lowered(fn, theta, x, platform=platform)
        assert "stablehlo.convolution" in text
        assert "optimization_barrier" not in text
        with lowering_of_jax():
            assert lowered(fn, theta, x, platform=platform) == text
