"""Errors: their kinds, and the nearest name for a wrong one."""

import numpy as np
import pytest

from mcjax.errors import InputError, RunError, check_positive, check_whole, unknown_name


def test_wrong_input_is_a_value_error_and_failed_work_is_not():
    assert issubclass(InputError, ValueError)
    assert issubclass(RunError, RuntimeError)
    assert not issubclass(RunError, InputError)


@pytest.mark.parametrize(
    ("got", "hint"),
    [("tinysx", " Did you mean 'tinysix'?"), ("TinyTen", " Did you mean 'tinyten'?"), ("zzz", "")],
)
def test_unknown_name(got, hint):
    error = unknown_name("model", got, ["vgg16", "tinyten", "tinysix"])
    assert isinstance(error, InputError)
    assert str(error) == f"unknown model: got {got!r}, expected one of tinysix, tinyten, vgg16.{hint}"


@pytest.mark.parametrize("value", [0, -1, 6, 2.0, "3", None, True, float("nan")])
def test_other_values_than_whole_numbers_are_refused(value):
    with pytest.raises(InputError, match=r"got draws=.*, expected a whole number from 1 to 5\."):
        check_whole("draws", value, most=5)


@pytest.mark.parametrize("value", [0, -1e-3, "3", None, float("nan")])
def test_other_values_than_positive_numbers_are_refused(value):
    with pytest.raises(InputError, match=r"got nu=.*, expected a positive number\."):
        check_positive("nu", value)


def test_positive_numbers():
    for value in (1, 1e-30, np.float32(2), float("inf")):
        check_positive("nu", value)


def test_whole_numbers():
    for value in (1, 5):
        check_whole("draws", value, most=5)
    with pytest.raises(InputError, match=r"got draws=1, expected a whole number of at least 2\."):
        check_whole("draws", 1, 2)
