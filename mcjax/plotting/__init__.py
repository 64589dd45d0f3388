"""Figures from numpy arrays. Nothing here computes what it draws."""

from mcjax.plotting.connectivity import Dependence, dependences
from mcjax.plotting.correlation import correlation
from mcjax.plotting.paths import Line, along_paths
from mcjax.plotting.plane import Plane, plane
from mcjax.plotting.style import ALIGNED, UNALIGNED, Series
from mcjax.plotting.training import HalfSteps, alternating_training, alternation, training

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "Dependence",
    "HalfSteps",
    "Line",
    "Plane",
    "Series",
    "along_paths",
    "alternating_training",
    "alternation",
    "correlation",
    "dependences",
    "plane",
    "training",
]
