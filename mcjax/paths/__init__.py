"""Paths between networks: curves as pure functions, and fitting them."""

from mcjax.paths.curves import Curve, Path, bezier, linear, polygonal_chain
from mcjax.paths.fit import CurveFit, FitConfig, fit_curve

__all__ = ["Curve", "CurveFit", "FitConfig", "Path", "bezier", "fit_curve", "linear", "polygonal_chain"]
