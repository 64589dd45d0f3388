"""What the dropout-stability experiments measure of one task; every part is made once and kept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.dropout_stability.tasks import HALF, SHARE, Task
from experiments.kept import Kept
from mcjax import (
    Recorder,
    bezier,
    evaluate,
    evaluate_path,
    fit_curve,
    identity_permutation,
    match_activations,
    models,
    permute,
    train_endpoints,
    trees,
)
from mcjax.constructions import (
    Construction,
    DropoutStability,
    chain_of,
    drop_units,
    dropout_path,
    dropout_stability,
    interpolation_path,
    narrow_path,
)
from mcjax.curves import Polyline
from mcjax.landscape import noise_stability
from mcjax.models import Model
from mcjax.runtime.mapping import over_models
from mcjax.strings import sample_string

POINTS = 31
"""Of a line, a curve, a string; constructed paths are measured on every segment."""
ACTIVATED = 20
"""Masks of channel-wise dropout whose accuracies are averaged."""


@dataclass(frozen=True)
class Cell:
    """A task, its keys, and where its parts are kept."""

    task: Task
    key: jax.Array
    kept: Kept

    def named(self, part: str) -> str:
        """The name under which a part is kept."""
        return f"{self.task.name}_{part}"

    def trained(self, part: str, model: Model, count: int) -> trees.Tree:
        """Networks of one model, along a leading axis."""

        def make() -> trees.Tree:
            key = jax.random.fold_in(self.key, sum(part.encode()))
            recorder = Recorder(part, self.kept.run, self.named(part), self.kept.display.fit)
            keys = jax.random.split(key, count)
            return train_endpoints(keys, model, self.task.data, self.task.networks, recorder=recorder).theta

        return self.kept.arrays(self.named(part), make)

    @property
    def networks(self) -> trees.Tree:
        """The two networks that are joined."""
        return self.trained("networks", self.task.model, 2)

    def end(self, i: int) -> trees.Tree:
        """One of the two."""
        return trees.index(self.networks, i)

    @property
    def P(self) -> dict[str, Any]:
        """The permutation of the second network that matches it to the first."""

        def make() -> Any:
            return match_activations(self.task.model, self.end(0), self.end(1), self.task.measured).P

        return self.kept.arrays(self.named("match"), make)

    def stable(self, i: int, name: str, fraction: float | dict[str, float], **options: Any) -> DropoutStability:
        """The dropout stability of one of the two networks."""
        size = self.task.size

        def make() -> Any:
            found = dropout_stability(
                jax.random.fold_in(self.key, 100 + i), self.task.model, self.end(i), self.task.measured, fraction,
                draws=size.draws, search_images=size.search_images, **options,
            )  # fmt: skip
            kept = {name: value for name, value in found._asdict().items() if name != "criterion"}
            return {**kept, "keep": {g: mask.astype(np.int32) for g, mask in found.keep.items()}}

        kept = self.kept.arrays(self.named(f"stable_{name}_{i}"), make)
        keep = {group: np.asarray(kept["keep"][group]) > 0 for group in chain_of(self.task.model).groups}
        factors, losses = (np.asarray(kept[name]) for name in ("factors", "losses"))
        return DropoutStability(
            kept["theta"], kept["thetas"], keep, factors, float(kept["loss"]), losses, float(kept["fraction"])
        )

    def numbers(self, part: str, make: Callable[[], Any]) -> Any:
        """Numbers that are made once."""
        return self.kept.numbers(self.named(part), make)


def networks(cell: Cell) -> dict[str, Any]:
    """Loss and accuracy of both networks, with dropout off, and with one mask of it at a time."""

    def make() -> Any:
        task = cell.task
        train, test = evaluate(task.model, cell.networks, task.data)
        found: dict[str, Any] = {
            "train_loss": train.loss.tolist(),
            "train_accuracy": train.accuracy.tolist(),
            "test_accuracy": test.accuracy.tolist(),
        }
        if task.name == "cifar10":
            keys = jax.random.split(jax.random.fold_in(cell.key, 1), ACTIVATED)
            each = []
            for i in range(2):
                drop = partial(drop_units, model=task.model, theta=cell.end(i), fraction=task.rates)
                masked = over_models(drop, task.model.convolutions)(keys)
                each.append([m.accuracy.mean().item() for m in evaluate(task.model, masked, task.measured)])
            found["activated_train_accuracy"] = [train for train, _ in each]
            found["activated_test_accuracy"] = [test for _, test in each]
        return found

    return cell.numbers("networks_measured", make)


def against_share(cell: Cell) -> list[dict[str, Any]]:
    """Figure 2, left: the best of many dropout networks for every share dropped, as published and by our search."""
    found = []
    for p in cell.task.size.shares:
        for name, options in (
            ("published", {"search": "together", "rescale": "fixed"}),
            ("searched", {"search": "layers", "rescale": "layer"}),
        ):

            def make(p: float = p, name: str = name, options: dict[str, Any] = options) -> Any:
                each = []
                for i in range(2):
                    stable = cell.stable(i, f"{name}_{p:g}", p, **options)
                    train, test = evaluate(cell.task.model, trees.index(stable.thetas, 0), cell.task.measured)
                    each.append({
                        "epsilon": stable.epsilon, "train_loss": float(train.loss),
                        "train_accuracy": float(train.accuracy), "test_accuracy": float(test.accuracy),
                    })  # fmt: skip
                return each

            networks = cell.numbers(f"share_{name}_{p:g}", make)
            found.append({"share": p, "subsets": name, "networks": networks})
    return found


def interpolation(cell: Cell) -> dict[str, Any]:
    """Figure 2, centre: from the first network straight to its dropout version."""
    stable = cell.stable(0, f"searched_{SHARE:g}", SHARE)
    knots = trees.stack([stable.theta, trees.index(stable.thetas, 0)])
    return cell.numbers("interpolation", lambda: _measured(cell, Polyline(knots).path, np.linspace(0, 1, 21)))


def narrow_widths(cell: Cell) -> list[dict[str, Any]]:
    """Figure 2, right: networks a few filters wide."""
    found = []
    task, full = cell.task, chain_of(cell.task.model).sizes[0]
    shape = (task.data.num_classes, task.data.image_shape)
    for width in (width for width in task.size.narrow_widths if width <= full):
        model = models.create("filters_convnet", *shape, width=width / 32)

        def make(model: Model = model, width: int = width) -> Any:
            train, test = evaluate(model, cell.trained(f"narrow_{width}", model, 2), task.data)
            return {"train_loss": train.loss.tolist(), "test_accuracy": test.accuracy.tolist()}

        found.append({"width": width, **cell.numbers(f"narrow_{width}_measured", make)})
    return found


def stability(cell: Cell) -> dict[str, Any]:
    """Figure 3, left: the quantities of noise stability, image by image, of the first network."""

    def make() -> Any:
        size = cell.task.size
        found = noise_stability(
            jax.random.fold_in(cell.key, 2), cell.task.model, cell.end(0), cell.task.measured,
            fraction=cell.task.rates, images=size.stability_images, draws=2, ts=3,
        )  # fmt: skip
        # Of every image and layer, the least over the layers that follow, over draws and t.
        onward = np.nan_to_num(found.interlayer_cushion, nan=np.inf).min(1)
        smooth = np.nan_to_num(found.smoothness, nan=np.inf).min((0, 2))
        return {
            "layer_cushion": found.layer_cushion.tolist(),
            "contraction": found.contraction.tolist(),
            "interlayer_cushion": onward[:-1].tolist(),
            "smoothness": np.minimum(smooth[1:-1], 1e6).tolist(),  # JSON has no infinity
            "spread": found.spread.max(1).tolist(),
            "rho": found.rho,
            "epsilon": found.epsilon(),
            "layers": len(found.layer_cushion),
        }

    return cell.numbers("noise_stability", make)


def paths(cell: Cell) -> dict[str, dict[str, Any]]:
    """Loss and accuracy along all kinds of paths between the two networks."""
    task = cell.task
    found: dict[str, dict[str, Any]] = {}
    second = {"": cell.end(1), "matched ": permute(task.model.spec, cell.P, cell.end(1))}
    for how, end in second.items():
        line = Polyline(trees.stack([cell.end(0), end])).path
        found[f"{how}line"] = cell.numbers(f"path_{how}line".replace(" ", "_"), partial(_measured, cell, line))
    half = [cell.stable(i, f"searched_{HALF:g}", HALF) for i in range(2)]
    partly = [cell.stable(i, "rates", task.rates) for i in range(2)]
    narrow = trees.index(cell.trained("narrow", task.narrow, 1), 0)
    constructions: dict[str, Callable[[], Construction]] = {
        "Theorem 1": lambda: dropout_path(task.model, half[0], half[1]),
        "Theorem 2": lambda: interpolation_path(task.model, half[0], half[1]),
        "Theorem 3": lambda: narrow_path(task.model, partly[0], partly[1], narrow),
    }
    for name, construct in constructions.items():
        found[name] = cell.numbers(f"path_{name}".replace(" ", "_"), partial(_constructed, cell, construct))
    found["Theorem 1"]["bound"] = max(each.loss + each.epsilon for each in half)
    for how in second:
        # Not None: the same programs serve both.
        P = cell.P if how else identity_permutation(task.model.spec, cell.end(0))

        def curve(P: Any = P, how: str = how) -> Any:
            stage = cell.named(f"{how}curve".replace(" ", "_"))
            recorder = Recorder(stage, cell.kept.run, stage, cell.kept.display.fit)
            ends = cell.end(0), cell.end(1)
            kind = bezier(task.model.spec)
            key = jax.random.fold_in(cell.key, 3)
            fit = fit_curve(key, task.model, kind, *ends, task.data, P, task.curve, recorder=recorder)
            return _measured(cell, fit.path)

        found[f"{how}Bezier curve"] = cell.numbers(f"path_{how}curve".replace(" ", "_"), curve)
        threshold = 1.5 * max(found["line"]["train_loss"][0], found["line"]["train_loss"][-1]) + 0.01

        def string(P: Any = P, threshold: float = threshold) -> Any:
            ends = cell.end(0), cell.end(1)
            key = jax.random.fold_in(cell.key, 4)
            sampled = sample_string(key, task.model, *ends, task.data, threshold, P, task.string)
            said = {"beads": sampled.beads, "connected": sampled.connected, "threshold": threshold}
            return {**_measured(cell, sampled.path), **said}

        found[f"{how}string"] = cell.numbers(f"path_{how}string".replace(" ", "_"), string)
    return found


def _measured(cell: Cell, path: Any, ts: Any = None) -> dict[str, Any]:
    """Loss and accuracy at `ts`."""
    ts = np.linspace(0, 1, POINTS) if ts is None else ts
    metrics = evaluate_path(cell.task.model, path, cell.task.measured, ts)
    return {name: np.asarray(getattr(metrics, name), np.float64).tolist() for name in metrics._fields}


def _constructed(cell: Cell, construct: Callable[[], Construction]) -> dict[str, Any]:
    """Loss and accuracy on every segment; of those that leave the function as it is, at the ends."""
    construction = construct()
    short = construction.shortened()
    knots = np.asarray(short.polyline.ts, np.float64)
    ts = [0.0]
    for move, start, end in zip(short.moves, knots[:-1], knots[1:], strict=True):
        inside = {"a": 3, "line": 9}.get(move.kind, 0)
        ts += (start + (end - start) * np.arange(1, inside + 2) / (inside + 1)).tolist()
    at = np.unique(np.asarray(ts, np.float32))
    measured = _measured(cell, short.path, at)
    return {
        **measured,
        "knots": knots.tolist(),
        "kinds": [move.kind for move in short.moves],
        "moves": [str(move) for move in short.moves],
        "segments": len(construction.moves),
    }
