"""What the commands share of several devices: their mesh, and several processes."""

from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from mcjax.errors import InputError, RunError
from mcjax.runtime.mesh import check_mesh, make_mesh
from mcjax.training.config import TrainConfig


@dataclass(frozen=True)
class DeviceOptions:
    """Which devices to use."""

    mesh: tuple[int, int] | None = None
    """Devices: over how many the networks or pairs are shared out, and over how many each batch is split, such as
    4 2 (None: one device)."""
    distributed: bool = False
    """This is one of several processes, each started with this command (a TPU pod slice, Slurm)."""

    def start(self, batch_size: int | None = None) -> Mesh | None:
        """The mesh, after joining the other processes if there are any. None is one device.

        batch_size: None is the default of training. Raises InputError if there are too few devices, or
        if they do not divide the batch.
        """
        if self.distributed:
            if self.mesh is None:
                raise InputError("--distributed needs --mesh: over how many devices of all processes to spread.")
            join()
        if self.mesh is None:
            return None
        mesh = make_mesh(*self.mesh)
        check_mesh(mesh, TrainConfig.batch_size if batch_size is None else batch_size)
        return mesh


def join() -> None:
    """`jax.distributed.initialize`, once. Raises RunError if there is no cluster to be found."""
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise RunError(
            f"no other process was found: {str(error).rstrip('.')}. Start the same command in every process of a TPU "
            "pod slice or a Slurm job; elsewhere call jax.distributed.initialize(address, number, id) in a script."
        ) from error
