"""Matching the units of one network to those of another."""

from mcjax.matching.activations import Match, match_activations

__all__ = ["Match", "match_activations"]
