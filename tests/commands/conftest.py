"""Data and trained networks that the tests of several commands share."""

import gc

import numpy as np
import pytest
from command_line import SMALL, run


@pytest.fixture
def collected():
    """What Orbax leaves of a reading that failed goes here, not in the middle of a later test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def bars(tmp_path_factory, tiny_data):
    """One file for all commands of a session, so that what is compiled for it is found again."""
    path = tmp_path_factory.getbasetemp() / "bars.npz"
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    np.savez(path, **{name: getattr(tiny_data, name) for name in names})
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, bars):
    """A run of two networks; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("commands") / "trained"
    assert run("train", "--data", bars, *SMALL, "--out", folder) == 0
    return folder
