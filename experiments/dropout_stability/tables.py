"""The tables, the paper's numbers beside ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.dropout_stability.wide import ROUNDING
from experiments.study import tabulate
from mcjax.runs.tables import mean_and_std, plus_minus

PAPER = {"line": "2.34 (VGG11)", "Theorem 3": "remains fairly low (a figure)"}
"""The highest losses on paths that the paper's text gives."""
SUBSETS = {"published": "best of all layers drawn together, as published", "searched": "layer by layer, line search"}


def tables(tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of all tasks: title, text, head and rows of text of each."""
    found = []
    for name, task in tasks.items():
        if name == "wide":
            found.append(_wide(task))
            continue
        found.append(_networks(name, task))
        if "shares" in task:
            found += [_shares(task), _narrow(task)]
        if "stability" in task:
            found.append(_stability(task["stability"]))
        found.append(_paths(name, task))
    return found


def _percent(values: Sequence[float]) -> str:
    return plus_minus(mean_and_std(list(values)), 1, 100)


def _networks(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    networks = task["networks"]
    dropped = "activated_test_accuracy" in networks
    rows = [("dropout off", "", "99 / 92" if dropped else "-")]
    if dropped:
        rows.append(("one mask of dropout at a time", "activated_", "95 / 91"))
    return tabulate(
        f"{name}: {task['title']}, two networks",
        f"{task['parameters']:,} parameters.",
        rows,
        ("", lambda row: row[0]),
        ("train accuracy (%)", lambda row: _percent(networks[f"{row[1]}train_accuracy"])),
        ("test accuracy (%)", lambda row: _percent(networks[f"{row[1]}test_accuracy"])),
        ("the paper's train / test", lambda row: row[2]),
    )


def _shares(task: Mapping[str, Any]) -> dict[str, Any]:
    def over(row: Mapping[str, Any], what: str) -> dict[str, Any]:
        return mean_and_std([network[what] for network in row["networks"]])

    return tabulate(
        "mnist: the best dropout network (Figure 2, left)",
        "Of all layers at once (theta_1), of whose n filters floor((1 - share) n) stay; epsilon is the largest "
        "over theta_i. The paper's numbers are in a figure.",
        task["shares"],
        ("share dropped", lambda row: f"{row['share']:g}"),
        ("subsets", lambda row: SUBSETS[row["subsets"]]),
        ("train loss", lambda row: plus_minus(over(row, "train_loss"), 3)),
        ("test accuracy (%)", lambda row: plus_minus(over(row, "test_accuracy"), 1, 100)),
        ("epsilon", lambda row: plus_minus(over(row, "epsilon"), 3)),
    )


def _narrow(task: Mapping[str, Any]) -> dict[str, Any]:
    return tabulate(
        "mnist: narrow networks (Figure 2, right)",
        "",
        task["narrow"],
        ("filters a layer", lambda row: str(row["width"])),
        ("train loss", lambda row: plus_minus(mean_and_std(row["train_loss"]), 3)),
        ("test accuracy (%)", lambda row: _percent(row["test_accuracy"])),
    )


def _stability(found: Mapping[str, Any]) -> dict[str, Any]:
    depth = found["layers"]

    def column(name: str, first: int, worst: Callable[[Any], Any] = np.min) -> Callable[[int], str]:
        def cell(layer: int) -> str:
            i = layer - first
            values = found[name][i] if 0 <= i < len(found[name]) else None
            return "-" if values is None else f"{np.median(values):.3g} ({worst(values):.3g})"

        return cell

    return tabulate(
        "cifar10: noise stability (Figure 3, left)",
        "Medians over images, and in brackets the worst image; least: over the layers that follow. "
        f"rho = {found['rho']:.3g}, which Definition 4 wants to be at least 3 d = {3 * depth}; its epsilon is "
        f"{found['epsilon']:.3g}.",
        range(1, depth + 1),
        ("layer", str),
        ("layer cushion", column("layer_cushion", 1)),
        ("contraction", column("contraction", 1, np.max)),
        ("interlayer cushion, least onward", column("interlayer_cushion", 1)),
        ("smoothness, least onward", column("smoothness", 2)),
    )


def _paths(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    def segments(row: tuple[str, Mapping[str, Any]]) -> str:
        path = row[1]
        if "beads" in path:
            beads = "1 bead" if path["beads"] == 1 else f"{path['beads']} beads"
            return f"{beads}, {'connected' if path['connected'] else 'not connected'}"
        return str(path.get("segments", "-"))

    ends = task["paths"]["line"]["train_loss"]
    return tabulate(
        f"{name}: the highest loss on all kinds of paths",
        f"Between the same two networks, of losses {ends[0]:.4f} and {ends[-1]:.4f}. Theorem 1's bound is the loss "
        f"plus epsilon. Strings were sampled for a threshold of {task['paths']['string']['threshold']:.3f}.",
        task["paths"].items(),
        ("path", lambda row: row[0]),
        ("segments", segments),
        ("highest train loss", lambda row: f"{max(row[1]['train_loss']):.3f}"),
        ("bound", lambda row: f"{row[1]['bound']:.3f}" if "bound" in row[1] else "-"),
        ("lowest test accuracy (%)", lambda row: f"{100 * min(row[1]['test_accuracy']):.1f}"),
        ("the paper's highest", lambda row: PAPER.get(row[0], "-") if name == "cifar10" else "-"),
    )


def _wide(found: Mapping[str, Any]) -> dict[str, Any]:
    slope = "not known" if found["slope"] is None else f"{found['slope']:+.2f}"
    return tabulate(
        "wide: the energy gap of one hidden layer",
        f"{found['inputs']} inputs, kappa = {found['kappa']:g}. The exponent of the width is {slope}; Corollary "
        f"2.5 promises {-1 / found['inputs']:+.2f} or less. Mean gaps below {ROUNDING:g} are rounding, not fitted.",
        found["levels"],
        ("hidden units", lambda level: str(level["units"])),
        ("energy of the ends", lambda level: f"{np.mean([pair['energy'] for pair in level['pairs']]):.4f}"),
        ("gap", lambda level: plus_minus(level["gap"], 5)),
    )
