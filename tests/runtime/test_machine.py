"""The machine and the software that results were computed with."""

import json
import os
import sys

import jax
import numpy as np
import optax

from mcjax.runtime import machine


def test_a_machine_is_its_devices_its_cores_and_its_versions(monkeypatch):
    found = machine.describe_machine()
    assert json.loads(json.dumps(found)) == found
    assert (found["device"], found["devices"]) == (jax.devices()[0].device_kind, jax.device_count())
    versions = found["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    for module in (jax, np, optax):
        assert versions[module.__name__] == module.__version__
    # The cores are those that the process may use.
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert machine.describe_machine()["cores"] == 1
    monkeypatch.setattr(machine, "PACKAGES", ("none_such",))
    assert machine.describe_machine()["versions"]["none_such"] is None
