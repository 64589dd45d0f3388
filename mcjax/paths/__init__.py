"""Paths between networks: curves as pure functions, and fitting them."""

from mcjax.paths.curves import Curve, Path, bezier, linear, polygonal_chain
from mcjax.paths.fit import CurveFit, FitConfig, fit_curve
from mcjax.paths.pam import PamFit, fit_pam
from mcjax.paths.pam_config import PamConfig

__all__ = [
    "Curve",
    "CurveFit",
    "FitConfig",
    "PamConfig",
    "PamFit",
    "Path",
    "bezier",
    "fit_curve",
    "fit_pam",
    "linear",
    "polygonal_chain",
]
