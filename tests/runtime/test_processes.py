"""Two processes with two devices each read, train, fit and save together, and go on after they were killed."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import refusals
from refusals import says

import mcjax
from mcjax import Augmentation, FitConfig, InputError, Recorder, RunError, TrainConfig, trees

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


class Normed(nn.Module):
    """Batch norm without convolutions."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x.reshape(len(x), -1)))
        return nn.Dense(10)(nn.relu(x))


def batches(arrays, rank):
    """A function of the examples of a process, the twelve that are its part of each batch, read seven at once.

    None: of all processes. A last part may be shorter, and be missing in the second process.
    """
    n = len(arrays[0])
    parts = [np.arange(at, min(at + 12, n)) for at in range(0, n, 12)]
    rows = np.concatenate(parts if rank is None else parts[rank::2])
    return lambda: (tuple(np.asarray(leaf)[rows[at : at + 7]] for leaf in arrays) for at in range(0, len(rows), 7))


def digits_task():
    model = mcjax.models.from_flax(Normed(), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    data = mcjax.data.load("digits").take(train=101, test=20)
    return mcjax.supervised(model, data, augmentation=Augmentation.none())


def streamed(mesh, rank):
    """What is trained, matched and measured on examples from the host: leaves by name."""
    task, config = digits_task(), TrainConfig(epochs=3, batch_size=24, steps_per_epoch=5)
    task = task.with_examples(train=batches(task.train, rank), test=batches(task.test, rank))
    found = mcjax.train_endpoints(jax.random.split(jax.random.key(0), 2), task, config, mesh=mesh)
    ends = trees.unstack(found.theta)
    P = mcjax.match_activations(task, *ends).P
    path = mcjax.linear(task.spec).bind(*ends, P)
    metrics = mcjax.evaluate_path(task, path, 3, mesh=mesh)
    plane = mcjax.plane(task, *ends, jax.tree.map(lambda a, b: a - b / 2, *ends), (2, 2), splits="test", mesh=mesh)
    return trees.flatten(
        {
            "networks": found._asdict(),
            "P": P,
            "test": mcjax.evaluate(task, found.theta),
            "train_loss": metrics.train_loss,
            "test_loss": metrics.test_loss,
            "plane": plane.test_loss,
            "labels": np.sort(task.load(train=None).train[1]),
        }
    )


def failing(mesh, rank, run):
    """The second process fails in its second epoch, of which the other is told, and both have complete epochs."""
    task, keys = digits_task(), jax.random.split(jax.random.key(0), 2)
    config = TrainConfig(epochs=3, batch_size=24, steps_per_epoch=4)
    whole = batches(task.train, rank)

    def breaks(number):
        for at, batch in enumerate(whole()):
            if (rank, number, at) == (1, 1, 3):
                raise OSError("the disk is gone")
            yield batch

    broken = task.with_examples(train=breaks)
    with pytest.raises(OSError, match="the disk is gone") if rank else says(RunError, "another process failed"):
        mcjax.train_endpoints(keys, broken, config, recorder=Recorder("t", run), mesh=mesh)
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 1
    with pytest.raises(OSError, match="the disk is gone") if rank else says(RunError, "another process failed"):
        mcjax.evaluate(task.with_examples(test=lambda: breaks(1)), task.init(keys[0]))


def refused(mesh, rank):
    """A batch that the processes cannot share, and no mesh to put its parts on."""
    task, keys = digits_task(), jax.random.split(jax.random.key(0), 2)
    task = task.with_examples(train=batches(task.train, rank))
    for size, where, words in ((25, mesh, ("batch_size=25", "4 devices", "24")), (24, None, ("2 processes", "mesh"))):
        with says(InputError, *words):
            mcjax.train_endpoints(keys, task, TrainConfig(1, size, steps_per_epoch=4), mesh=where)


def process(rank, port, folder, mode):
    """Work of one process: on streams; or a run that dies; or that run resumed, and another from the beginning."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank, initialization_timeout=60)
    from mcjax.runs import stage
    from mcjax.runtime.mesh import make_mesh

    stage.SAVE_EVERY_S = 0.0
    mesh = make_mesh(2, 2)
    if mode == "streamed":
        write(folder, rank, streamed(mesh, rank))
        refused(mesh, rank)
        failing(mesh, rank, mcjax.runs.folder.RunFolder(folder / "run", {"command": "test"}))
        return
    for name in ("killed",) if mode == "killed" else ("killed", "unbroken"):
        (folder / name).mkdir(exist_ok=True)
        run = (Killed if mode == "killed" else mcjax.runs.folder.RunFolder)(folder / name / "run", {"command": "test"})
        found = work(mesh, run)
        run.finish({"epochs": CONFIG.epochs})
        assert run.results == {"epochs": CONFIG.epochs}
        mcjax.runs.checkpoint.save(folder / name / "networks", {"loss": found["history/loss"]})
        found["read"] = mcjax.runs.checkpoint.load(folder / name / "networks")["loss"]
        with pytest.raises(mcjax.InputError, match="another config"):
            mcjax.runs.folder.RunFolder(folder / name / "run", {"command": "other"})
        write(folder / name, rank, found)


def write(folder, rank, found):
    np.savez(folder / f"{rank}.npz", **{name.replace("/", "|"): leaf for name, leaf in found.items()})


def start(folder, mode):
    """Run both; their exit codes, and what the first said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # How many devices there are is for each process to say.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    paths = os.pathsep.join([str(Path(refusals.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), "PYTHONPATH": paths}
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


def alike(found, alone):
    for name, leaf in alone.items():
        leaf = np.asarray(leaf)
        scale = 1e-4 * max(np.abs(leaf).max(), 1e-3)
        np.testing.assert_allclose(found[name.replace("/", "|")], leaf, 1e-4, scale, err_msg=name)


@pytest.mark.slow
def test_two_processes_read_a_stream_together_and_say_when_one_fails(tmp_path):
    codes, said = start(tmp_path, "streamed")
    assert codes == [0, 0], said
    alone = streamed(None, None)
    for rank in range(2):
        alike(read(tmp_path, rank), alone)


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

    alike(first, work(None, None))
    np.testing.assert_array_equal(first["read"], first["history|loss"])


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
