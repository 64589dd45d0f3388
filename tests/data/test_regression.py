"""Regression: inputs and targets as given; arrays that do not fit together are refused."""

import numpy as np
import pytest
from refusals import says

from mcjax import Augmentation, InputError
from mcjax.data import regression


def test_a_regression_keeps_what_it_is_given():
    x, y = np.linspace(0, 1, 8)[:, None], np.ones((8, 2))
    data = regression(x, y, x[:3], y[:3], "line")
    np.testing.assert_array_equal(data.train_images, np.float32(x))
    np.testing.assert_array_equal(data.test_labels, np.float32(y[:3]))
    assert data.train_images.dtype == data.train_labels.dtype == np.float32
    assert (data.image_shape, data.num_classes, data.name) == ((1,), 2, "line")
    assert data.default_augmentation() == Augmentation.none()
    assert len(data.take(train=2, test=1).train_labels) == 2


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones(4), np.ones((4, 1)), ("train", "(4,)", "(4, 1)")),
        (np.ones((4, 1)), np.ones(4), ("(4, 1)", "(4,)")),
        (np.ones((4, 1)), np.ones((3, 1)), ("(4, 1)", "(3, 1)")),
        (np.ones((0, 1)), np.ones((0, 1)), ("(0, 1)",)),
        (np.full((4, 1), np.nan), np.ones((4, 1)), ("train", "not finite")),
        (np.ones((4, 1)), np.full((4, 1), np.inf), ("train", "not finite")),
        (np.ones((4, 2)), np.ones((4, 1)), ("train", "test", "shape")),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(x, y, words):
    with says(InputError, "regression", *words):
        regression(x, y, np.ones((2, 1)), np.ones((2, 1)))
