"""Paths between networks: curves as pure functions and fitting them, strings of networks, knots."""

from mcjax.paths.counterexamples import Counterexample, disconnected_minima, two_neuron_mixture
from mcjax.paths.counting import (
    equivalent_minima,
    permutation_point_count,
    permutation_point_growth,
    permutation_point_lower_bound,
    permutation_point_ratio,
)
from mcjax.paths.curves import Curve, Path, bezier, linear, polygonal_chain
from mcjax.paths.dropout import DropoutStability, dropout_stability, dropped_out
from mcjax.paths.dropout_paths import drop_path, dropout_path, halves_path, interpolation_path, narrow_path
from mcjax.paths.equal_loss import exchange_units, permute_units_at
from mcjax.paths.families import Family, evolve_string
from mcjax.paths.fit import CurveFit, FitConfig, fit_curve
from mcjax.paths.higher_order import MergedUnits, equal_loss_plane, merge_units
from mcjax.paths.knots import through
from mcjax.paths.linear_networks import linear_network_path
from mcjax.paths.moves import Construction, Move
from mcjax.paths.pair_ranking import PairBarriers, rank_pairs, similar_pairs
from mcjax.paths.pam import PamFit, fit_pam
from mcjax.paths.pam_config import PamConfig
from mcjax.paths.permutation_config import PermutationConfig
from mcjax.paths.permutation_points import PermutationPath, permutation_path
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
    "MergedUnits",
    "Move",
    "PairBarriers",
    "PamConfig",
    "PamFit",
    "Path",
    "PermutationConfig",
    "PermutationPath",
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
    "equal_loss_plane",
    "equivalent_minima",
    "evolve_string",
    "exchange_units",
    "fit_curve",
    "fit_pam",
    "halves_path",
    "interpolation_path",
    "linear",
    "linear_network_path",
    "merge_units",
    "narrow_path",
    "permutation_path",
    "permutation_point_count",
    "permutation_point_growth",
    "permutation_point_lower_bound",
    "permutation_point_ratio",
    "permute_units_at",
    "polygonal_chain",
    "rank_pairs",
    "sample_string",
    "sample_strings",
    "similar_pairs",
    "through",
    "two_neuron_mixture",
    "unit_rows",
    "wide_path",
]
