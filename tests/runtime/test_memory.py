"""The memory of devices, and the chunk that fits into it."""

import math

import jax
import pytest

from mcjax import InputError
from mcjax.runtime import memory
from mcjax.runtime.compiling import jit
from mcjax.runtime.memory import check_memory, device_memory, gigabytes, program_memory
from mcjax.runtime.target import compiling_for, target

HERE = ("cpu", *(("cuda", "rocm") if target() == "gpu" else (target(),)))


def test_memory_is_that_of_the_machine_or_less():
    found = device_memory()
    if target() == "cpu":
        with open("/proc/meminfo") as lines:
            total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
        assert 0 < found <= total
    else:
        assert found > 2**30


def test_memory_of_an_accelerator_is_what_its_driver_reports(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 12345, "bytes_in_use": 3}

    monkeypatch.setattr(jax, "local_devices", lambda backend=None: [Device()] if backend == "gpu" else [])
    monkeypatch.setattr(memory, "target", lambda: "gpu")
    assert device_memory() == 12345


def test_memory_of_a_platform_that_is_not_here_is_unknown():
    for platform in {"cpu", "cuda", "rocm", "tpu"} - {*HERE}:
        with compiling_for(platform):
            assert device_memory() is None


def test_memory_of_a_container_is_its_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "Path", lambda _, name: tmp_path / name)
    if target() == "cpu":
        whole = device_memory()
        (tmp_path / "memory.max").write_text("max\n")
        assert device_memory() == whole
        (tmp_path / "memory.max").write_text("1000000\n")
        assert device_memory() == 1_000_000


class Refusing:
    """A program that the compiler refuses."""

    def __init__(self, error):
        self.error = error

    def memory(self, *args):
        raise jax.errors.JaxRuntimeError(self.error)


def test_memory_of_a_program_is_xlas_and_infinite_where_the_compiler_refuses(key):
    x = jax.random.normal(key, (1000,))
    assert program_memory(jit()(lambda x: x * 2), x) >= 8000
    assert program_memory(Refusing("RESOURCE_EXHAUSTED: out of memory in compilation")) == math.inf
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        program_memory(Refusing("INTERNAL: another error"))


@pytest.mark.parametrize(("limit", "fitting"), [(1699, 15), (1000, 9), (250, 1), (199, None)])
def test_a_chunk_that_fits_is_named(limit, fitting, monkeypatch):
    """A program of 100 bytes and 100 for each entry."""
    monkeypatch.setattr(memory, "device_memory", lambda: limit)
    tried = []

    def needed(chunk):
        tried.append(chunk)
        return 100 + 100 * chunk

    with pytest.raises(InputError, match=r"20 points with chunk=16 need 1\.7e-06 GB") as refused:
        check_memory(needed, 16, 20, "points", "give a smaller network.")
    assert tried[0] == 16
    if fitting is None:
        assert str(refused.value).endswith("One at a time does not fit: give a smaller network.")
    else:
        assert f"Give chunk={fitting}," in str(refused.value)
        assert tried[-1] == fitting


def test_programs_that_fit_or_of_unknown_size_pass(monkeypatch):
    for limit in (1700, None):
        monkeypatch.setattr(memory, "device_memory", lambda limit=limit: limit)
        check_memory(lambda chunk: 100 + 100 * chunk, 16, 20, "points", "")


def test_a_chunk_larger_than_all_entries_is_named_as_these(monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda: 100)
    with pytest.raises(InputError, match="5 points with chunk=5 need more memory than the compiler accepts"):
        check_memory(lambda chunk: math.inf, 16, 5, "points", "")
    assert gigabytes(2.5e9) == "2.5 GB"
