"""Measured paths: options, figure, results and table of `mcjax connect` and `mcjax evaluate`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mcjax import plotting
from mcjax.commands.pam import pam_lines
from mcjax.errors import InputError
from mcjax.landscape import PathMetrics, barrier, evaluate_path
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runs.tables import table
from mcjax.training import Task
from mcjax.training.task import examples


@dataclass(frozen=True)
class EvaluateOptions:
    """Measurement of a path."""

    points: int = 61
    """Values of t, equally spaced from 0 to 1."""
    calibration_images: int | None = None
    """Training images to re-estimate batch statistics on at every t (None: all)."""
    eval_batch_size: int = 500
    """Images in memory at once."""

    def check(self, task: Task) -> None:
        """Raise InputError if these options do not fit the task, before a folder is made or a curve fitted."""
        available = examples(task.train)
        if self.points < 2:
            raise InputError(f"got points={self.points}, expected at least 2.")
        if self.calibration_images is not None and not 0 < self.calibration_images <= available:
            raise InputError(f"got calibration_images={self.calibration_images}, expected 1 to {available}.")
        if self.eval_batch_size < 1:
            raise InputError(f"got eval_batch_size={self.eval_batch_size}, expected at least 1.")

    def evaluate(self, task: Task, path: Any, mesh: Mesh | None = None) -> PathMetrics:
        """Measure a path, a function t -> theta, on one device or a mesh."""
        images = examples(task.train) + examples(task.test)
        print(f"measuring {self.points} points of the path, {images:,} images each", file=sys.stderr, flush=True)
        return evaluate_path(
            task,
            path,
            self.points,
            batch_size=self.eval_batch_size,
            calibration_examples=self.calibration_images,
            mesh=mesh,
        )


def save_curve(run: RunFolder, path: jax.tree_util.Partial, about: dict[str, Any]) -> None:
    """Save the endpoints, theta_c and P of a bound curve as one checkpoint."""
    parts = zip(("theta_1", "theta_2", "theta_c", "P"), path.args, strict=True)
    checkpoint.save(run.checkpoints("curve"), {name: part for name, part in parts if part is not None}, about)


def finish_path(run: RunFolder, metrics: PathMetrics, title: str, **more: Any) -> None:
    """Write the figure and the results of a measured path, with further results `more`."""
    line = plotting.Line("train loss, test accuracy", metrics.train_loss, metrics.test_accuracy, plotting.ALIGNED)
    run.figure("path", plotting.along_paths(metrics.ts, [line], title))
    along = {"ts": metrics.ts, **metrics.values, "distance": metrics.distance}
    values = {name: np.asarray(value).tolist() for name, value in along.items()}
    summary = {name: {key: float(v) for key, v in columns.items()} for name, columns in metrics.summary().items()}
    barriers = {f"barrier_{name}": float(barrier(metrics, name)) for name in summary}
    stored = {name: np.asarray(value).tolist() for name, value in metrics.stored.items()}
    found = {"summary": summary, **barriers, "length": values["distance"][-1], "along": values, "stored": stored}
    run.finish({**found, **more})


def report_path(path: Path, results: dict[str, Any]) -> None:
    """Print the summary of a measured path, the results of the run at `path`."""
    if "pam" in results:
        print(pam_lines("PAM", results["pam"]))
    columns = ("start", "end", "min", "max", "mean", "integral")
    rows = [
        [name.replace("_", " "), *(f"{values[column]:.4f}" for column in columns), f"{results[f'barrier_{name}']:.4f}"]
        for name, values in results["summary"].items()
    ]
    print(table(["along the path", *columns, "barrier"], rows))
    if stored := results.get("stored"):
        ends = ", ".join(f"{name.replace('_', ' ')} {a:.4f} and {b:.4f}" for name, (a, b) in stored.items())
        print(f"By the batch statistics in the checkpoints, not re-estimated, the ends have {ends}.")
    print(f"Length {results['length']:.3f}. Written to {path}")
