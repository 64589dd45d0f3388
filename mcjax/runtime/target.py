"""The platform that programs are compiled for, which need not be the one that the process runs on."""

from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import jax

from mcjax.errors import unknown_name

Platform = Literal["cpu", "cuda", "rocm", "tpu"]
_given = jax.make_user_context(None)
"""The platform of the context; part of the keys by which JAX finds what it has traced."""


def target() -> str:
    """The platform that programs are compiled for, such as "cpu", "gpu" or "tpu": by default that of JAX's device."""
    # A device, the name of a platform, or None.
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return _given.value or getattr(device, "platform", device) or jax.default_backend()


def compiling_for(platform: Platform) -> AbstractContextManager[Any]:
    """The context in which programs are traced and lowered for this platform, whose devices need not be there.

    Args:
        platform: "cpu", "cuda", "rocm" or "tpu".

    Raises:
        InputError: If it is another name.

    Example::

        with compiling_for("tpu"):
            text = program.lower(*arguments).as_text()
    """
    if platform not in get_args(Platform):
        raise unknown_name("platform", str(platform), get_args(Platform))
    return _given(platform)


def on_mesh_of(arguments: Any) -> AbstractContextManager[Any]:
    """The context of the platform of the mesh among these arguments, if there is one."""
    meshes = [each for each in arguments if isinstance(each, jax.sharding.Mesh)]
    platform = meshes[0].devices.flat[0].platform if meshes else target()
    return _given(_given.value if platform == target() else platform)


def lowering_platforms() -> tuple[str, ...] | None:
    """The platform of `compiling_for`, for `jax.stages.Traced.lower`. None: JAX finds it by the devices."""
    return (_given.value,) if _given.value in get_args(Platform) else None
