"""`jit`: what it computes, when it compiles, and that an XLA without the options is no failure."""

import gc
import io
import weakref
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax.runtime import compiling
from mcjax.runtime.compiling import compiler_options, jit
from mcjax.runtime.target import compiling_for, target


def test_values_static_arguments_and_one_program():
    traces = []

    @jit(static_argnames="power")
    def raised(x, power):
        traces.append(power)
        return x**power

    np.testing.assert_allclose(raised(jnp.arange(3.0), 2), [0, 1, 4])
    np.testing.assert_allclose(raised(jnp.arange(3.0) + 1, 2), [1, 4, 9])
    np.testing.assert_allclose(raised(jnp.arange(3.0), 3), [0, 1, 8])
    assert traces == [2, 3]
    assert raised.__name__ == "raised"


def test_static_arguments_by_name_by_place_and_by_default_are_the_same_program():
    traces = []

    @jit(static_argnames=("step", "scale"))
    def stepped(step, x, *, scale=2.0):
        traces.append((step, scale))
        return step(x) * scale

    for call in (lambda: stepped(jnp.negative, 1.0), lambda: stepped(x=1.0, step=jnp.negative)):
        assert call() == -2
    assert stepped(jnp.negative, 1.0, scale=3.0) == -3
    assert traces == [(jnp.negative, 2.0), (jnp.negative, 3.0)]
    assert stepped.lower(jnp.negative, 1.0).compile()(x=jnp.float32(4)) == -8


def test_all_is_let_go_before_memory_maps_run_out(monkeypatch):
    programs = []

    @jit(static_argnames="number")
    def added(number, x):
        programs.append(weakref.ref(number))
        return x + number.value

    class Number:
        value = 1

    added(Number(), 1.0)
    added(Number(), 1.0)
    gc.collect()
    assert all(program() is not None for program in programs)
    monkeypatch.setattr(compiling, "_crowded", lambda: True)
    last = Number()
    assert added(last, 1.0) == added(last, 1.0) == 2
    assert [program() is not None for program in programs] == [False, False, True]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells its memory maps")
def test_half_of_the_memory_maps_is_a_crowd(monkeypatch):
    allowed = int(Path("/proc/sys/vm/max_map_count").read_text())

    for maps, crowded in ((allowed // 2 - 1, False), (allowed // 2 + 1, True)):

        def opened(path, mode="r", maps=maps):
            return io.BytesIO(b"a map\n" * maps) if path == "/proc/self/maps" else open(path, mode)

        monkeypatch.setattr(compiling, "open", opened, raising=False)
        assert compiling._crowded() is crowded


def test_programs_not_used_for_long_are_dropped(monkeypatch):
    monkeypatch.setattr(compiling, "_jitted", lru_cache(maxsize=4)(compiling._jitted.__wrapped__))

    class Config:
        pass

    traces = []

    @jit(static_argnames="config")
    def constant(config, x):
        traces.append(config)
        return x

    first, second = Config(), Config()
    gone = weakref.ref(second)
    constant(first, 1.0)
    constant(second, 1.0)
    traces.clear()
    del second
    for _ in range(4):
        constant(Config(), 1.0)
        constant(first, 1.0)
    assert first not in traces
    traces.clear()
    gc.collect()
    assert gone() is None


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "_CPU", {"xla_cpu_no_such_option": "1"})
    compiling._takes_options.cache_clear()
    try:
        with compiling_for("cpu"):
            assert compiler_options() == {}
            assert jit()(lambda x: x + 1)(1) == 2
    finally:
        compiling._takes_options.cache_clear()


def test_a_compiler_that_knows_the_options_is_given_them():
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0, compiler_options=compiling._CPU)()
    except Exception:
        pytest.skip("this XLA does not know them")
    with compiling_for("cpu"):
        assert compiler_options() == compiling._CPU
    for platform in ("cuda", "rocm", "tpu"):
        with compiling_for(platform):
            assert compiler_options() == {}


def test_a_platform_has_programs_of_its_own():
    traces = []

    @jit()
    def noted(x):
        traces.append(target())
        return x

    for platform in ("tpu", "cuda", "tpu"):
        with compiling_for(platform):
            noted(1.0)
    assert traces == ["tpu", "cuda"]


def test_a_program_of_a_mesh_is_one_for_its_devices():
    mesh = jax.make_mesh((1,), ("pair",), devices=jax.devices()[:1])

    @jit(static_argnames="mesh")
    def named(x, mesh):
        return x if target() == mesh.devices.flat[0].platform else jnp.nan

    for platform in ("tpu", "cuda"):
        with compiling_for(platform):
            assert named(1.0, mesh) == named(1.0, mesh=mesh) == 1
