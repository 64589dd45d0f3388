"""`mcjax match`: the permutation that brings one network's units next to another's."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from mcjax import plotting, trees
from mcjax.commands.networks import (
    DataOptions,
    ModelOptions,
    Network,
    Out,
    check_key,
    open_run,
    read_pair,
)
from mcjax.data import Dataset, normalize
from mcjax.errors import InputError
from mcjax.matching import Match as Matched
from mcjax.matching import StraightThroughConfig, match_activations, match_straight_through, match_weights
from mcjax.matching.activations import Cost, as_images
from mcjax.models import Model
from mcjax.runs import Recorder
from mcjax.runs.folder import RunFolder, table, writing
from mcjax.symmetry import (
    Permutation,
    check_invariance,
    identity_permutation,
    random_permutation,
    save_permutation,
)
from mcjax.training.loop import steps_per_epoch
from mcjax.training.objective import check_fit

Method = Literal["activations", "weights", "straight_through", "random", "identity"]


@dataclass(frozen=True)
class Match:
    """Match the units of network B to those of network A: by activations (neuron alignment), weights, or the loss.

    First checks that the spec is a symmetry of the network, and refuses it otherwise. Whatever the method,
    the correlations that it reports are those of the activations.
    """

    a: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_1; RUN/0 is the first network of a run."""
    b: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_2, which is permuted."""
    images: DataOptions = field(default_factory=DataOptions)
    architecture: ModelOptions = field(default_factory=ModelOptions)
    method: tuple[Method, ...] = ("activations",)
    """One or several. Weights and straight_through start from what the one before found, or from nothing and from
    weights; activations and the baselines, random and identity, start anew."""
    restarts: int = 3
    """Restarts of weight matching."""
    epochs: int = 20
    """Passes of straight-through matching over the training images."""
    travel: float = StraightThroughConfig.travel
    """How far straight-through matching can move an entry of its matrices in all."""
    seed: int = 0
    """Seed of what is random in a method."""
    match_images: int | None = None
    """Training images to correlate over (None: the first fifth)."""
    batch_size: int = 128
    """Images at a time."""
    cost: Cost = "correlation"
    """What the assignment of activations maximises."""
    out: Out = None

    def run(self) -> None:
        """Do it, or report what was done."""
        key = check_key(self.seed)
        a, b, dataset, images = read_pair(self.a, self.b, self.architecture, self.images)
        self._check(a, dataset)
        run = open_run(
            "match",
            self.out,
            {
                "model": a.about["model"],
                "theta_1": trees.fingerprint(a.theta),
                "theta_2": trees.fingerprint(b.theta),
                "data": images,
                "match_images": self.match_images,
                "batch_size": self.batch_size,
                "cost": self.cost,
                "method": self.method,
                "restarts": self.restarts,
                "epochs": self.epochs,
                "travel": self.travel,
                "seed": self.seed,
            },
        )
        if run.results is None:
            match = matched(a, b, dataset, self.match_images, self.batch_size, self.cost)
            P, said = self._follow(key, run, a, b, dataset, match)
            match = _of(match, P)
            with writing(run.path / "permutation.npz"):
                save_permutation(run.path / "permutation.npz", match.P)
            methods = ", then ".join(method.replace("_", "-") for method in self.method)
            run.figure("correlation", correlation_figure(match, f"{a.model.name} on {dataset.name}", methods))
            moved = {group: int((np.asarray(p) != np.arange(len(p))).sum()) for group, p in match.P.items()}
            groups = {
                group: {
                    "units": len(p),
                    "moved": moved[group],
                    "correlation_before": float(match.info["before"][group]),
                    "correlation_after": float(match.info["after"][group]),
                }
                for group, p in match.P.items()
            }
            run.finish({"groups": groups, "methods": said})
        results = run.results or {}
        rows = [
            [group, f"{r['units']}", f"{r['moved']}", f"{r['correlation_before']:.3f}", f"{r['correlation_after']:.3f}"]
            for group, r in results["groups"].items()
        ]
        print(table(["group", "units", "moved", "correlation before", "after"], rows))
        for text in filter(None, map(_said, results["methods"])):
            print(text)
        print(f"Written to {run.path}; use it with --permutation {run.path / 'permutation.npz'}")

    def _follow(
        self, key: jax.Array, run: RunFolder, a: Network, b: Network, dataset: Dataset, match: Matched
    ) -> tuple[Permutation, list[dict[str, Any]]]:
        """The methods one after another, from the identity, and what each says of its result."""
        spec = a.model.spec
        said: list[dict[str, Any]] = []
        P = identity_permutation(spec, a.theta)
        for number, method in enumerate(self.method):
            own = jax.random.fold_in(key, number)
            if method == "activations":
                P = match.P
                said.append({"method": method})
            elif method == "weights":
                start = P if number else None
                found = match_weights(own, spec, a.theta, b.theta, self.restarts, P=start)
                P = found.P
                reached = found.info["restarts"].tolist()
                said.append({"method": method, "inner_product": float(found.objective), "restarts": reached})
            elif method == "straight_through":
                recorder = Recorder("straight-through matching", run, f"straight_through_{number}")
                config = self._straight_through()
                start = P if number else None
                ends = (a.theta, b.theta, dataset, start, config)
                learned = match_straight_through(own, a.model, *ends, recorder=recorder)
                P = learned.P
                said.append({"method": method, "midpoint_loss": learned.info["objectives"].tolist()})
            else:
                drawn = method == "random"
                P = random_permutation(own, spec, a.theta) if drawn else identity_permutation(spec, a.theta)
                said.append({"method": method})
        return P, said

    def _check(self, a: Network, dataset: Dataset) -> None:
        # Before the folder is made, which would refuse the same command put right.
        as_images(a.model, dataset)
        check_groups(a.model)
        there = len(dataset.train_images)
        if self.match_images is not None and not 1 < self.match_images <= there:
            raise InputError(f"got match_images={self.match_images}, expected 2 to {there}.")
        for name in ("batch_size", "restarts", "epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"got {name}={getattr(self, name)}, expected at least 1.")
        if not self.method:
            raise InputError(f"got no --method, expected one or several of {', '.join(get_args(Method))}.")
        if "straight_through" in self.method:
            check_fit(a.model, dataset)
            steps_per_epoch(self._straight_through(), dataset)

    def _straight_through(self) -> StraightThroughConfig:
        return StraightThroughConfig(epochs=self.epochs, batch_size=self.batch_size, travel=self.travel)


def _said(method: dict[str, Any]) -> str:
    if "inner_product" in method:
        reached = ", ".join(f"{value:.4f}" for value in method["restarts"])
        return f"weights: <theta_1, P theta_2> = {method['inner_product']:.4f}; the restarts reached {reached}"
    if "midpoint_loss" in method:
        losses = method["midpoint_loss"]
        return f"straight-through: loss at t = 1/2 from {losses[0]:.4f} to {min(losses):.4f}"
    return ""


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
    cost: Cost = "correlation",
) -> Matched:
    """The match of two networks on a data set's training images, after checking the spec."""
    few = normalize(dataset.test_images[:4], dataset.mean, dataset.std)
    check_invariance(a.model, a.theta, few, jax.random.key(0))
    taken = dataset if images is None else normalize(dataset.train_images[:images], dataset.mean, dataset.std)
    return match_activations(a.model, a.theta, b.theta, taken, batch_size, cost=cost)


def _of(match: Matched, P: Permutation) -> Matched:
    """The match with another P: the same correlations, paired otherwise."""
    correlation = match.info["correlation"]
    after = {group: correlation[group][np.arange(len(p)), np.asarray(p)].mean() for group, p in P.items()}
    return match._replace(P={group: np.asarray(p) for group, p in P.items()}, info={**match.info, "after": after})


def correlation_figure(match: Matched, title: str, method: str) -> Figure:
    """The widest picture of a match: its first group's correlations, and the mean of every group."""
    group = next(iter(match.P))
    before = match.info["correlation"][group]
    signature = {name: (match.info["before"][name], match.info["after"][name]) for name in match.P}
    after = before[:, match.P[group]]
    return plotting.correlation(before, after, signature, title, group=group, method=method)
