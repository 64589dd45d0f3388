"""Records of string sampling: a checkpoint, metrics and a progress line after every depth or level."""

import hashlib
import re
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.runs.recorder import Recorder
from mcjax.runs.stage import Stage
from mcjax.strings.config import StringConfig
from mcjax.strings.string import GrowingString
from mcjax.training.config import make_optimizer
from mcjax.training.loop import epoch_plan
from mcjax.training.measure import Metric
from mcjax.training.task import SplitName, Task


class StringRecording:
    """The record of growing strings after every step: a depth of sampling, or a level of a trained string.

    Strings of an interrupted run in the recorder's run folder are restored at the start.

    Attributes:
        step: The number of the last complete step; -1 before the first.
        about: The JSON saved with it.
        progress: The progress line, or None.
    """

    def __init__(
        self,
        recorder: Recorder,
        strings: list[GrowingString],
        fingerprint: str,
        config: StringConfig,
        unit: str = "depth",
    ) -> None:
        """Start a record, or resume it.

        Args:
            recorder: The run folder and the progress line.
            strings: The strings at the start; a saved state is restored into them.
            fingerprint: Hash of the inputs, from `fingerprint`.
            config: The settings of sampling.
            unit: Name of a step in the progress line.
        """
        self.strings, self.config = strings, config
        self.step, self.about = -1, dict[str, Any]()
        self._stage = Stage(recorder.run, recorder.stage, fingerprint)
        if (saved := self._stage.restore(first=-1)) is not None:
            self.step, self.about = saved.step, saved.about
            states = [saved.state[name] for name in sorted(saved.state)]
            for string, state, reason in zip(strings, states, self.about["reasons"], strict=True):
                string.restore(state, reason)
        self.progress = recorder.line(None, unit=unit, start=self.step)

    def add(self, **about: Any) -> None:
        """Complete a step: save the strings with JSON about them, log their summary, and show it."""
        self.step += 1
        measured = summary(self.strings, self.config.tolerance)
        self._stage.log(self.step, {name: value for name, value in measured.items() if np.isfinite(value)})
        state = {f"{i:05d}": string.state() for i, string in enumerate(self.strings)}
        self.about = {**about, "reasons": [string.reason for string in self.strings]}
        self._stage.save(self.step, state, self.about)
        if self.progress is not None:
            self.progress.update(self.step, self._line(measured))

    def _line(self, measured: dict[str, float]) -> str:
        if measured["open"]:
            worst = f"worst {self.config.criterion.label} {measured['worst']:.4g} thresholds"
            rest = f"{measured['segments']} segments open, {worst}"
        else:
            connected = sum(string.reason == "connected" for string in self.strings)
            rest = f"{connected} of {len(self.strings)} connected"
        return f"{measured['beads']} beads, {rest}"

    def close(self) -> None:
        """End the progress line."""
        if self.progress is not None:
            self.progress.close()


def fingerprint(kind: str, task: Task, config: StringConfig, strings: list[GrowingString]) -> str:
    """A hash of the inputs of sampling, the same in every process.

    Args:
        kind: The kind of sampling, with its settings that are not in the config.
        task: The task, as in `describe_task`.
        config: The settings, as in `describe_config`.
        strings: Straight strings; their keys, thresholds and ends are hashed.

    Returns:
        The sha256 in hexadecimal.
    """
    params = trees.params(strings[0].knots[0])
    inputs = (kind, describe_task(task), describe_config(config, task, params))
    each = [
        (string.threshold, jax.random.key_data(string.key), string.knots[0], string.knots[-1]) for string in strings
    ]
    return hashlib.sha256(f"{inputs} {trees.fingerprint(each)}".encode()).hexdigest()


def describe_task(task: Task) -> str:
    """A task by its name, the shapes and dtypes of its examples, and its spec."""
    splits = {
        split: {name: (leaf.shape, str(leaf.dtype)) for name, leaf in trees.flatten(getattr(task, split)).items()}
        for split in get_args(SplitName)
    }
    return repr((task.name, splits, task.spec))


def describe_config(config: StringConfig, task: Task, params: trees.Tree) -> str:
    """All settings, with functions described by what they are, not by their addresses.

    Args:
        config: The settings.
        task: The task, for the number of steps of a schedule.
        params: The parameters of a network.

    Returns:
        A text that is the same in every process.
    """
    training, criterion = config.training, config.criterion
    steps = epoch_plan(task, training.batch_size, training.steps_per_epoch).steps
    optimizer = describe_optimizer(make_optimizer(training.optimizer, training.epochs, steps), params)
    parts = {
        "training": {**vars(training), "optimizer": optimizer},
        "criterion": {**vars(criterion), "metric": describe_metric(criterion.metric)},
    }
    return repr({**vars(config), **parts})


def describe_optimizer(optimizer: optax.GradientTransformation, params: trees.Tree) -> str:
    """An optimiser by the programs of its `init` and `update`, with their constants; its `repr` has addresses."""
    init, state = jax.make_jaxpr(optimizer.init, return_shape=True)(params)
    update = jax.make_jaxpr(optimizer.update)(params, state, params)
    constants = [
        jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value
        for value in (*init.consts, *update.consts)
    ]
    return re.sub("0x[0-9a-f]+", "", f"{init} {update} {trees.fingerprint(constants)}")


def describe_metric(metric: str | Metric) -> str:
    """A metric by its name: that of a metric of the task, or the qualified one of a function or its type."""
    if isinstance(metric, str):
        return metric
    metric = getattr(metric, "func", metric)  # what a partial calls
    named = metric if hasattr(metric, "__qualname__") else type(metric)
    return f"{named.__module__}.{named.__qualname__}"


def summary(strings: list[GrowingString], tolerance: float) -> dict[str, float]:
    """The numbers of beads, open strings and their segments above the limit, and the highest height in thresholds."""
    open_ = [string for string in strings if not string.reason]
    return {
        "beads": sum(string.beads for string in strings),
        "open": len(open_),
        "segments": sum(len(string.segments_above(tolerance)) for string in open_),
        "worst": max(height / string.threshold for string in open_ or strings for height in string.heights),
    }
