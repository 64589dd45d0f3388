"""Meshes of devices: networks are distributed along the `pair` axis, batches are split along the `data` axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.runtime.processes import on_first_process

AXES = ("pair", "data")


def make_mesh(pair: int | None = None, data: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of pair * data devices from all processes.

    Args:
        pair: Number of devices along which networks, or pairs of networks, are distributed. None: as many as possible.
        data: Number of devices over which each batch is split.
        devices: Devices, of which the first pair * data are used. None: all devices.

    Returns:
        A mesh with the axes `pair` and `data`, both Auto.

    Raises:
        InputError: If there are too few devices, or if a process would have none.

    Example::

        endpoints = train_endpoints(keys, task, mesh=make_mesh())  # whole networks on every device
    """
    devices = list(jax.devices() if devices is None else devices)
    for name, number in (("pair", 1 if pair is None else pair), ("data", data)):
        check_whole(name, number)
    rows = max(1, len(devices) // data) if pair is None else pair
    if rows * data > len(devices):
        raise InputError(
            f"got pair={rows}, data={data} for a mesh, which is {rows * data} devices, expected at most the "
            f"{len(devices)} available ({devices[0].platform}). Make one of the axes shorter."
        )
    taken = devices[: rows * data]
    without = {device.process_index for device in jax.devices()} - {device.process_index for device in taken}
    if without:
        raise InputError(
            f"got pair={rows}, data={data} for a mesh, which leaves no device to process {sorted(without)[0]}, "
            f"expected one that spans all {jax.process_count()} processes. Start fewer of them, or make an axis longer."
        )
    return jax.make_mesh((rows, data), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=taken)


def check_mesh(mesh: Mesh, batch_size: int = 0) -> None:
    """Raise InputError unless `make_mesh` made the mesh, and its `data` axis divides the batch, if there is one."""
    if not isinstance(mesh, Mesh):
        raise InputError(f"got {mesh!r} as mesh, expected make_mesh().")
    if mesh.axis_names != AXES or set(mesh.axis_types) != {AxisType.Auto}:
        raise InputError(f"got a mesh of axes {mesh.axis_names}, expected pair and data, both Auto: make_mesh().")
    if batch_size % mesh.shape["data"]:
        raise InputError(
            f"got batch_size={batch_size} on a mesh that splits batches over data={mesh.shape['data']} devices, "
            f"expected a multiple of {mesh.shape['data']}: {_nearest(batch_size, mesh.shape['data'])}, for example."
        )


def check_parts(mesh: Mesh | None, batch_size: int) -> None:
    """Raise InputError unless every process can give its own part of a batch, each on its own devices of the mesh."""
    processes = jax.process_count()
    if processes == 1:
        return
    if mesh is None:
        raise InputError(
            f"got batches from the host in {processes} processes without a mesh, expected mesh=make_mesh(), over whose "
            "devices the parts of each batch are put."
        )
    if batch_size % mesh.size:
        raise InputError(
            f"got batch_size={batch_size} from {processes} processes, expected a multiple of the {mesh.size} devices "
            f"of the mesh, over which the parts of a batch are put: {_nearest(batch_size, mesh.size)}, for example."
        )


def _nearest(size: int, factor: int) -> int:
    return max(1, round(size / factor)) * factor


@dataclass(frozen=True)
class Placement:
    """The placement of fits on the devices of a mesh. Without a mesh, arrays stay on their device.

    If the axes do not divide the number of fits, copies of the last fit are added for otherwise idle devices, and
    removed from the results.

    Attributes:
        mesh: The mesh, or None.
        count: Number of fits.
        axes: The axes of the mesh along which they are distributed.
    """

    mesh: Mesh | None
    count: int
    axes: tuple[str, ...] = ("pair",)

    def put(self, tree: trees.Tree) -> trees.Tree:
        """Trees with a leading axis of `count`, sharded along the axes.

        Every process passes the whole tree; the values of the first process are used.
        """
        if self.mesh is None:
            return tree
        # Copies of a shard must be equal to the bit in all processes.
        host = on_first_process(lambda: jax.tree.map(np.asarray, trees.without_keys(tree)))()
        shards = math.prod(self.mesh.shape[axis] for axis in self.axes)
        rows = np.minimum(np.arange(-(-self.count // shards) * shards), self.count - 1)
        # The same sharding as the results of an epoch; with another one, the second epoch would compile again.
        sharding = NamedSharding(self.mesh, Spec(self.axes) if shards > 1 else Spec())
        placed = jax.tree.map(lambda leaf: _placed(leaf if len(rows) == self.count else leaf[rows], sharding), host)
        return trees.with_keys(placed, tree)

    def put_everywhere(self, tree: trees.Tree) -> trees.Tree:
        """A tree, such as the data set, replicated on every device."""
        if self.mesh is None:
            return jax.device_put(tree)
        whole = NamedSharding(self.mesh, Spec())
        placed = jax.tree.map(lambda leaf: _placed(np.asarray(leaf), whole), trees.without_keys(tree))
        return trees.with_keys(placed, tree)

    def get(self, tree: trees.Tree) -> trees.Tree:
        """Ordinary arrays from placed ones, or from results computed from them; equal to the bit in every process."""
        if self.mesh is None:
            return tree
        whole = NamedSharding(self.mesh, Spec())

        def fetched(leaf: jax.Array) -> jax.Array:
            # One leaf at a time, so that no device holds all networks at once.
            here = leaf if leaf.is_fully_addressable else jax.device_put(leaf, whole).addressable_data(0)
            return jnp.asarray(np.asarray(here)[: self.count])

        return trees.with_keys(jax.tree.map(fetched, trees.without_keys(tree)), tree)


def put_batches(batches: Any, mesh: Mesh | None) -> Any:
    """Batches (k, size, ...) on the host, on the devices of a mesh: every process gives its own part of each batch."""
    if mesh is None:
        return jax.device_put(batches)
    sharding = NamedSharding(mesh, Spec(None, AXES if jax.process_count() > 1 else "data"))

    def placed(leaf: np.ndarray) -> jax.Array:
        shape = (leaf.shape[0], leaf.shape[1] * jax.process_count(), *leaf.shape[2:])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(placed, batches)


def _placed(host: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def on_mesh(
    fn: Callable[..., Any], mesh: Mesh | None, everywhere: int, axes: tuple[str, ...] = ("pair",)
) -> Callable[..., Any]:
    """`fn` on the devices of a mesh.

    Inside `fn`, each device has its own networks only, so that sequential networks are not moved between devices. The
    compiler handles the other axes of the mesh; `split` distributes a batch along `data`.

    Args:
        fn: A function of trees.
        mesh: The mesh. None: `fn` is returned.
        everywhere: Number of leading arguments that are replicated on every device. The other arguments and the result
            are distributed along `axes`.
        axes: Axes of the mesh.

    Returns:
        The mapped function.
    """
    if mesh is None:
        return fn

    def mapped(*args: Any) -> Any:
        specs = (*[Spec()] * everywhere, *[Spec(axes)] * (len(args) - everywhere))
        # check_vma=False, since a scan in a model may start from a constant, which does not vary over the mesh.
        along = jax.shard_map(
            fn, mesh=mesh, in_specs=specs, out_specs=Spec(axes), axis_names=set(axes), check_vma=False
        )
        return along(*args)

    return mapped


def split(batch: Any, mesh: Mesh | None) -> Any:
    """Arrays with their leading axis, the examples of a batch, split along `data`; for use inside `on_mesh`."""
    return batch if mesh is None else jax.lax.with_sharding_constraint(batch, Spec("data"))


__all__ = ["AXES", "Placement", "check_mesh", "check_parts", "make_mesh", "on_mesh", "put_batches", "split"]
