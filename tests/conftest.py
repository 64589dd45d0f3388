"""Settings of every test, such as no silent broadcasting, and small data and models that many tests share."""

import ctypes
import gc
import os
from importlib.metadata import version
from pathlib import Path

from machine import processor

# Most of the suite's time is compiling; these take two thirds of it away. They are read when jax starts, and an XLA
# that does not know one of them ends the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)
# What is compiled once is found by the other workers, by the processes that tests start, and by the next run. A program
# may end a process on a processor with other instructions, and jax does not tell them apart.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mcjax", "tests", processor()[1])),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from images import bars

import mcjax

jax.config.update("jax_numpy_rank_promotion", "raise")

MEMORY = 2 << 30
"""Bytes of memory beyond which a worker forgets what it compiled."""
LONGEST = ("test_processes", "test_mesh", "test_readme", "test_cli")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker ends with one of them when the others have nothing left."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_runtest_teardown(item, nextitem):
    """Between two files a worker that has grown forgets what it compiled; the cache has it still."""
    if nextitem is not None and nextitem.path != item.path and resident() > MEMORY:
        jax.clear_caches()
        gc.collect()
        # The C library keeps what was freed to itself unless it is asked.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


def resident():
    """The bytes of memory that this process has, or 0 where /proc does not tell."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


class Normed(nn.Module):
    """Batch norm without convolutions, quickly compiled."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.relu(x))


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def tiny_data():
    """120 train and 50 test images, 8x8 grey, 3 classes that are told apart by where the image is bright."""
    return bars(120, 50, 8, 3)


@pytest.fixture(scope="session")
def tiny_colour_data(tiny_data):
    """`tiny_data` with three equal channels."""
    images = (np.repeat(part, 3, -1) for part in (tiny_data.train_images, tiny_data.test_images))
    train, test = images
    return mcjax.data.from_arrays(train, tiny_data.train_labels, test, tiny_data.test_labels, 3)


@pytest.fixture(scope="session")
def tiny_model():
    """An MLP 64-6-5-3 for `tiny_data`."""
    return mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5))


@pytest.fixture(scope="session")
def normed():
    """A model of `tiny_data` with batch statistics."""
    return mcjax.models.from_flax(Normed(), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32), name="normed")


@pytest.fixture(scope="session")
def tiny_task(tiny_model, tiny_data):
    """The classification of `tiny_data` by `tiny_model`."""
    return mcjax.supervised(tiny_model, tiny_data)


@pytest.fixture(scope="session")
def normed_task(normed, tiny_data):
    """The classification of `tiny_data` by `normed`."""
    return mcjax.supervised(normed, tiny_data)


@pytest.fixture(scope="session")
def tiny_networks(tiny_task):
    """Four trained networks of `tiny_model`, with a leading axis."""
    keys = jax.random.split(jax.random.key(1), 4)
    return mcjax.train_endpoints(keys, tiny_task, mcjax.TrainConfig(epochs=15, batch_size=20)).theta


@pytest.fixture(scope="session")
def tiny_ends(tiny_networks):
    """Two of `tiny_networks`: theta_1 and theta_2."""
    return mcjax.trees.index(tiny_networks, 0), mcjax.trees.index(tiny_networks, 1)


@pytest.fixture
def collected():
    """Collect what Orbax leaves of a failed reading here, not in the middle of a later test."""
    yield
    gc.collect()


@pytest.fixture
def compiled():
    """The names of the functions that are compiled while a test runs, in order."""
    names = []

    def note(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)
