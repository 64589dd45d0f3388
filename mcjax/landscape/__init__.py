"""Measuring the loss landscape along paths, and what networks merged from others can do."""

from mcjax.landscape.along import PathMetrics, arc_length, barrier, evaluate_path, normalized_length
from mcjax.landscape.convergence import ConvergenceConstants, convergence_constants
from mcjax.landscape.critical_points import CriticalPoint, classify_point, direction_of_improvement
from mcjax.landscape.curvature import dense_hessian, gauss_newton_product, hessian_product
from mcjax.landscape.ensembles import Ensemble, ensemble_accuracy
from mcjax.landscape.lanczos import (
    Eigenpairs,
    SpectralDensity,
    extreme_eigenpairs,
    hessian_trace,
    lanczos,
    spectral_density,
)
from mcjax.landscape.plane import Plane, PlaneMetrics, curve_plane, plane, plane_axes
from mcjax.landscape.repair import repair, repaired_layers
from mcjax.landscape.signature import CurveSignature, curve_signature
from mcjax.landscape.spectrum import Spectrum, spectrum
from mcjax.landscape.stability import NoiseStability, noise_stability
from mcjax.training.batchnorm import recalibrate, reestimate

__all__ = [
    "ConvergenceConstants",
    "CriticalPoint",
    "CurveSignature",
    "Eigenpairs",
    "Ensemble",
    "NoiseStability",
    "PathMetrics",
    "Plane",
    "PlaneMetrics",
    "SpectralDensity",
    "Spectrum",
    "arc_length",
    "barrier",
    "classify_point",
    "convergence_constants",
    "curve_plane",
    "curve_signature",
    "dense_hessian",
    "direction_of_improvement",
    "ensemble_accuracy",
    "evaluate_path",
    "extreme_eigenpairs",
    "gauss_newton_product",
    "hessian_product",
    "hessian_trace",
    "lanczos",
    "noise_stability",
    "normalized_length",
    "plane",
    "plane_axes",
    "recalibrate",
    "reestimate",
    "repair",
    "repaired_layers",
    "spectral_density",
    "spectrum",
]
