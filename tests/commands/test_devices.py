"""The mesh of a command: what it refuses before anything is done. What it computes is in training/test_mesh.py."""

import jax
import pytest
from command_line import SMALL, run, said

from mcjax.commands.devices import DeviceOptions


def test_one_device_is_the_default():
    assert DeviceOptions().start() is None
    assert dict(DeviceOptions((1, 1)).start().shape) == {"pair": 1, "data": 1}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--mesh", 1000, 1), 2, "1000 devices, expected at most"),
        (("--mesh", 0, 1), 2, "got pair=0"),
        (("--distributed",), 2, "--distributed needs --mesh"),
        (("--mesh", 1, 1, "--distributed"), 1, "no other process was found"),
    ],
)
def test_what_is_refused(options, code, message, bars, tmp_path, capsys, monkeypatch):
    def lonely():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", lonely)
    assert run("train", "--data", bars, *SMALL, *options, "--out", tmp_path / "run") == code
    said(capsys, code, message)
    assert not (tmp_path / "run").exists()
