"""The tables, the paper's numbers beside ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.dropout_stability.coins import RISE
from experiments.dropout_stability.wide import ENDS, ROUNDING
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
            found += [_wide(curve, task["kappa"]) for curve in task["curves"]]
            continue
        if name == "coins":
            found.append(_coins(task))
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
        f"{found['epsilon']:.3g}. The spread is sqrt(h) ||phi||_inf / ||phi||, which it bounds for all t.",
        range(1, depth + 1),
        ("layer", str),
        ("layer cushion", column("layer_cushion", 1)),
        ("contraction", column("contraction", 1, np.max)),
        ("interlayer cushion, least onward", column("interlayer_cushion", 1)),
        ("smoothness, least onward", column("smoothness", 2)),
        ("largest spread, any t", lambda i: f"{found['spread'][i - 1]:.3g}" if i < depth else "-"),
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
        ("lowest train accuracy (%)", lambda row: f"{100 * min(row[1]['train_accuracy']):.1f}"),
        ("lowest test accuracy (%)", lambda row: f"{100 * min(row[1]['test_accuracy']):.1f}"),
        ("the paper's highest", lambda row: PAPER.get(row[0], "-") if name == "cifar10" else "-"),
    )


def _wide(curve: Mapping[str, Any], kappa: float) -> dict[str, Any]:
    slopes = {name: "not known" if slope is None else f"{slope:+.2f}" for name, slope in curve["slopes"].items()}
    return tabulate(
        f"wide: the energy gap of one hidden layer, {curve['inputs']} inputs, ends {ENDS[curve['ends']]}",
        f"kappa = {kappa:g}. The bound is max(lambda, epsilon) of Theorem 2.4. The exponent of the width is "
        f"{slopes['gap']} for the gap and {slopes['promised']} for the bound above the ends; Corollary 2.5 promises "
        f"{-1 / curve['inputs']:+.2f} or less. Means below {ROUNDING:g} are rounding, not fitted.",
        curve["levels"],
        ("hidden units", lambda level: str(level["units"])),
        *(
            (head, lambda level, name=name: f"{np.mean([pair[name] for pair in level['pairs']]):.4f}")
            for head, name in (("energy of the ends", "energy"), ("highest on the path", "height"), ("bound", "bound"))
        ),
        ("gap", lambda level: plus_minus(level["gap"], 5)),
        ("bound above the ends", lambda level: plus_minus(level["promised"], 5)),
    )


def _coins(found: Mapping[str, Any]) -> dict[str, Any]:
    levels = found["levels"]
    powers = "not known" if found["exponents"] is None else "{:+.2f} and {:+.2f}".format(*found["exponents"])

    def at(i: int) -> Callable[[Any], str]:
        return lambda level: f"{level['rates'][i]['probability']:.2f} ({level['rates'][i]['rise']:.2g})"

    promised = min(each["promised"] for level in levels for each in level["rates"])
    return tabulate(
        "coins: the probability that dropout raises the loss little (Lemma 3)",
        f"{found['title']}, two hidden layers; {found['coins']} dropout networks a cell. For every rate p the share of "
        f"them whose line rises by at most {RISE:g} nats, and in brackets the rise that a quarter of them does not "
        f"exceed, whose powers of rate and width are {powers}. Lemma 3 promises a quarter a rise of the order of "
        f"sqrt(p) epsilon, which goes as the powers +0.50 and -0.50; at least {promised:.2f} of every cell rise by no "
        "more than sqrt(p) times the epsilon of Definition 4, which wants rho to be at least 3 d, here 9.",
        levels,
        ("units a layer", lambda level: str(level["width"])),
        ("train loss", lambda level: f"{level['train_loss']:.4f}"),
        ("test accuracy (%)", lambda level: f"{100 * level['test_accuracy']:.1f}"),
        ("epsilon of Definition 4", lambda level: f"{level['epsilon']:.3g}"),
        ("rho", lambda level: f"{level['rho']:.3g}"),
        *((f"p = {each['rate']:g}", at(i)) for i, each in enumerate(levels[0]["rates"])),
    )
