"""`mcjax match`: find the permutation that matches the units of one network to those of another."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from mcjax import matching, plotting, trees
from mcjax.commands.networks import Network, read_networks
from mcjax.commands.options import DataOptions, ModelOptions, Out, open_run, seed_key
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.matching import StraightThroughConfig, match_activations, match_straight_through, match_weights
from mcjax.matching.activations import Cost, Trunk, trunk_of
from mcjax.models import Model
from mcjax.runs import Recorder
from mcjax.runs.folder import RunFolder
from mcjax.runs.tables import table
from mcjax.symmetry import (
    Permutation,
    check_invariance,
    identity_permutation,
    random_permutation,
    save_permutation,
)
from mcjax.training import Task, supervised
from mcjax.training.loop import epoch_plan
from mcjax.training.task import examples

Method = Literal["activations", "weights", "straight_through", "random", "identity"]


@dataclass(frozen=True)
class Match:
    """Match the units of network B to those of network A: by activations (neuron alignment), weights, or the loss.

    Checks first that the spec is a symmetry of the network. The reported correlations are those of the activations, for
    every method.
    """

    a: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_1; RUN/0 is the first network of a run."""
    b: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_2, which is permuted."""
    images: DataOptions = field(default_factory=DataOptions)
    architecture: ModelOptions = field(default_factory=ModelOptions)
    method: tuple[Method, ...] = ("activations",)
    """One or several methods, in order. weights and straight_through start from the result of the previous method; as
    the first method, weights starts without one, and straight_through from matched weights. Others ignore it."""
    restarts: int = 3
    """Restarts of weight matching."""
    epochs: int = 20
    """Passes of straight-through matching over the training images."""
    travel: float = StraightThroughConfig.travel
    """Largest distance that straight-through matching can move an entry of its matrices."""
    seed: int = 0
    """Seed of the methods."""
    match_images: int | None = None
    """Training images to correlate activations over, evenly spaced (None: a fifth)."""
    batch_size: int = 128
    """Images in memory at once."""
    cost: Cost = "correlation"
    """Similarity of activations that the assignment maximises."""
    trunk: Trunk = "stem_and_blocks"
    """Part of the stem in the mean over a residual trunk; published: the stem alone, for the trunk that it begins."""
    out: Out = None

    def run(self) -> None:
        """Run the command, or report its results."""
        key = seed_key(self.seed)
        (a, b), dataset, images = read_networks((self.a, self.b), self.architecture, self.images)
        task = self._task(a.model, a.theta, dataset)
        run = open_run(
            "match",
            self.out,
            {
                "model": a.about["model"],
                "theta_1": trees.fingerprint(a.theta),
                "theta_2": trees.fingerprint(b.theta),
                "data": images,
                "match_images": self.match_images,
                **self._how(),
                "method": self.method,
                "restarts": self.restarts,
                "epochs": self.epochs,
                "travel": self.travel,
                "seed": self.seed,
            },
        )
        if run.results is None:
            self._finish(key, run, task, a, b)
        run.report(partial(_report, run.path))

    def _how(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "cost": self.cost, "trunk": self.trunk}

    def _finish(self, key: jax.Array, run: RunFolder, task: Task, a: Network, b: Network) -> None:
        match = match_units(task, a.theta, b.theta, examples=self.match_images, **self._how())
        P, summaries = self._run_methods(key, run, task, a, b, match)
        match = _with_permutation(match, P)
        run.write("permutation.npz", lambda file: save_permutation(file, match.P))
        methods = ", then ".join(method.replace("_", "-") for method in self.method)
        run.figure("correlation", correlation_figure(match, task.name, methods))
        groups = {
            group: {
                "units": len(p),
                "moved": int((np.asarray(p) != np.arange(len(p))).sum()),
                "correlation_before": float(match.info["before"][group]),
                "correlation_after": float(match.info["after"][group]),
            }
            for group, p in match.P.items()
        }
        run.finish({"groups": groups, "methods": summaries})

    def _run_methods(
        self, key: jax.Array, run: RunFolder, task: Task, a: Network, b: Network, match: matching.Match
    ) -> tuple[Permutation, list[dict[str, Any]]]:
        """Run the methods in order. Returns the last permutation, and a summary of each result."""
        spec = a.model.spec
        P = identity_permutation(spec, a.theta)
        summaries: list[dict[str, Any]] = []
        for number, method in enumerate(self.method):
            own_key, start = jax.random.fold_in(key, number), P if number else None
            summary: dict[str, Any] = {"method": method}
            if method == "activations":
                P = match.P
            elif method == "weights":
                found = match_weights(own_key, spec, a.theta, b.theta, self.restarts, P=start)
                P = found.P
                summary |= {"inner_product": float(found.objective), "restarts": found.info["restarts"].tolist()}
            elif method == "straight_through":
                recorder = Recorder("straight-through matching", run, f"straight_through_{number}")
                ends = (a.theta, b.theta, start, self._straight_through())
                learned = match_straight_through(own_key, task, *ends, recorder=recorder)
                P = learned.P
                summary |= {"midpoint_loss": learned.info["objectives"].tolist()}
            elif method == "random":
                P = random_permutation(own_key, spec, a.theta)
            else:
                P = identity_permutation(spec, a.theta)
            summaries.append(summary)
        return P, summaries

    def _task(self, model: Model, theta: trees.Tree, dataset: Dataset) -> Task:
        """The task. All is checked before the run folder is made, since an existing one would refuse the correction."""
        check_groups(model)
        trunk_of(model, theta, self.trunk)
        # Only straight-through matching looks at labels; the others take images of any classes.
        labelled = "straight_through" in self.method
        task = supervised(model, dataset, loss=None if labelled else _no_labels)
        available = examples(task.train)
        if self.match_images is not None and not 1 < self.match_images <= available:
            raise InputError(f"got match_images={self.match_images}, expected 2 to {available}.")
        for name in ("batch_size", "restarts", "epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"got {name}={getattr(self, name)}, expected at least 1.")
        for method, options in (("weights", ("restarts",)), ("straight_through", ("epochs", "travel"))):
            if method not in self.method and any(getattr(self, name) != getattr(type(self), name) for name in options):
                raise InputError(f"--{' and --'.join(options)} are for --method {method}: got {' '.join(self.method)}.")
        if not self.method:
            raise InputError(f"got no --method, expected one or several of {', '.join(get_args(Method))}.")
        if labelled:
            epoch_plan(task, self.batch_size, self._straight_through().steps_per_epoch)
        return task

    def _straight_through(self) -> StraightThroughConfig:
        return StraightThroughConfig(epochs=self.epochs, batch_size=self.batch_size, travel=self.travel)


def _report(path: Path, results: dict[str, Any]) -> None:
    rows = [
        [group, f"{r['units']}", f"{r['moved']}", f"{r['correlation_before']:.3f}", f"{r['correlation_after']:.3f}"]
        for group, r in results["groups"].items()
    ]
    print(table(["group", "units", "moved", "correlation before", "after"], rows))
    for summary in results["methods"]:
        if "inner_product" in summary:
            reached = ", ".join(f"{value:.4f}" for value in summary["restarts"])
            print(f"weights: <theta_1, P theta_2> = {summary['inner_product']:.4f}; the restarts reached {reached}")
        elif "midpoint_loss" in summary:
            losses = summary["midpoint_loss"]
            print(f"straight-through: loss at t = 1/2 from {losses[0]:.4f} to {min(losses):.4f}")
    print(f"Written to {path}; use it with --permutation {path / 'permutation.npz'}")


def _no_labels(outputs: Any, labels: Any) -> jax.Array:
    """A loss without labels, for a task whose loss is not used."""
    return jnp.square(outputs)


def check_groups(model: Model) -> None:
    """Raise InputError if the model has no groups of units to match."""
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted, so there is nothing to match:\n{model.spec}")


def check_symmetry(task: Task, theta: trees.Tree, key: jax.Array | None = None) -> None:
    """Raise SpecError unless the spec is a symmetry of the network, on a few test images."""
    few = task.model_inputs(jax.tree.map(lambda leaf: leaf[:4], task.test))
    check_invariance(task.model, theta, few, jax.random.key(0) if key is None else key)


def match_units(task: Task, theta_1: trees.Tree, theta_2: trees.Tree, **options: Any) -> matching.Match:
    """`match_activations` of two networks, after checking that the spec is a symmetry."""
    check_symmetry(task, theta_1)
    return match_activations(task, theta_1, theta_2, **options)


def _with_permutation(match: matching.Match, P: Permutation) -> matching.Match:
    """The match with another P, and with the mean correlations of the units matched by it."""
    paired = {
        group: match.info["correlation"][group][np.arange(len(p)), np.asarray(p)].mean() for group, p in P.items()
    }
    return match._replace(P={group: np.asarray(p) for group, p in P.items()}, info={**match.info, "after": paired})


def correlation_figure(match: matching.Match, title: str, method: str) -> Figure:
    """The figure of a match: correlations in the first group (of the first pair of many), and means of all groups."""
    group = next(iter(match.P))
    before, p = match.info["correlation"][group], np.asarray(match.P[group])
    if p.ndim == 2:
        before, p = before[0], p[0]
    means = {name: (match.info["before"][name], match.info["after"][name]) for name in match.P}
    return plotting.correlation(before, before[:, p], means, title, group=group, method=method)
