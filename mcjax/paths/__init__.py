"""Paths between networks: curves as pure functions and fitting them, strings of networks, knots."""

from mcjax.paths.counterexamples import Counterexample, disconnected_minima, two_neuron_mixture
from mcjax.paths.curves import Curve, Path, bezier, linear, polygonal_chain
from mcjax.paths.dropout import DropoutStability, dropout_stability, dropped_out
from mcjax.paths.dropout_paths import drop_path, dropout_path, halves_path, interpolation_path, narrow_path
from mcjax.paths.families import Family, evolve_string
from mcjax.paths.fit import CurveFit, FitConfig, fit_curve
from mcjax.paths.knots import through
from mcjax.paths.linear_networks import linear_network_path
from mcjax.paths.moves import Construction, Move
from mcjax.paths.pam import PamFit, fit_pam
from mcjax.paths.pam_config import PamConfig
from mcjax.paths.sparse import AngleBound, angle_bound
from mcjax.paths.strand import Segment, String
from mcjax.paths.string_config import StringConfig
from mcjax.paths.strings import sample_string, sample_strings
from mcjax.paths.wide_networks import WidePath, unit_rows, wide_path

__all__ = [
    "AngleBound",
    "Construction",
    "Counterexample",
    "Curve",
    "CurveFit",
    "DropoutStability",
    "Family",
    "FitConfig",
    "Move",
    "PamConfig",
    "PamFit",
    "Path",
    "Segment",
    "String",
    "StringConfig",
    "WidePath",
    "angle_bound",
    "bezier",
    "disconnected_minima",
    "drop_path",
    "dropout_path",
    "dropout_stability",
    "dropped_out",
    "evolve_string",
    "fit_curve",
    "fit_pam",
    "halves_path",
    "interpolation_path",
    "linear",
    "linear_network_path",
    "narrow_path",
    "polygonal_chain",
    "sample_string",
    "sample_strings",
    "through",
    "two_neuron_mixture",
    "unit_rows",
    "wide_path",
]
