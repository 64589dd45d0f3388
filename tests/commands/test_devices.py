"""The mesh of a command: of one device, and of one process. runtime/test_mesh.py tests what is computed on it."""

import jax
from command_line import run, said

from mcjax.commands.devices import DeviceOptions


def test_one_device_is_the_default():
    assert DeviceOptions().start() is None
    assert dict(DeviceOptions((1, 1)).start().shape) == {"pair": 1, "data": 1}


def test_a_process_that_finds_no_other_is_reported(train, tmp_path, capsys, monkeypatch):
    def lonely():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", lonely)
    assert run(*train, "--mesh", 1, 1, "--distributed", "--out", tmp_path / "run") == 1
    said(capsys, 1, "no other process")
    assert not (tmp_path / "run").exists()
