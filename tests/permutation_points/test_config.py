"""Configurations of permutation paths: hashable, and numbers out of range are refused by name."""

import math

from refusals import says

from mcjax import InputError
from mcjax.permutation_points.config import PermutationConfig

OUT_OF_RANGE = {
    "steps": 0,
    "iterations": 1.5,
    "products": 0,
    "batch_size": True,
    "knots": 2,
    "points": 2,
    "examples": 0,
    "point_tolerance": -1e-9,
    "rise_tolerance": 0.0,
    "weight_decay": -0.1,
}


def test_values_out_of_range_are_named():
    for option, value in (*OUT_OF_RANGE.items(), ("smallest", 0.0), ("smallest", 1.0), ("tolerance", 0.0)):
        with says(InputError, f"{option}={value}", "expected"):
            PermutationConfig(**{option: value})
    for option, value in (("tolerance", math.nan), ("precision", "float16")):
        with says(InputError, option, str(value), "expected"):
            PermutationConfig(**{option: value})


def test_equal_configurations_are_one_program():
    assert hash(PermutationConfig(steps=3)) == hash(PermutationConfig(steps=3))
    assert PermutationConfig(steps=3) != PermutationConfig(steps=4)
