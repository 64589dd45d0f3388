"""Devices of a command: the mesh, and joining several processes."""

from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from mcjax.errors import InputError, RunError
from mcjax.runtime.mesh import check_mesh, make_mesh
from mcjax.training.config import TrainConfig


@dataclass(frozen=True)
class DeviceOptions:
    """Devices, and processes."""

    mesh: tuple[int, int] | None = None
    """Numbers of devices to distribute networks or pairs over, and to split each batch over, such as 4 2 (None: one
    device)."""
    distributed: bool = False
    """Join other processes that are started with the same command (a TPU pod slice, Slurm)."""

    def start(self, batch_size: int | None = None) -> Mesh | None:
        """The mesh, after joining the other processes with --distributed.

        Args:
            batch_size: The size of the batches to split. None: the default of training.

        Returns:
            The mesh; None for one device.

        Raises:
            InputError: There are too few devices, or they do not divide the batch.
            RunError: No other process was found.
        """
        if self.distributed:
            if self.mesh is None:
                raise InputError("--distributed needs --mesh: the numbers of devices, over all processes.")
            join()
        if self.mesh is None:
            return None
        mesh = make_mesh(*self.mesh)
        check_mesh(mesh, TrainConfig.batch_size if batch_size is None else batch_size)
        return mesh


def join() -> None:
    """Call `jax.distributed.initialize` once. Raises RunError if it finds no other process."""
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise RunError(
            f"no other process was found: {str(error).rstrip('.')}. Start the same command in every process of a TPU "
            "pod slice or a Slurm job; elsewhere call jax.distributed.initialize(address, number, id) in a script."
        ) from error
