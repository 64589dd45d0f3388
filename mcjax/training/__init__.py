"""Training: the objective, whole epochs as one compiled call, the endpoints of paths."""

from mcjax.training.config import TrainConfig
from mcjax.training.criterion import Criterion
from mcjax.training.endpoints import Endpoints, train_endpoints
from mcjax.training.mesh import make_mesh
from mcjax.training.objective import evaluate
from mcjax.training.recorder import Recorder

__all__ = ["Criterion", "Endpoints", "Recorder", "TrainConfig", "evaluate", "make_mesh", "train_endpoints"]
