"""Means, standard deviations and tables of text."""

import json

import numpy as np
import pytest

from mcjax.runs.tables import mean_and_std, plus_minus, table


@pytest.mark.parametrize("n", [2, 3, 17])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_mean_and_std_are_numpys(n, offset):
    values = np.random.default_rng(n).normal(offset, 3, n)
    summary = mean_and_std(values)
    assert summary["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert summary["std"] == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert summary["values"] == values.tolist()
    assert json.loads(json.dumps(summary)) == summary


def test_mean_and_std_of_one_value():
    assert mean_and_std(np.float32([0.5])) == {"mean": 0.5, "std": 0.0, "values": [0.5]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (({"mean": 0.12345678, "std": 0.05},), "0.1235 ± 0.0500"),
        (({"mean": 0.98765, "std": 0.0123}, 2, 100), "98.77 ± 1.23"),
        (({"mean": -1.0, "std": 0.0}, 0), "-1 ± 0"),
    ],
)
def test_plus_minus(arguments, expected):
    assert plus_minus(*arguments) == expected


def test_table_lines_up_its_columns():
    assert table(["path", "loss"], [["linear", "0.5"], ["a", "10.25"]]).splitlines() == [
        "path     loss",
        "------  -----",
        "linear    0.5",
        "a       10.25",
    ]
    assert table(["head"], []).splitlines() == ["head", "----"]
