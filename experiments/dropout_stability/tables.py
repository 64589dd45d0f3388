"""The tables, the paper's numbers beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.dropout_stability.wide import ROUNDING
from mcjax.runs.folder import mean_and_std, plus_minus

PAPER = {
    "line": "2.34 (VGG11)",
    "Theorem 3": "remains fairly low (a figure)",
}
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
    rows = [["dropout off", _percent(networks["train_accuracy"]), _percent(networks["test_accuracy"]), "99 / 92"]]
    if "activated_test_accuracy" in networks:
        on = [_percent(networks[f"activated_{split}_accuracy"]) for split in ("train", "test")]
        rows.append(["one mask of dropout at a time", *on, "95 / 91"])
    else:
        rows[0][-1] = "-"
    return {
        "title": f"{name}: {task['title']}, two networks",
        "text": f"{task['parameters']:,} parameters.",
        "head": ["", "train accuracy (%)", "test accuracy (%)", "the paper's train / test"],
        "rows": rows,
    }


def _shares(task: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for each in task["shares"]:
        columns = {what: [network[what] for network in each["networks"]] for what in each["networks"][0]}
        accuracy = _percent(columns["test_accuracy"])
        loss, epsilon = (plus_minus(mean_and_std(columns[what]), 3) for what in ("train_loss", "epsilon"))
        rows.append([f"{each['share']:g}", SUBSETS[each["subsets"]], loss, accuracy, epsilon])
    return {
        "title": "mnist: the best dropout network (Figure 2, left)",
        "text": (
            "Of all layers at once (theta_1), of whose n filters floor((1 - share) n) stay; epsilon is the largest "
            "over theta_i. The paper's numbers are in a figure."
        ),
        "head": ["share dropped", "subsets", "train loss", "test accuracy (%)", "epsilon"],
        "rows": rows,
    }


def _narrow(task: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [str(each["width"]), plus_minus(mean_and_std(each["train_loss"]), 3), _percent(each["test_accuracy"])]
        for each in task["narrow"]
    ]
    head = ["filters a layer", "train loss", "test accuracy (%)"]
    return {"title": "mnist: narrow networks (Figure 2, right)", "text": "", "head": head, "rows": rows}


def _stability(found: Mapping[str, Any]) -> dict[str, Any]:
    depth = found["layers"]

    def column(name: str, first: int) -> list[str]:
        values = [f"{np.median(row):.3g} ({np.min(row):.3g})" for row in found[name]]
        return ["-"] * (first - 1) + values + ["-"] * (depth - len(values) - first + 1)

    contraction = [f"{np.median(row):.3g} ({np.max(row):.3g})" for row in found["contraction"]] + ["-"]
    columns = (column("layer_cushion", 1), contraction, column("interlayer_cushion", 1), column("smoothness", 2))
    rows = [[str(i + 1), *(each[i] for each in columns)] for i in range(depth)]
    return {
        "title": "cifar10: noise stability (Figure 3, left)",
        "text": (
            "Medians over images, and in brackets the worst image; least: over the layers that follow. "
            f"rho = {found['rho']:.3g}, which Definition 4 wants to be at least 3 d = {3 * depth}; its epsilon is "
            f"{found['epsilon']:.3g}."
        ),
        "head": [
            "layer",
            "layer cushion",
            "contraction",
            "interlayer cushion, least onward",
            "smoothness, least onward",
        ],
        "rows": rows,
    }


def _paths(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for kind, path in task["paths"].items():
        what = str(path.get("segments", ""))
        if "beads" in path:
            beads = "1 bead" if path["beads"] == 1 else f"{path['beads']} beads"
            what = f"{beads}, {'connected' if path['connected'] else 'not connected'}"
        highest, lowest = max(path["train_loss"]), 100 * min(path["test_accuracy"])
        bound = f"{path['bound']:.3f}" if "bound" in path else "-"
        paper = PAPER.get(kind, "-") if name == "cifar10" else "-"
        rows.append([kind, what or "-", f"{highest:.3f}", bound, f"{lowest:.1f}", paper])
    ends = task["paths"]["line"]["train_loss"]
    strings = task["paths"]["string"]["threshold"]
    return {
        "title": f"{name}: the highest loss on all kinds of paths",
        "text": (
            f"Between the same two networks, of losses {ends[0]:.4f} and {ends[-1]:.4f}. Theorem 1's bound is the loss "
            f"plus epsilon. Strings were sampled for a threshold of {strings:.3f}."
        ),
        "head": ["path", "segments", "highest train loss", "bound", "lowest test accuracy (%)", "the paper's highest"],
        "rows": rows,
    }


def _wide(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            str(level["units"]),
            f"{np.mean([pair['energy'] for pair in level['pairs']]):.4f}",
            plus_minus(level["gap"], 5),
        ]
        for level in found["levels"]
    ]
    slope = "not known" if found["slope"] is None else f"{found['slope']:+.2f}"
    return {
        "title": "wide: the energy gap of one hidden layer",
        "text": (
            f"{found['inputs']} inputs, kappa = {found['kappa']:g}. The exponent of the width is {slope}; Corollary "
            f"2.5 promises {-1 / found['inputs']:+.2f} or less. Mean gaps below {ROUNDING:g} are rounding, not fitted."
        ),
        "head": ["hidden units", "energy of the ends", "gap"],
        "rows": rows,
    }
