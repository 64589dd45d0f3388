"""Figures from numpy arrays. Nothing here computes what it draws."""

from mcjax.plotting.connectivity import Dependence, dependences
from mcjax.plotting.correlation import correlation, curve_signatures, signature
from mcjax.plotting.paths import Line, along_paths
from mcjax.plotting.permutation_points import (
    Approached,
    Merger,
    approached,
    eigenvalues,
    growth,
    mergers,
    rearranged,
    spectral_densities,
)
from mcjax.plotting.plane import Plane, plane
from mcjax.plotting.spectrum import spectrum
from mcjax.plotting.strings import PowerLaw, Stage, Thresholds, against_threshold, string_stages
from mcjax.plotting.style import ALIGNED, UNALIGNED, Series
from mcjax.plotting.training import HalfSteps, alternating_training, alternation, training, training_classes

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "Approached",
    "Dependence",
    "HalfSteps",
    "Line",
    "Merger",
    "Plane",
    "PowerLaw",
    "Series",
    "Stage",
    "Thresholds",
    "against_threshold",
    "along_paths",
    "alternating_training",
    "alternation",
    "approached",
    "correlation",
    "curve_signatures",
    "dependences",
    "eigenvalues",
    "growth",
    "mergers",
    "plane",
    "rearranged",
    "signature",
    "spectral_densities",
    "spectrum",
    "string_stages",
    "training",
    "training_classes",
]
