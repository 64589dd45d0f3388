"""Data sets for regression."""

from typing import Any

import numpy as np

from mcjax.data.datasets import Dataset, check_dataset
from mcjax.errors import InputError


def regression(
    train_inputs: Any, train_targets: Any, test_inputs: Any, test_targets: Any, name: str = "regression"
) -> Dataset:
    """A Dataset for regression, trained on the mean squared error. Inputs are not normalised.

    Args:
        train_inputs: float32 (n, ...), as the model takes them.
        train_targets: float32 (n, outputs).
        test_inputs: float32 (m, ...).
        test_targets: float32 (m, outputs).
        name: The name in messages and results.

    Returns:
        The data set.

    Raises:
        InputError: If the arrays do not match, or a value is not finite.

    Example::

        x = np.linspace(0, 1, 200)[:, None]
        data = regression(x, x**2, x, x**2)
    """
    given = (train_inputs, train_targets, test_inputs, test_targets)
    train_x, train_y, test_x, test_y = (np.asarray(each, np.float32) for each in given)
    for split, inputs, targets in (("train", train_x, train_y), ("test", test_x, test_y)):
        if inputs.ndim < 2 or targets.ndim != 2 or len(inputs) != len(targets) or len(targets) == 0:
            raise InputError(
                f"{name}: {split} has inputs {inputs.shape} and targets {targets.shape}, expected (n, ...) and "
                "(n, outputs)."
            )
    data = Dataset(train_x, train_y, test_x, test_y, train_y.shape[1], name=name)
    check_dataset(data)
    return data
