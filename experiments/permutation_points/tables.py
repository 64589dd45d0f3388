"""The tables, the paper's numbers and claims beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcjax.runs.folder import plus_minus

PAPER_BARRIERS = {"A": 6e-6, "B": 6e-6, "C": 3e-5}
"""The barriers of Figure 1, read off the figure; the teacher is the paper's own."""


def tables(tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of all tasks: title, text, head and rows of text of each."""
    made: list[dict[str, Any]] = []
    if "toy" in tasks:
        made += [_pairs(tasks["toy"]), _paths(tasks["toy"]), _bounds(tasks["toy"])]
    if "mnist" in tasks:
        made.append(_mnist(tasks["mnist"]))
    if "spectrum" in tasks:
        made += [_claims(tasks["spectrum"]["toy"]), _toys(tasks["spectrum"]["toy"]), _ends(tasks["spectrum"]["mnist"])]
    if "count" in tasks:
        made += [_counts(tasks["count"]), _growth(tasks["count"])]
    return made


def _units(pair: Sequence[int]) -> str:
    return f"{pair[0] + 1} and {pair[1] + 1}"


def _pairs(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, toy in found.items():
        pairs = toy["pairs"]
        columns = (pairs[each] for each in ("units", "barrier", "point", "gradient_norm", "converged"))
        for pair, barrier, point, norm, converged in zip(*columns, strict=True):
            whole = "yes" if converged else "no"
            rows.append([name, _units(pair), f"{barrier:.3e}", f"{point:.3e}", f"{norm:.0e}", whole])
    return {
        "title": "toy: all pairs of units of a network 2-5-1",
        "text": (
            "All in one batched run; the barrier is that of the minima at all distances. Several pairs have one "
            "permutation point up to the order of units, as A and B of Figure 1."
        ),
        "head": ["activation", "units", "barrier", "loss of the point", "gradient norm there", "all minimised"],
        "rows": rows,
    }


def _paths(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, toy in found.items():
        for letter, path in zip("ABC", toy["paths"], strict=True):
            exchange = path.get("exchange")
            highest = f"{max(path['along']) - path['along'][0]:.3e}" if "along" in path else "-"
            rows.append([
                name, letter, _units(path["pair"]), f"{path['barrier']:.3e}", f"{path['point']:.3e}",
                highest, "yes" if path["rises"] else "no",
                f"{path['minimised']} of {path['steps']}",
                f"{exchange['moves']} moves, {exchange['deviation']:.0e}" if exchange else "-",
                f"{PAPER_BARRIERS[letter]:.0e}",
            ])  # fmt: skip
    return {
        "title": "toy: three pairs in full (Figure 1)",
        "text": (
            "The barrier is that of the whole path, between its knots too; beside it the highest of 201 points. "
            "Reordered: all units put into reverse order at the point, and the largest relative change of the loss. "
            "The paper's barriers are read off a figure, of another teacher."
        ),
        "head": [
            "activation", "path", "units", "barrier", "loss of the point", "highest of 201 points",
            "rises monotonically", "distances minimised", "reordered", "the paper's barrier",
        ],
        "rows": rows,
    }  # fmt: skip


def _bounds(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, toy in found.items():
        for label, path in (("free, as published", toy["free"]), ("held", toy["paths"][0])):
            norms = path["output_norm"]
            rows.append([
                name, label, f"{norms[0]:.3f}", f"{norms[-2]:.3g}", f"{path['loss'][-2]:.3e}", f"{path['point']:.3e}",
                f"{path['barrier']:.3e}", f"{path['minimised']} of {path['steps']}",
            ])  # fmt: skip
    return {
        "title": "toy: output weights of the two units free or held (path A)",
        "text": (
            "Free output weights of opposite signs grow as 1/d, and two units become one and its derivative: the loss "
            "before d = 0 is less than at it, and the path ends in a jump, which its barrier has in it."
        ),
        "head": [
            "activation", "output weights", "their norm at the start", "at the least d > 0", "loss at the least d > 0",
            "loss of the point", "barrier", "distances minimised",
        ],
        "rows": rows,
    }  # fmt: skip


def _mnist(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for level in found["levels"]:
        rows.append([
            str(level["width"]), f"{level['parameters']:,}", plus_minus(level["teacher_accuracy"], 2, 100),
            plus_minus(level["point_accuracy"], 2, 100), plus_minus(level["barrier"], 5),
            plus_minus(level["point"], 5), f"{level['rising']} of {len(level['paths'])}",
            f"{level['minimised']} of {level['steps']}",
        ])  # fmt: skip
    return {
        "title": "mnist: the barrier against width (Figure 3)",
        "text": (
            f"{found['images']:,} images, {found['activation']}; mean and deviation over teachers. The loss is the "
            "paper's, divided by <y_i^2>; the barrier is that of the whole path. In the paper losses are up to 1e-2 "
            "and accuracies from 0.94 to 1, the barrier falls with H, and in most cases the loss rises monotonically. "
            "A loss that falls by less than 0.1% of the highest counts as one that does not fall."
        ),
        "head": [
            "H", "parameters", "train accuracy (%)", "at the point (%)", "barrier", "loss of the point",
            "rise monotonically", "distances minimised",
        ],
        "rows": rows,
    }  # fmt: skip


def _claims(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = []
    for outputs in sorted({each["outputs"] for each in found}):
        here = [each for each in found if each["outputs"] == outputs]
        for claim, holds in (
            ("the gradient vanishes", lambda each: each["kind"] != "no critical point"),
            (f"at least {outputs} zero eigenvalues", lambda each: each["zeros"] >= each["outputs"]),
            ("at most one negative eigenvalue", lambda each: each["negative"] <= 1),
            ("zeros: at least n_{k+1} - rank(G)", lambda each: each["zeros"] >= each["outputs"] - each["rank"]),
            ("negatives: rank(G) and those of S on ker G", lambda each: each["negative"] == each["predicted"]),
        ):
            rows.append([f"2-5-{outputs}", claim, f"{sum(map(holds, here))} of {len(here)}"])
    return {
        "title": "spectrum: what is claimed of permutation points (section 4.2), and what holds",
        "text": (
            "With D and a the offsets of the two units' parameters and output weights, the Hessian there is block "
            "diagonal in all else | (D, a), with [[S, G^T], [G, 0]] in the second block. With one output weight a unit "
            "G = 0: there the first two claims hold, and the third as long as S has no more than one negative "
            "eigenvalue. With several of them rank(G) is at most one less than their number, and every singular value "
            "of G takes one zero away and adds one negative eigenvalue."
        ),
        "head": ["network", "claim", "holds"],
        "rows": rows,
    }


def _toys(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "title": "spectrum: every toy",
        "text": (
            "Eigenvalues of the dense Hessian in float64; up to 1e-9 of the largest they count as zero. rank(G) and "
            "negatives of S as in the table above."
        ),
        "head": [
            "network", "loss", "gradient norm", "negative", "zero", "positive", "rank(G)", "negatives of S",
            "negatives expected", "kind",
        ],
        "rows": [
            [
                f"2-5-{each['outputs']}", f"{each['loss']:.2e}", f"{each['gradient_norm']:.0e}", str(each["negative"]),
                str(each["zeros"]), str(each["positive"]), str(each["rank"]), str(each["negative_S"]),
                str(each["predicted"]), each["kind"],
            ]
            for each in found
        ],
    }  # fmt: skip


def _ends(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, label in (("theta", "teacher"), ("point", "permutation point")):
        at = found["at"][name]
        rows.append([
            label, f"{at['loss']:.2e}", ", ".join(f"{value:.3g}" for value in at["largest"][:3]),
            ", ".join(f"{value:.2e}" for value in at["smallest"][:3]), f"{max(at['residuals']):.0e}",
            f"{at['trace']:.4g} ± {at['trace_error']:.2g}", f"{100 * at['negative_share']:.2f}",
        ])  # fmt: skip
    return {
        "title": f"spectrum: MNIST, H = {found['width']}, {found['parameters']:,} parameters, by Lanczos",
        "text": (
            f"Of the mean squared error over {found['images']:,} images, outputs of mean square 1. A residual bounds "
            "how far each value is from an eigenvalue; values of equal eigenvalues are found once."
        ),
        "head": [
            "network", "loss", "largest eigenvalues", "smallest eigenvalues", "largest residual", "trace",
            "below zero (% of the density)",
        ],
        "rows": rows,
    }  # fmt: skip


def _counts(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for row in found["rows"]:
        counted = "-" if row["counted"] is None else f"{row['counted']} / {row['minima']}"
        points = int(row["points"])
        rows.append([
            str(row["units"]), str(row["order"]), row["ratio"], counted, row["bound"], f"{row['value']:.4g}",
            f"{points:,}" if points < 10**9 else f"{points:.3e}",
        ])  # fmt: skip
    return {
        "title": "count: permutation points of order K by the number of global minima (Proposition 1)",
        "text": (
            "T(K, n) exactly; counted one by one: ways to give n units n - K vectors, all in use, by n!. The last "
            "column: points of order K of a network with two hidden layers of n units, each in one layer."
        ),
        "head": ["n", "K", "T(K, n)", "counted", "lower bound", "T(K, n), decimal", "points of a network n, n"],
        "rows": rows,
    }


def _growth(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            str(each["order"]), each["constant"], f"{each['published']:.5f}",
            *(f"{value:.4f}" for value in each["ratio"]), f"{np.exp(each['order']):.3f}",
        ]
        for each in found["growth"]
    ]  # fmt: skip
    return {
        "title": "count: the constant of Lemma 1",
        "text": (
            "The lower bound is c_K n^K for wide layers, c_K = 1 / (2^K K!). The lemma's proof has another factor "
            "e^-K: it takes ((n - K) / (n - 2 K))^(n - 2 K) for 1, and it tends to e^K."
        ),
        "head": [
            "K", "c_K", "the lemma's", *(f"bound / (c_K n^K), n = {n:,}" for n in found["large"]),
            "by the lemma's, in the limit",
        ],
        "rows": rows,
    }  # fmt: skip
