"""Curves between networks: pure functions of (theta_1, theta_2, theta_c, P, t), and fitting them."""

from mcjax.curves.config import PamConfig
from mcjax.curves.curve import Curve, Path, bezier, linear, polygonal_chain
from mcjax.curves.fit import CurveFit, FitConfig, fit_curve
from mcjax.curves.pam import PamFit, fit_pam
from mcjax.curves.polyline import Polyline

__all__ = [
    "Curve",
    "CurveFit",
    "FitConfig",
    "PamConfig",
    "PamFit",
    "Path",
    "Polyline",
    "bezier",
    "fit_curve",
    "fit_pam",
    "linear",
    "polygonal_chain",
]
