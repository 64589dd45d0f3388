"""Run folders: what a run leaves behind, and how an interrupted one goes on.

A run lives in one folder: `config.json` says what it is, `metrics.jsonl` has a line an epoch, `results.json` is there
once it is finished, and `figures/` and `checkpoints/` hold the rest. Everything is written whole or not at all.

- `RunFolder(path, config)` opens a folder, and refuses one of another config.
- `Recorder(title, run, stage)` is what every fit reports to: a line of progress, metrics, and the state after the last
  complete epoch. Called again with the same arguments, a fit goes on from there and ends with the same bits.
- `Progress` is a line of progress of your own; `Recorder(progress=...)` puts the epochs of a fit into it.
- `Stage` keeps the state of an iteration of your own.
- `checkpoint.save`, `checkpoint.load` and `checkpoint.describe` are for single pytrees. Orbax folders, Flax msgpack
  files and `.npz` files of leaves by name are read, without pickle.

Example::

    import jax
    import mcjax
    from mcjax.runs import Recorder, RunFolder

    data = mcjax.data.load("digits")
    model = mcjax.models.create("mlp", 10, data.image_shape, widths=(8,))
    config = mcjax.TrainConfig(epochs=2, batch_size=500)
    run = RunFolder("runs/two", {"epochs": 2, "seed": 0})
    keys = jax.random.split(jax.random.key(0), 2)
    networks = mcjax.train_endpoints(keys, model, data, config, recorder=Recorder("two networks", run, "train"))
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
