"""Measuring the loss landscape along paths."""

from mcjax.landscape.along import PathMetrics, arc_length, barrier, evaluate_path, normalized_length
from mcjax.landscape.batchnorm import reestimate

__all__ = ["PathMetrics", "arc_length", "barrier", "evaluate_path", "normalized_length", "reestimate"]
