"""Figures from numpy arrays. Nothing here computes what it draws."""

from mcjax.plotting.constructions import (
    Against,
    Constructed,
    columns,
    constructed_paths,
    distributions,
    gap_against_width,
)
from mcjax.plotting.correlation import correlation, curve_signatures, signature
from mcjax.plotting.paths import Line, along_paths
from mcjax.plotting.plane import Plane, plane
from mcjax.plotting.spectrum import spectrum
from mcjax.plotting.strings import PowerLaw, Stage, Thresholds, against_threshold, string_stages
from mcjax.plotting.style import ALIGNED, UNALIGNED, Series
from mcjax.plotting.training import HalfSteps, alternating_training, alternation, training, training_classes

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "Against",
    "Constructed",
    "HalfSteps",
    "Line",
    "Plane",
    "PowerLaw",
    "Series",
    "Stage",
    "Thresholds",
    "against_threshold",
    "along_paths",
    "alternating_training",
    "alternation",
    "columns",
    "constructed_paths",
    "correlation",
    "curve_signatures",
    "distributions",
    "gap_against_width",
    "plane",
    "signature",
    "spectrum",
    "string_stages",
    "training",
    "training_classes",
]
