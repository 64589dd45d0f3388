"""Matching the units of one network to those of another, and of many to each other."""

from mcjax.matching.activations import Match, match_activations
from mcjax.matching.merging import Merged, match_to_reference, merge
from mcjax.matching.straight_through import StraightThroughConfig, StraightThroughMatch, match_straight_through
from mcjax.matching.weights import WeightMatch, match_weights

__all__ = [
    "Match",
    "Merged",
    "StraightThroughConfig",
    "StraightThroughMatch",
    "WeightMatch",
    "match_activations",
    "match_straight_through",
    "match_to_reference",
    "match_weights",
    "merge",
]
