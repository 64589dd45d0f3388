"""Configurations of permutation paths: hashable, and numbers out of range are refused by name."""

import math

import pytest

from mcjax import InputError
from mcjax.paths.permutation_config import PermutationConfig


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("iterations", 1.5),
        ("products", 0),
        ("batch_size", True),
        ("knots", 2),
        ("points", 2),
        ("images", 0),
        ("smallest", 0.0),
        ("smallest", 1.0),
        ("tolerance", 0.0),
        ("tolerance", math.nan),
        ("point_tolerance", -1e-9),
        ("bump", 0.0),
        ("weight_decay", -0.1),
        ("precision", "float16"),
    ],
)
def test_numbers_out_of_range_are_named(option, value):
    with pytest.raises(InputError, match=f"{option}.*expected"):
        PermutationConfig(**{option: value})


def test_equal_configurations_are_one_program():
    assert hash(PermutationConfig(steps=3)) == hash(PermutationConfig(steps=3))
    assert PermutationConfig(steps=3) != PermutationConfig(steps=4)
