"""Paths on which two units of a layer are brought together and exchanged."""

from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.counting import (
    equivalent_minima,
    permutation_point_count,
    permutation_point_growth,
    permutation_point_lower_bound,
    permutation_point_ratio,
)
from mcjax.permutation_points.equal_loss import exchange_units, permute_units_at
from mcjax.permutation_points.higher_order import MergedUnits, equal_loss_plane, merge_units
from mcjax.permutation_points.pair_ranking import PairBarriers, rank_pairs, similar_pairs
from mcjax.permutation_points.walk import PermutationPath, permutation_path

__all__ = [
    "MergedUnits",
    "PairBarriers",
    "PermutationConfig",
    "PermutationPath",
    "equal_loss_plane",
    "equivalent_minima",
    "exchange_units",
    "merge_units",
    "permutation_path",
    "permutation_point_count",
    "permutation_point_growth",
    "permutation_point_lower_bound",
    "permutation_point_ratio",
    "permute_units_at",
    "rank_pairs",
    "similar_pairs",
]
