"""Measuring the loss landscape along paths, and what networks merged from others can do."""

from mcjax.landscape.along import PathMetrics, arc_length, barrier, evaluate_path, normalized_length
from mcjax.landscape.batchnorm import reestimate
from mcjax.landscape.ensembles import Ensemble, ensemble_accuracy
from mcjax.landscape.repair import repair, repaired_layers

__all__ = [
    "Ensemble",
    "PathMetrics",
    "arc_length",
    "barrier",
    "ensemble_accuracy",
    "evaluate_path",
    "normalized_length",
    "reestimate",
    "repair",
    "repaired_layers",
]
