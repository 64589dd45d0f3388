"""Measurements of one problem but for paths: accuracy, dropout stability, narrow networks, noise stability."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.dropout_stability.tasks import SHARE, Problem
from experiments.study import Parts
from mcjax import Task, evaluate, evaluate_path, match_activations, models, supervised, trees
from mcjax.constructions import DropoutStability, drop_units, dropout_stability
from mcjax.constructions.chain import chain_of
from mcjax.curves.polyline import Polyline
from mcjax.landscape import noise_stability
from mcjax.runtime.mapping import over_models

POINTS = 31
"""Values of t on a line, a curve or a string; constructed paths are measured on every segment."""
MASKS = 20
"""Masks of channel-wise dropout whose accuracies are averaged."""
SUBSETS: Mapping[str, dict[str, Any]] = {
    "published": {"search": "together", "rescale": "fixed"},
    "searched": {"search": "layers", "rescale": "layer"},
}
"""Two ways to choose and rescale the units that are kept."""


@dataclass(frozen=True)
class Cell:
    """A problem, its key, and its parts."""

    problem: Problem
    key: jax.Array
    parts: Parts

    def trained(self, part: str, task: Task, count: int) -> trees.Tree:
        """Networks of one task, along a leading axis."""
        key = jax.random.fold_in(self.key, sum(part.encode()))
        return self.parts.trained(part, key, count, task, self.problem.networks)

    @property
    def networks(self) -> trees.Tree:
        """The two networks that are joined."""
        return self.trained("networks", self.problem.task, 2)

    def end(self, i: int) -> trees.Tree:
        """One of the two."""
        return trees.index(self.networks, i)

    @property
    def P(self) -> dict[str, Any]:
        """The permutation that matches the second network to the first."""
        return self.parts.arrays("match", lambda: match_activations(self.problem.measured, self.end(0), self.end(1)).P)

    def stable(self, i: int, name: str, fraction: float | dict[str, float], **options: Any) -> DropoutStability:
        """The dropout stability of one of the two networks: `fraction` of its units dropped."""
        problem, size = self.problem, self.problem.size

        def make() -> Any:
            found = dropout_stability(
                jax.random.fold_in(self.key, 100 + i), problem.measured, self.end(i), fraction,
                draws=size.draws, search_examples=size.search_images, **options,
            )  # fmt: skip
            arrays = {name: value for name, value in found._asdict().items() if name != "criterion"}
            return {**arrays, "keep": {group: mask.astype(np.int32) for group, mask in found.keep.items()}}

        kept = self.parts.arrays(f"stable_{name}_{i}", make)
        keep = {group: np.asarray(kept["keep"][group]) > 0 for group in chain_of(problem.model).groups}
        factors, losses = (np.asarray(kept[name]) for name in ("factors", "losses"))
        return DropoutStability(
            kept["theta"], kept["thetas"], keep, factors, float(kept["loss"]), losses, float(kept["fraction"])
        )

    def along(self, path: Any, ts: Any = None) -> dict[str, Any]:
        """Loss and accuracy along a path, at POINTS values of t or at `ts`."""
        ts = np.linspace(0, 1, POINTS) if ts is None else ts
        metrics = evaluate_path(self.problem.measured, path, ts)
        return {"ts": metrics.ts, **metrics.values, "distance": metrics.distance}


def networks(cell: Cell) -> dict[str, Any]:
    """Loss and accuracy of both networks without dropout, and the accuracy with one mask of it at a time."""

    def make() -> Any:
        problem = cell.problem
        found = _metrics(problem.task, cell.networks)
        if problem.name == "cifar10":
            keys = jax.random.split(jax.random.fold_in(cell.key, 1), MASKS)
            each = []
            for i in range(2):
                drop = partial(drop_units, model=problem.model, theta=cell.end(i), fraction=problem.rates)
                masked = over_models(drop)(keys)
                each.append([split["accuracy"].mean().item() for split in evaluate(problem.measured, masked)])
            found["activated_train_accuracy"] = [train for train, _ in each]
            found["activated_test_accuracy"] = [test for _, test in each]
        return found

    return cell.parts.numbers("networks_measured", make)


def _metrics(task: Task, theta: trees.Tree) -> dict[str, Any]:
    train, test = evaluate(task, theta)
    return {"train_loss": train["loss"], "train_accuracy": train["accuracy"], "test_accuracy": test["accuracy"]}


def dropout_by_share(cell: Cell) -> list[dict[str, Any]]:
    """Figure 2, left: the best of many dropout networks for every share dropped, as published and by our search."""

    def make(share: float, name: str) -> Any:
        each = []
        for i in range(2):
            stable = cell.stable(i, f"{name}_{share:g}", share, **SUBSETS[name])
            metrics = _metrics(cell.problem.measured, trees.index(stable.thetas, 0))
            each.append({"epsilon": stable.epsilon, **metrics})
        return each

    return [
        {
            "share": share,
            "subsets": name,
            "networks": cell.parts.numbers(f"share_{name}_{share:g}", partial(make, share, name)),
        }
        for share in cell.problem.size.shares
        for name in SUBSETS
    ]


def interpolation(cell: Cell) -> dict[str, Any]:
    """Figure 2, centre: from the first network straight to its dropout network."""
    stable = cell.stable(0, f"searched_{SHARE:g}", SHARE)
    knots = trees.stack([stable.theta, trees.index(stable.thetas, 0)])
    return cell.parts.numbers("interpolation", lambda: cell.along(Polyline(knots).path, np.linspace(0, 1, 21)))


def narrow_widths(cell: Cell) -> list[dict[str, Any]]:
    """Figure 2, right: networks of a few filters."""
    images = cell.problem.data

    def make(width: int) -> Any:
        model = models.create("filters_convnet", images.num_classes, images.image_shape, width=width / 32)
        task = supervised(model, images)
        found = _metrics(task, cell.trained(f"narrow_{width}", task, 2))
        return {name: found[name] for name in ("train_loss", "test_accuracy")}

    return [
        {"width": width, **cell.parts.numbers(f"narrow_{width}_measured", partial(make, width))}
        for width in cell.problem.narrow_widths
    ]


def stability(cell: Cell) -> dict[str, Any]:
    """Figure 3, left: the quantities of noise stability of the first network, image by image."""

    def make() -> Any:
        found = noise_stability(
            jax.random.fold_in(cell.key, 2), cell.problem.measured, cell.end(0), fraction=cell.problem.rates,
            examples=cell.problem.size.stability_images, draws=2, ts=3,
        )  # fmt: skip
        # The least over the layers that follow, over draws and t, of every image and layer.
        onward = np.nan_to_num(found.interlayer_cushion, nan=np.inf).min(1)
        smooth = np.nan_to_num(found.smoothness, nan=np.inf).min((0, 2))
        return {
            "layer_cushion": found.layer_cushion,
            "contraction": found.contraction,
            "interlayer_cushion": onward[:-1],
            "smoothness": np.minimum(smooth[1:-1], 1e6),  # JSON has no infinity
            "spread": found.spread.max((0, 2)),  # over draws, t and images
            "rho": found.rho,
            "epsilon": found.epsilon(),
            "layers": len(found.layer_cushion),
        }

    return cell.parts.numbers("noise_stability", make)
