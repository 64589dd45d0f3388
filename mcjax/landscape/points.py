"""Networks evaluated at many points of parameter space, a chunk at a time, within the device's memory."""

import math
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.data import Augmentation, Dataset
from mcjax.errors import InputError, unknown_name
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import chunk_for, over_models, over_points
from mcjax.runtime.mesh import AXES, Placement, check_mesh, on_mesh
from mcjax.training.batch_statistics import estimate_statistics
from mcjax.training.objective import evaluate_images, evaluate_splits

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
Splits = Literal["both", "train", "test"]


class Settings(NamedTuple):
    """What an evaluation is compiled for. pairs: whether every point is many networks along a leading axis."""

    model: Model
    pairs: bool
    reestimate: bool
    batch_size: int
    calibration_images: int
    augmentation: Augmentation
    chunk: int
    splits: Splits

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what is measured, in order."""
        return tuple(name for name in METRICS if self.splits == "both" or name.startswith(self.splits))


def settings_for(
    model: Model,
    data: Dataset,
    *,
    pairs: bool,
    reestimate: bool,
    batch_size: int,
    calibration_images: int | None,
    augmentation: Augmentation | None,
    chunk: int | None,
    splits: Splits = "both",
) -> Settings:
    """The settings with the defaults filled in. Raises InputError for sizes that the data do not have."""
    if splits not in ("both", "train", "test"):
        raise unknown_name("splits", str(splits), ("both", "train", "test"))
    n = len(data.train_labels)
    calibration_images = n if calibration_images is None else calibration_images
    if not 0 < calibration_images <= n or batch_size < 1 or (chunk is not None and chunk < 1):
        raise InputError(
            f"got calibration_images={calibration_images}, batch_size={batch_size}, chunk={chunk}, expected "
            f"1 to {n} calibration images, batches and chunks of at least 1."
        )
    augmentation = data.default_augmentation() if augmentation is None else augmentation
    chunk = chunk or chunk_for(model.convolutions)
    return Settings(model, pairs, reestimate, batch_size, calibration_images, augmentation, chunk, splits)


@jit(static_argnames=("settings", "mesh"))
def _values(settings: Settings, at: Any, data: Dataset, points: jax.Array, mesh: Mesh | None) -> jax.Array:
    """`settings.metrics` of the network at(point), for every entry of `points`: (points, metrics[, pairs])."""
    model, size = settings.model, settings.batch_size

    def many(at: Any, data: Dataset, points: jax.Array) -> jax.Array:
        def one(theta: trees.Tree) -> jax.Array:
            if settings.reestimate:
                calibration = data.train_images[: settings.calibration_images]
                theta = estimate_statistics(model, theta, calibration, data.mean, data.std, size, settings.augmentation)
            if settings.splits == "both":
                train, test = evaluate_splits(model, theta, data, size)
                return jnp.stack([*train, *test])
            images, labels = (getattr(data, f"{settings.splits}_{what}") for what in ("images", "labels"))
            return jnp.stack(evaluate_images(model, theta, images, labels, data.mean, data.std, size))

        def point(where: jax.Array) -> jax.Array:
            theta = at(where)
            return over_models(one, model.convolutions)(theta).T if settings.pairs else one(theta)

        return over_points(point, points, model.convolutions, settings.chunk)

    return on_mesh(many, mesh, everywhere=2, axes=AXES)(at, data, points)


def evaluate_points(
    settings: Settings, at: Any, data: Dataset, points: np.ndarray, mesh: Mesh | None = None
) -> np.ndarray:
    """`settings.metrics` of the network at(point), for every entry of `points`: float32 (points, metrics[, pairs]).

    at: a `jax.tree_util.Partial`. One compiled program; with a mesh, every device takes its share of
    the points. Raises InputError before anything is run if XLA finds that the program does not fit
    into the device's memory, with a chunk that would fit.
    """
    if mesh is not None:
        check_mesh(mesh)
    placement = Placement(mesh, len(points), AXES)
    arguments = (*placement.put_everywhere((at, data)), placement.put(jnp.asarray(points)))
    limit = device_memory()
    if limit is not None and (needed := _needed(settings, arguments, mesh)) > limit:
        chunk = min(settings.chunk, len(points))
        fitting = _fitting(settings._replace(chunk=chunk), arguments, mesh, needed, limit)
        advice = (
            f"Give chunk={fitting}, or a smaller batch_size."
            if fitting
            else f"One point at a time does not fit either: give a batch_size below {settings.batch_size}."
        )
        raise InputError(
            f"{len(points)} points with chunk={chunk} need {_gigabytes(needed)} of memory, expected at most the "
            f"device's {_gigabytes(limit)}. {advice}"
        )
    return np.asarray(placement.get(_values(settings, *arguments, mesh)))


def device_memory() -> int | None:
    """Bytes that a program can have: the accelerator's, or the machine's (or container's). None if not known."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    known = getattr(os, "sysconf_names", {})
    if jax.default_backend() != "cpu" or "SC_PAGE_SIZE" not in known or "SC_PHYS_PAGES" not in known:
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # no such container, or "max"
            continue
    return min(limits)


def _needed(settings: Settings, arguments: tuple, mesh: Mesh | None) -> float:
    """The bytes that an evaluation needs; 0 if XLA does not tell."""
    try:
        return _values.memory(settings, *arguments, mesh) or 0
    except jax.errors.JaxRuntimeError as error:
        # Some compilers refuse such a program themselves.
        if "RESOURCE_EXHAUSTED" in str(error):
            return math.inf
        raise


def _fitting(settings: Settings, arguments: tuple, mesh: Mesh | None, needed: float, limit: int) -> int:
    """A chunk that fits, the largest one up to a factor of two; 0 if not even a single point does."""
    # Memory is a constant and a share a point, so that the first guess is never too small.
    share = limit / needed if math.isfinite(needed) else 0.5
    chunk = max(1, int(settings.chunk * share)) if settings.chunk > 1 else 0
    while chunk and _needed(settings._replace(chunk=chunk), arguments, mesh) > limit:
        chunk //= 2
    return chunk


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if math.isfinite(size) else "more memory than the compiler accepts"
