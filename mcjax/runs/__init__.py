"""Run folders: the files of a run, and resuming an interrupted run.

A run has one folder. `config.json` holds its configuration, `metrics.jsonl` one line per epoch, and `results.json`,
written last, its results; `figures/` and `checkpoints/` hold the rest. Every file is written atomically. The same bits
need the same kind of device, the same versions and, on a CPU, as many cores: `machines.jsonl` has what was used.

- `RunFolder(path, config)` opens a folder, and raises an error if it belongs to another config, or another process.
- `Recorder(title, run, stage)` records a fit: progress line, metrics, and the state after the last complete epoch. A
  fit that is called again with the same arguments resumes from that state, to the same bits. `Recorder()` alone is
  the progress line.
- `Progress` is a progress line for your own loop; `Recorder(progress=...)` shows the epochs of a fit in it.
- `Stage` saves the state of your own iteration.
- `checkpoint.save`, `checkpoint.load` and `checkpoint.describe` are for single pytrees, with a checksum. `load` also
  reads the Orbax folders of others, Flax msgpack files and `.npz` files of leaves by name, without pickle.

Example::

    import jax
    import mcjax
    from mcjax.runs import Recorder, RunFolder

    data = mcjax.data.load("digits")
    model = mcjax.models.create("mlp", 10, data.image_shape, widths=(8,))
    task = mcjax.supervised(model, data)
    config = mcjax.TrainConfig(epochs=2, batch_size=500)
    run = RunFolder("runs/two", {"epochs": 2, "seed": 0})
    keys = jax.random.split(jax.random.key(0), 2)
    networks = mcjax.train_endpoints(keys, task, config, recorder=Recorder("two networks", run, "train"))
    mcjax.checkpoint.save(run.checkpoints("first"), jax.tree.map(lambda leaf: leaf[0], networks.theta))
    run.finish({"loss": networks.history["loss"][:, -1].tolist()})
    print(run.results)
"""

from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runs.progress import Progress
from mcjax.runs.recorder import Recorder
from mcjax.runs.stage import Stage

__all__ = ["Progress", "Recorder", "RunFolder", "Stage", "checkpoint"]
