"""What the dropout-stability experiments show: tables with the paper's numbers, figures, the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.dropout_stability.wide_gaps import ROUNDING
from mcjax import plotting
from mcjax.runs.folder import RunFolder
from mcjax.runs.tables import mean_and_std, plus_minus

PAPER = {
    "line": "2.34 (VGG11)",
    "Theorem 3": "remains fairly low (a figure)",
}
"""Highest losses of the paper's text."""
BESIDE = {
    "line": ("straight line", plotting.UNALIGNED, "-"),
    "matched line": ("straight line, matched", plotting.ALIGNED, "--"),
    "Bezier curve": ("Bezier curve", plotting.UNALIGNED, ":"),
    "matched Bezier curve": ("Bezier curve, matched", plotting.ALIGNED, ":"),
}


def tables(tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Title, text, head and rows of every table."""
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


SUBSETS = {"published": "best of all layers drawn together, as published", "searched": "layer by layer, line search"}


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


def draw(run: RunFolder, name: str, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures of one task."""
    figures = []
    if name == "wide":
        units = np.array([level["units"] for level in found["levels"]])
        gaps = np.array([[pair["gap"] for pair in level["pairs"]] for level in found["levels"]])
        figure = plotting.gap_against_width(units, gaps, found["slope"], "Energy gap of one hidden layer", ROUNDING)
        return [_saved(run, "wide_gap", figure, "The energy gap against the width (Corollary 2.5).")]
    if "shares" in found:
        figure = plotting.columns(_figure_2(found), found["title"])
        figures.append(_saved(run, f"{name}_dropout", figure, "Dropout stability (Figure 2)."))
    if "stability" in found:
        figure = plotting.distributions(_figure_3(found["stability"]), f"{found['title']}: noise stability")
        figures.append(_saved(run, f"{name}_stability", figure, "Noise stability by layer (Figure 3, left, and D.3)."))
    beside = [
        (label, np.array(path["train_loss"]), np.array(path["test_accuracy"]), color, style)
        for path, (label, color, style) in ((found["paths"][kind], look) for kind, look in BESIDE.items())
    ]
    constructed = []
    for kind in ("Theorem 1", "Theorem 2", "Theorem 3"):
        path = found["paths"][kind]
        at = np.interp(path["ts"], path["knots"], np.arange(len(path["knots"])))
        loss, accuracy = (np.array(path[of]) for of in ("train_loss", "test_accuracy"))
        title = f"{kind}: {path['segments']} segments, {len(path['kinds'])} of them with something to do"
        constructed.append(plotting.Constructed(title, at, loss, accuracy, path["kinds"], beside))
    figure = plotting.constructed_paths(constructed, f"{found['title']}: between the same two networks")
    figures.append(_saved(run, f"{name}_paths", figure, "Loss and accuracy along constructed paths (Figure 3, right)."))
    return figures


def _saved(run: RunFolder, name: str, figure: Any, caption: str) -> dict[str, str]:
    return {"file": run.figure(name, figure).name, "caption": caption}


def _figure_2(found: Mapping[str, Any]) -> list[plotting.Against]:
    shares = sorted({each["share"] for each in found["shares"]})
    looks = {"published": (plotting.UNALIGNED, "--"), "searched": (plotting.ALIGNED, "-")}

    def curves(what: str) -> list[plotting.Series]:
        lines = []
        for subsets, (color, style) in looks.items():
            levels = [each["networks"] for each in found["shares"] if each["subsets"] == subsets]
            values = np.array([[network[what] for network in networks] for networks in levels]).T
            lines.append(plotting.Series(subsets, values, color, style))
        return lines

    line, narrow = found["interpolation"], found["narrow"]
    widths = np.array([each["width"] for each in narrow])

    def single(values: Any) -> list[plotting.Series]:
        return [plotting.Series("", np.atleast_2d(values), plotting.ALIGNED)]

    return [
        plotting.Against(
            "best dropout network", "share dropped", np.array(shares), curves("train_loss"), curves("test_accuracy")
        ),
        plotting.Against(
            "straight to it (0.2 dropped)", "t", np.array(line["ts"]), single(line["train_loss"]),
            single(line["test_accuracy"]),
        ),
        plotting.Against(
            "narrow networks", "filters a layer", widths, single(np.array([each["train_loss"] for each in narrow]).T),
            single(np.array([each["test_accuracy"] for each in narrow]).T),
        ),
    ]  # fmt: skip


def _figure_3(found: Mapping[str, Any]) -> list[tuple[str, Sequence[int], np.ndarray]]:
    panels: list[tuple[str, Sequence[int], np.ndarray]] = []
    for title, name, first in (
        ("layer cushion", "layer_cushion", 1),
        ("activation contraction", "contraction", 1),
        ("interlayer cushion", "interlayer_cushion", 1),
        ("interlayer smoothness", "smoothness", 2),
    ):
        values = np.array(found[name])
        panels.append((title, range(first, first + len(values)), values))
    return panels


def page(tasks: Mapping[str, Any], figures: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The study as `mcjax report` takes it."""
    return {
        "title": "Paths that theory constructs: dropout stability and noise stability",
        "text": [
            "Networks that do without half of their units are joined by a path whose loss is known before it is "
            "walked: the top layer moves, where the loss is convex, and units that nothing reads are written anew. No "
            "segment of these paths was trained."
        ],
        "tables": tables(tasks),
        "figures": list(figures),
        "paths": [],
        "planes": [],
    }
