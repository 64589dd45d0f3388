"""Training: the objective, whole epochs as one compiled call, the endpoints of paths."""

from mcjax.training.config import TrainConfig
from mcjax.training.criterion import Criterion
from mcjax.training.endpoints import Endpoints, train_endpoints
from mcjax.training.full_batch import full_batch_loss
from mcjax.training.mesh import make_mesh
from mcjax.training.objective import evaluate
from mcjax.training.recorder import Recorder
from mcjax.training.spawning import Spawned, snapshots, spawn

__all__ = [
    "Criterion",
    "Endpoints",
    "Recorder",
    "Spawned",
    "TrainConfig",
    "evaluate",
    "full_batch_loss",
    "make_mesh",
    "snapshots",
    "spawn",
    "train_endpoints",
]
