"""Paths whose loss is known beforehand: dropout-stable, linear and wide networks."""

from mcjax.constructions.counterexamples import Counterexample, disconnected_minima, two_neuron_mixture
from mcjax.constructions.dropout import DropoutStability, dropout_stability, dropped_out
from mcjax.constructions.dropout_paths import drop_path, dropout_path, halves_path, interpolation_path, narrow_path
from mcjax.constructions.linear import linear_network_path
from mcjax.constructions.moves import Construction, Move
from mcjax.constructions.sparse import AngleBound, angle_bound
from mcjax.constructions.wide import WidePath, unit_rows, wide_path

__all__ = [
    "AngleBound",
    "Construction",
    "Counterexample",
    "DropoutStability",
    "Move",
    "WidePath",
    "angle_bound",
    "disconnected_minima",
    "drop_path",
    "dropout_path",
    "dropout_stability",
    "dropped_out",
    "halves_path",
    "interpolation_path",
    "linear_network_path",
    "narrow_path",
    "two_neuron_mixture",
    "unit_rows",
    "wide_path",
]
