"""The target platform: what is asked for, or else that of the device in use."""

import jax
import pytest

from mcjax.runtime.target import compiling_for, target


def test_the_default_is_the_platform_of_the_device_in_use():
    assert target() == jax.devices()[0].platform
    with jax.default_device(jax.devices("cpu")[0]):
        assert target() == "cpu"
    with jax.default_device("cpu"):
        assert target() == "cpu"


def test_the_innermost_context_counts_and_ends():
    before = target()
    with compiling_for("tpu"):
        assert target() == "tpu"
        with compiling_for("cuda"):
            assert target() == "cuda"
        with compiling_for(None):
            assert target() == "tpu"
        with pytest.raises(KeyError), compiling_for("rocm"):
            raise KeyError
        assert target() == "tpu"
    assert target() == before
