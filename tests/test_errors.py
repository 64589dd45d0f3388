"""Errors: their kinds, and the nearest name for a wrong one."""

import pytest

from mcjax.errors import InputError, RunError, unknown_name


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
