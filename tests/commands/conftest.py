"""Data, trained networks and curves that the tests of several commands share; tests leave them as they are."""

import numpy as np
import pytest
from command_line import CURVES, FIT, SMALL, run


@pytest.fixture(scope="session")
def bars(tmp_path_factory, tiny_data):
    """One file for all commands of a session, so that what is compiled for it is found again."""
    path = tmp_path_factory.getbasetemp() / "bars.npz"
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    np.savez(path, **{name: getattr(tiny_data, name) for name in names})
    return path


@pytest.fixture(scope="session")
def train(bars):
    """The command that makes `trained`, but for its folder."""
    return ("train", "--data", bars, *SMALL)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train):
    """A run of two networks."""
    folder = tmp_path_factory.mktemp("commands") / "trained"
    assert run(*train, "--out", folder) == 0
    return folder


@pytest.fixture(scope="session")
def ends(trained):
    """The two networks of `trained`."""
    return (trained / "0", trained / "1")


@pytest.fixture(scope="session")
def matched(trained, ends):
    """The run of `mcjax match` of the two networks."""
    assert run("match", *ends, "--out", trained.parent / "matched") == 0
    return trained.parent / "matched"


@pytest.fixture(scope="session")
def connected(trained, ends):
    """The run of each of CURVES, made when it is first asked for."""
    made = {}

    def connect(name):
        if name not in made:
            made[name] = trained.parent / name.replace(" ", "_")
            options = FIT[-2:] if name.startswith("line") else FIT  # which is measured alone
            assert run("connect", *ends, *options, *CURVES[name], "--out", made[name]) == 0
        return made[name]

    return connect
