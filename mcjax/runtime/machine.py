"""The machine and the software that results were computed with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

PACKAGES = ("mcjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")


def describe_machine() -> dict[str, Any]:
    """The machine and the software, on which the bits of results depend beside a run's config, as JSON.

    The same seed gives the same bits on the same kind of device, with the same versions; on a CPU also with the same
    number of cores, among which XLA splits its sums.

    Returns:
        "device" (its kind), "platform", "devices" (their number over all processes), "cores" (those that this process
        may use), and "versions" of Python and of packages by name, None for one that is not installed.
    """
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return {
        "device": jax.devices()[0].device_kind,
        "platform": f"{jax.devices()[0].platform}, {platform.machine()}",
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": versions,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy of the source
        return None
