"""`mcjax match`: the permutation that brings one network's units next to another's."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from mcjax import plotting
from mcjax.commands.networks import (
    DataOptions,
    ModelOptions,
    Network,
    Out,
    fingerprint,
    open_run,
    read_pair,
)
from mcjax.data import Dataset, normalize
from mcjax.errors import InputError
from mcjax.matching import Match as Matched
from mcjax.matching import match_activations
from mcjax.matching.activations import as_images
from mcjax.models import Model
from mcjax.report import table, writing
from mcjax.symmetry import check_invariance, save_permutation


@dataclass(frozen=True)
class Match:
    """Match the units of network B to those of network A by their activations (neuron alignment).

    First checks that the spec is a symmetry of the network, and refuses it otherwise.
    """

    a: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_1; RUN/0 is the first network of a run."""
    b: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_2, which is permuted."""
    images: DataOptions = field(default_factory=DataOptions)
    architecture: ModelOptions = field(default_factory=ModelOptions)
    match_images: int | None = None
    """Training images to correlate over (None: the first fifth)."""
    batch_size: int = 128
    """Images at a time."""
    cost: Literal["correlation", "covariance", "inner_product"] = "correlation"
    """What the assignment maximises."""
    out: Out = None

    def run(self) -> None:
        """Do it, or report what was done."""
        a, b, dataset, images = read_pair(self.a, self.b, self.architecture, self.images)
        self._check(a, dataset)
        run = open_run(
            "match",
            self.out,
            {
                "model": a.about["model"],
                "theta_1": fingerprint(a.theta),
                "theta_2": fingerprint(b.theta),
                "data": images,
                "match_images": self.match_images,
                "batch_size": self.batch_size,
                "cost": self.cost,
            },
        )
        if run.results is None:
            match = matched(a, b, dataset, self.match_images, self.batch_size, self.cost)
            with writing(run.path / "permutation.npz"):
                save_permutation(run.path / "permutation.npz", match.P)
            run.figure("correlation", correlation_figure(match, f"{a.model.name} on {dataset.name}"))
            moved = {group: int((np.asarray(p) != np.arange(len(p))).sum()) for group, p in match.P.items()}
            run.finish(
                {
                    group: {
                        "units": len(p),
                        "moved": moved[group],
                        "correlation_before": float(match.before[group]),
                        "correlation_after": float(match.after[group]),
                    }
                    for group, p in match.P.items()
                }
            )
        results = run.results or {}
        rows = [
            [group, f"{r['units']}", f"{r['moved']}", f"{r['correlation_before']:.3f}", f"{r['correlation_after']:.3f}"]
            for group, r in results.items()
        ]
        print(table(["group", "units", "moved", "correlation before", "after"], rows))
        print(f"Written to {run.path}; use it with --permutation {run.path / 'permutation.npz'}")

    def _check(self, a: Network, dataset: Dataset) -> None:
        # Before the folder is made, which would refuse the same command put right.
        as_images(a.model, dataset)
        check_groups(a.model)
        there = len(dataset.train_images)
        if self.match_images is not None and not 1 < self.match_images <= there:
            raise InputError(f"got match_images={self.match_images}, expected 2 to {there}.")
        if self.batch_size < 1:
            raise InputError(f"got batch_size={self.batch_size}, expected at least 1.")


def check_groups(model: Model) -> None:
    """Raise InputError if nothing of this model can be permuted: then there is nothing to match."""
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted, so that there is nothing to match:\n{model.spec}")


def matched(
    a: Network,
    b: Network,
    dataset: Dataset,
    images: int | None = None,
    batch_size: int = 128,
    cost: Literal["correlation", "covariance", "inner_product"] = "correlation",
) -> Matched:
    """The match of two networks on a data set's training images, after checking the spec."""
    few = normalize(dataset.test_images[:4], dataset.mean, dataset.std)
    check_invariance(a.model, a.theta, few, jax.random.key(0))
    taken = dataset if images is None else normalize(dataset.train_images[:images], dataset.mean, dataset.std)
    return match_activations(a.model, a.theta, b.theta, taken, batch_size, cost=cost)


def correlation_figure(match: Matched, title: str) -> Figure:
    """The widest picture of a match: its first group's correlations, and the mean of every group."""
    group = next(iter(match.P))
    before = match.correlation[group]
    signature = {name: (match.before[name], match.after[name]) for name in match.P}
    return plotting.correlation(before, before[:, match.P[group]], signature, f"{title}: cross-correlation of {group}")
