"""Two processes with two devices each train, fit and save together, and go on after they were killed."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import mcjax
from mcjax import Augmentation, FitConfig, Recorder, TrainConfig, trees

KILLED = 7
CONFIG = TrainConfig(epochs=3, batch_size=24)


class Killed(mcjax.runs.folder.RunFolder):
    """A run folder in whose second epoch of `stage` every process dies."""

    stage = "curve"

    def log(self, stage, epoch, metrics):
        super().log(stage, epoch, metrics)
        if (stage, epoch) == (self.stage, 2):
            os._exit(KILLED)


def work(mesh, run):
    """Networks, and the curve between them: leaves by name."""
    data = mcjax.data.load("digits").take(train=96, test=20)
    model = mcjax.models.create("mlp", 10, (8, 8, 1), widths=(6,))
    task = mcjax.supervised(model, data, augmentation=Augmentation.none())
    stages = [None if run is None else Recorder(stage, run, stage) for stage in ("train", "curve")]
    keys = jax.random.split(jax.random.key(0), 4)
    networks = mcjax.train_endpoints(keys, task, CONFIG, recorder=stages[0], mesh=mesh)
    theta_1, theta_2 = (jax.tree.map(lambda leaf, i=i: leaf[i : i + 2], networks.theta) for i in (0, 2))
    P = {"dense_0": np.roll(np.arange(6), 1)[None].repeat(2, 0)}
    key, curve = jax.random.key(1), mcjax.bezier(model.spec)
    config = FitConfig(CONFIG.epochs, CONFIG.batch_size)
    fit = mcjax.fit_curve(key, task, curve, theta_1, theta_2, P, config, recorder=stages[1], mesh=mesh)
    return trees.flatten({"networks": networks._asdict(), "theta_c": fit.theta_c, "P": fit.P, "history": fit.history})


def process(rank, port, folder, mode):
    """Work of one process: a run that dies; or that run resumed, and another from the beginning."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank, initialization_timeout=60)
    from mcjax.runs import stage
    from mcjax.runtime.mesh import make_mesh

    stage.SAVE_EVERY_S = 0.0
    for name in ("killed",) if mode == "killed" else ("killed", "unbroken"):
        (folder / name).mkdir(exist_ok=True)
        run = (Killed if mode == "killed" else mcjax.runs.folder.RunFolder)(folder / name / "run", {"command": "test"})
        found = work(make_mesh(2, 2), run)
        run.finish({"epochs": CONFIG.epochs})
        assert run.results == {"epochs": CONFIG.epochs}
        mcjax.runs.checkpoint.save(folder / name / "networks", {"loss": found["history/loss"]})
        found["read"] = mcjax.runs.checkpoint.load(folder / name / "networks")["loss"]
        with pytest.raises(mcjax.InputError, match="another config"):
            mcjax.runs.folder.RunFolder(folder / name / "run", {"command": "other"})
        np.savez(folder / name / f"{rank}.npz", **{name.replace("/", "|"): leaf for name, leaf in found.items()})


def start(folder, mode):
    """Run both; their exit codes, and what the first said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # How many devices there are is for each process to say.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    logs = [folder / f"{mode}_{rank}.log" for rank in range(2)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, __file__, str(rank), str(port), str(folder), mode]
            with open(log, "w") as stream:
                processes.append(subprocess.Popen(command, stdout=stream, stderr=stream, env=environment))
        until = time.monotonic() + 240
        codes = [each.wait(max(1, until - time.monotonic())) for each in processes]
    finally:
        for each in processes:
            if each.poll() is None:
                each.kill()
                each.wait()
    return codes, "\n".join(log.read_text()[-3000:] for log in logs)


def read(folder, rank):
    with np.load(folder / f"{rank}.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
def test_two_processes_train_fit_and_save_together_and_go_on_after_they_were_killed(tmp_path):
    codes, said = start(tmp_path, "killed")
    assert all(codes), said
    assert KILLED in codes, said
    assert not (tmp_path / "killed" / "0.npz").exists()
    codes, said = start(tmp_path, "resumed")
    assert codes == [0, 0], said

    first = read(tmp_path / "unbroken", 0)
    for folder, rank in (("unbroken", 1), ("killed", 0), ("killed", 1)):
        again = read(tmp_path / folder, rank)
        assert again.keys() == first.keys()
        for name, leaf in first.items():
            np.testing.assert_array_equal(again[name], leaf, err_msg=f"{folder} {rank} {name}")
    metrics = [(tmp_path / folder / "run" / "metrics.jsonl").read_text() for folder in ("unbroken", "killed")]
    assert metrics[0] == metrics[1]
    assert len(metrics[0].splitlines()) == 2 * CONFIG.epochs

    alone = work(None, None)
    for name, leaf in alone.items():
        leaf = np.asarray(leaf)
        scale = 1e-4 * max(np.abs(leaf).max(), 1e-3)
        np.testing.assert_allclose(first[name.replace("/", "|")], leaf, 1e-4, scale, err_msg=name)
    np.testing.assert_array_equal(first["read"], first["history|loss"])


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
