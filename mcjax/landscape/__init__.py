"""Measuring the loss landscape along paths, and what networks merged from others can do."""

from mcjax.landscape.along import PathMetrics, arc_length, barrier, evaluate_path, normalized_length
from mcjax.landscape.ensembles import Ensemble, ensemble_accuracy
from mcjax.landscape.plane import Plane, PlaneMetrics, curve_plane, plane, plane_axes
from mcjax.landscape.repair import repair, repaired_layers
from mcjax.landscape.signature import CurveSignature, curve_signature
from mcjax.landscape.spectrum import Spectrum, spectrum
from mcjax.landscape.stability import NoiseStability, noise_stability

__all__ = [
    "CurveSignature",
    "Ensemble",
    "NoiseStability",
    "PathMetrics",
    "Plane",
    "PlaneMetrics",
    "Spectrum",
    "arc_length",
    "barrier",
    "curve_plane",
    "curve_signature",
    "ensemble_accuracy",
    "evaluate_path",
    "noise_stability",
    "normalized_length",
    "plane",
    "plane_axes",
    "repair",
    "repaired_layers",
    "spectrum",
]
