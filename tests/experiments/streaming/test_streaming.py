"""An epoch from arrays and from batches: the sources' examples, and the table of a small run."""

import numpy as np
import pytest
from refusals import says

from experiments.streaming.streaming import Indexed, Streaming, main
from mcjax import InputError


def test_examples_by_number_are_batches_or_single_ones():
    images, labels = np.arange(12).reshape(6, 2), np.arange(6)
    batches = Indexed(images, labels, np.array([[3, 1], [0, 5]]))
    assert len(batches) == 2
    np.testing.assert_array_equal(batches[0][0], [[6, 7], [2, 3]])
    np.testing.assert_array_equal(batches[1][1], [0, 5])
    assert Indexed(images, labels, np.arange(6))[4][1] == 4


def test_a_small_comparison(capsys):
    main(Streaming(data="digits", models=("mlp",), batch=16, steps=2, rounds=1))
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[:2] == ["mlp, arrays", "mlp, slices"]


@pytest.mark.parametrize("name", ["batch", "memory", "steps", "rounds"])
def test_numbers_that_cannot_be_are_refused(name):
    with says(InputError, name, "0"):
        main(Streaming(**{name: 0}))
