"""The Hessian of a loss: products, eigenvalues, critical points."""

from mcjax.hessian.convergence import ConvergenceConstants, convergence_constants
from mcjax.hessian.critical_points import CriticalPoint, classify_point, direction_of_improvement
from mcjax.hessian.lanczos import (
    Eigenpairs,
    SpectralDensity,
    extreme_eigenpairs,
    hessian_trace,
    lanczos,
    spectral_density,
)
from mcjax.hessian.products import dense_hessian, gauss_newton_product, hessian_product

__all__ = [
    "ConvergenceConstants",
    "CriticalPoint",
    "Eigenpairs",
    "SpectralDensity",
    "classify_point",
    "convergence_constants",
    "dense_hessian",
    "direction_of_improvement",
    "extreme_eigenpairs",
    "gauss_newton_product",
    "hessian_product",
    "hessian_trace",
    "lanczos",
    "spectral_density",
]
