"""Seconds of the stages of a study, in times.json: beside the results, which are equal for equal runs."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from mcjax.runs.folder import RunFolder, read_json, write_atomically
from mcjax.runtime.processes import is_first_process


@contextmanager
def timed(run: RunFolder, name: str) -> Iterator[None]:
    """Add the seconds that something takes, also if it is interrupted, to those of its name."""
    began = time.monotonic()
    try:
        yield
    finally:
        if is_first_process():
            _add(run, name, time.monotonic() - began)


def _add(run: RunFolder, name: str, seconds: float) -> None:
    path = run.path / "times.json"
    stages = {each["name"]: each["seconds"] for each in read_json(path)["stages"]} if path.exists() else {}
    stages[name] = round(stages.get(name, 0.0) + seconds, 1)
    device = jax.devices()[0]
    machine = f"{jax.device_count()} x {device.device_kind} ({device.platform}), {platform.machine()}"
    listed = [{"name": stage, "seconds": taken} for stage, taken in stages.items()]
    write_atomically(path, json.dumps({"machine": machine, "stages": listed}, indent=1).encode())
