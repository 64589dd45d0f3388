"""Errors: their kinds, and the nearest name for a wrong one."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pytest
from refusals import says

from mcjax.errors import (
    InputError,
    RunError,
    check_fields,
    check_function,
    check_kind,
    check_positive,
    check_whole,
    unknown_name,
)


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
    assert "Did you mean 'nu_P'?" in str(unknown_name("option", "NU_p", ["nu_P"]))


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


def test_kinds():
    check_kind("path", "x", str, "a name")
    for value, got in ((3, "int"), (None, "NoneType"), (str, "the class str")):
        with says(InputError, f"got {got} for path", "expected str: a name"):
            check_kind("path", value, str, "a name")


def test_functions_are_called_as_expected():
    def both(a, b, *, c=0):
        return a, b, c

    def named(a, b, *, c):
        return a, b, c

    for good in (both, lambda *all_of_them: 0, partial(named, c=1), partial(lambda k, a, b: 0, 1), dict.get, max):
        check_function("loss(outputs, labels) -> losses", good)
    check_function("loss(outputs, labels) -> losses: partial(loss, scale=f(3))", both)
    for bad, got in (
        (named, "named(a, b, c)"),
        (lambda a: 0, "<lambda>(a)"),
        (partial(both, 1), "both("),
        (3, "3"),
        ("x", "'x'"),
    ):
        with says(InputError, f"got {got}", "for loss", "expected loss(outputs, labels) -> losses"):
            check_function("loss(outputs, labels) -> losses", bad)


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Settings:
    flag: bool = True
    size: int = 1
    rate: float = 0.5
    most: int | None = None
    kind: Literal["one", "two"] = "one"
    inner: Inner = Inner()
    either: bool | Inner = False
    unchecked: list[int] | None = None


def test_fields_are_of_the_kinds_that_they_declare():
    check_fields(Settings())
    check_fields(Settings(False, np.int64(2), 3, 4, "two", Inner(2), Inner(), 5))
    check_fields(Settings(rate=np.float32(0.5), most=np.int8(1)))
    for name, value, expected in (
        ("flag", "no", "True or False"),
        ("flag", 1, "True or False"),
        ("size", True, "a whole number"),
        ("size", 2.0, "a whole number"),
        ("size", None, "a whole number"),
        ("rate", "0.5", "a number"),
        ("rate", False, "a number"),
        ("rate", 1j, "a number"),
        ("most", "x", "a whole number or None"),
        ("kind", "tow", "one of one, two. Did you mean 'two'"),
        ("kind", None, "one of one, two"),
        ("inner", Settings(), "Inner"),
        ("either", 1, "True or False or Inner"),
    ):
        with says(InputError, name, str(value), expected):
            check_fields(Settings(**{name: value}))
