"""Training: the objective, whole epochs as one compiled call, the endpoints of paths."""

from mcjax.training.batch_statistics import estimate_statistics, reestimate
from mcjax.training.config import TrainConfig
from mcjax.training.criterion import Criterion
from mcjax.training.endpoints import Endpoints, train_endpoints
from mcjax.training.full_batch import full_batch_loss
from mcjax.training.objective import evaluate
from mcjax.training.spawning import Spawned, snapshots, spawn

__all__ = [
    "Criterion",
    "Endpoints",
    "Spawned",
    "TrainConfig",
    "estimate_statistics",
    "evaluate",
    "full_batch_loss",
    "reestimate",
    "snapshots",
    "spawn",
    "train_endpoints",
]
