"""The tables, the paper's numbers and claims beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.study import tabulate
from mcjax.runs.tables import plus_minus

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
    if "merged" in tasks:
        made.append(_merged(tasks["merged"]))
    return made


def _units(pair: Sequence[int]) -> str:
    return f"{pair[0] + 1} and {pair[1] + 1}"


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _minimised(path: Mapping[str, Any]) -> str:
    return f"{path['minimised']} of {path['steps']}"


def _pairs(found: Mapping[str, Any]) -> dict[str, Any]:
    names = ("units", "barrier", "point", "gradient_norm", "converged")
    rows = [
        {"activation": activation, **dict(zip(names, values, strict=True))}
        for activation, toy in found.items()
        for values in zip(*(toy["pairs"][name] for name in names), strict=True)
    ]
    return tabulate(
        "toy: all pairs of units of a network 2-5-1",
        "All in one batched run; the barrier is that of the minima at all distances. Several pairs have one "
        "permutation point up to the order of units, as A and B of Figure 1.",
        rows,
        ("activation", lambda row: row["activation"]),
        ("units", lambda row: _units(row["units"])),
        ("barrier", lambda row: f"{row['barrier']:.3e}"),
        ("loss of the point", lambda row: f"{row['point']:.3e}"),
        ("gradient norm there", lambda row: f"{row['gradient_norm']:.0e}"),
        ("all minimised", lambda row: _yes(row["converged"])),
    )


def _paths(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {"activation": activation, "letter": letter, **path}
        for activation, toy in found.items()
        for letter, path in zip("ABC", toy["paths"], strict=True)
    ]

    def highest(row: Mapping[str, Any]) -> str:
        return f"{max(row['along']) - row['along'][0]:.3e}" if "along" in row else "-"

    def reordered(row: Mapping[str, Any]) -> str:
        exchange = row.get("exchange")
        return f"{exchange['moves']} moves, {exchange['deviation']:.0e}" if exchange else "-"

    return tabulate(
        "toy: three pairs in full (Figure 1)",
        "The barrier is that of the whole path, between its knots too; beside it the highest of 201 points. "
        "Reordered: all units put into reverse order at the point, and the largest relative change of the loss. "
        "The paper's barriers are read off a figure, of another teacher.",
        rows,
        ("activation", lambda row: row["activation"]),
        ("path", lambda row: row["letter"]),
        ("units", lambda row: _units(row["pair"])),
        ("barrier", lambda row: f"{row['barrier']:.3e}"),
        ("loss of the point", lambda row: f"{row['point']:.3e}"),
        ("highest of 201 points", highest),
        ("rises monotonically", lambda row: _yes(row["rises"])),
        ("distances minimised", _minimised),
        ("reordered", reordered),
        ("the paper's barrier", lambda row: f"{PAPER_BARRIERS[row['letter']]:.0e}"),
    )


def _bounds(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {"activation": activation, "how": how, **path}
        for activation, toy in found.items()
        for how, path in (("free, as published", toy["free"]), ("held", toy["paths"][0]))
    ]
    return tabulate(
        "toy: output weights of the two units free or held (path A)",
        "Free output weights of opposite signs grow as 1/d, and two units become one and its derivative: the loss "
        "before d = 0 is less than at it, and the path ends in a jump, which its barrier includes.",
        rows,
        ("activation", lambda row: row["activation"]),
        ("output weights", lambda row: row["how"]),
        ("their norm at the start", lambda row: f"{row['output_norm'][0]:.3f}"),
        ("at the least d > 0", lambda row: f"{row['output_norm'][-2]:.3g}"),
        ("loss at the least d > 0", lambda row: f"{row['loss'][-2]:.3e}"),
        ("loss of the point", lambda row: f"{row['point']:.3e}"),
        ("barrier", lambda row: f"{row['barrier']:.3e}"),
        ("distances minimised", _minimised),
    )


def _mnist(found: Mapping[str, Any]) -> dict[str, Any]:
    return tabulate(
        "mnist: the barrier against width (Figure 3)",
        f"{found['images']:,} images, {found['activation']}; mean and deviation over teachers. The loss is the "
        "paper's, divided by <y_i^2>; the barrier is that of the whole path. In the paper losses are up to 1e-2 "
        "and accuracies from 0.94 to 1, the barrier falls with H, and in most cases the loss rises monotonically. "
        "A fall of the loss by less than 0.1% of the highest does not count.",
        found["levels"],
        ("H", lambda level: str(level["width"])),
        ("parameters", lambda level: f"{level['parameters']:,}"),
        ("train accuracy (%)", lambda level: plus_minus(level["teacher_accuracy"], 2, 100)),
        ("at the point (%)", lambda level: plus_minus(level["point_accuracy"], 2, 100)),
        ("barrier", lambda level: plus_minus(level["barrier"], 5)),
        ("loss of the point", lambda level: plus_minus(level["point"], 5)),
        ("rise monotonically", lambda level: f"{level['rising']} of {len(level['paths'])}"),
        ("distances minimised", _minimised),
    )


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
            rows.append((f"2-5-{outputs}", claim, f"{sum(map(holds, here))} of {len(here)}"))
    return tabulate(
        "spectrum: the claims on permutation points (section 4.2), and how often they hold",
        "With D and a the offsets of the two units' parameters and output weights, the Hessian there is block "
        "diagonal in all else | (D, a), with [[S, G^T], [G, 0]] in the second block. With one output weight a unit "
        "G = 0: there the first two claims hold, and the third as long as S has no more than one negative "
        "eigenvalue. With several of them rank(G) is at most one less than their number, and every singular value "
        "of G takes one zero away and adds one negative eigenvalue.",
        rows,
        ("network", lambda row: row[0]),
        ("claim", lambda row: row[1]),
        ("holds", lambda row: row[2]),
    )


def _toys(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return tabulate(
        "spectrum: every toy",
        "Eigenvalues of the dense Hessian in float64; up to 1e-9 of the largest they count as zero. rank(G) and "
        "negatives of S as in the table above.",
        found,
        ("network", lambda toy: f"2-5-{toy['outputs']}"),
        ("loss", lambda toy: f"{toy['loss']:.2e}"),
        ("gradient norm", lambda toy: f"{toy['gradient_norm']:.0e}"),
        ("negative", lambda toy: str(toy["negative"])),
        ("zero", lambda toy: str(toy["zeros"])),
        ("positive", lambda toy: str(toy["positive"])),
        ("rank(G)", lambda toy: str(toy["rank"])),
        ("negatives of S", lambda toy: str(toy["negative_S"])),
        ("negatives expected", lambda toy: str(toy["predicted"])),
        ("kind", lambda toy: toy["kind"]),
    )


def _ends(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [{"network": said, **found["at"][at]} for at, said in (("theta", "teacher"), ("point", "permutation point"))]
    return tabulate(
        f"spectrum: MNIST, H = {found['width']}, {found['parameters']:,} parameters, by Lanczos",
        f"Of the mean squared error over {found['images']:,} images, outputs of mean square 1. A residual bounds "
        "how far each value is from an eigenvalue; values of equal eigenvalues are found once.",
        rows,
        ("network", lambda row: row["network"]),
        ("loss", lambda row: f"{row['loss']:.2e}"),
        ("largest eigenvalues", lambda row: ", ".join(f"{value:.3g}" for value in row["largest"][:3])),
        ("smallest eigenvalues", lambda row: ", ".join(f"{value:.2e}" for value in row["smallest"][:3])),
        ("largest residual", lambda row: f"{max(row['residuals']):.0e}"),
        ("trace", lambda row: f"{row['trace']:.4g} ± {row['trace_error']:.2g}"),
        ("below zero (% of the density)", lambda row: f"{100 * row['negative_share']:.2f}"),
    )


def _counts(found: Mapping[str, Any]) -> dict[str, Any]:
    def counted(row: Mapping[str, Any]) -> str:
        return "-" if row["counted"] is None else f"{row['counted']} / {row['minima']}"

    def points(row: Mapping[str, Any]) -> str:
        number = int(row["points"])
        return f"{number:,}" if number < 10**9 else f"{number:.3e}"

    return tabulate(
        "count: permutation points of order K by the number of global minima (Proposition 1)",
        "T(K, n) exactly; counted one by one: ways to give n units n - K vectors, all in use, by n!. The last "
        "column: points of order K of a network with two hidden layers of n units, each in one layer.",
        found["rows"],
        ("n", lambda row: str(row["units"])),
        ("K", lambda row: str(row["order"])),
        ("T(K, n)", lambda row: row["ratio"]),
        ("counted", counted),
        ("lower bound", lambda row: row["bound"]),
        ("T(K, n), decimal", lambda row: f"{row['value']:.4g}"),
        ("points of a network n, n", points),
    )


def _growth(found: Mapping[str, Any]) -> dict[str, Any]:
    return tabulate(
        "count: the constant of Lemma 1",
        "The lower bound is c_K n^K for wide layers, c_K = 1 / (2^K K!). The lemma's proof has another factor "
        "e^-K: it replaces ((n - K) / (n - 2 K))^(n - 2 K) by 1, and it tends to e^K.",
        found["growth"],
        ("K", lambda each: str(each["order"])),
        ("c_K", lambda each: each["constant"]),
        ("the lemma's", lambda each: f"{each['published']:.5f}"),
        *(
            (f"bound / (c_K n^K), n = {n:,}", lambda each, i=i: f"{each['ratio'][i]:.4f}")
            for i, n in enumerate(found["large"])
        ),
        ("by the lemma's, in the limit", lambda each: f"{np.exp(each['order']):.3f}"),
    )


def _merged(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return tabulate(
        "merged: the Hessian at points of higher order, and in deeper networks",
        "K units can be removed from layer k. Claimed: K n_{k+1} zeros or more, and K negative eigenvalues or less. "
        "Expected: the zeros and negatives of the block in which equal units part, from S and G, and those of the "
        "smaller network, which are its own.",
        found,
        ("network", lambda toy: toy["network"]),
        ("k", lambda toy: str(toy["layer"])),
        ("units merged", lambda toy: ", ".join(map(str, toy["clusters"]))),
        ("K", lambda toy: str(toy["order"])),
        ("loss", lambda toy: f"{toy['loss']:.2e}"),
        ("gradient norm", lambda toy: f"{toy['gradient_norm']:.0e}"),
        ("negative", lambda toy: str(toy["negative"])),
        ("expected", lambda toy: f"{toy['parting'][0]} + {toy['smaller'][0]}"),
        ("zero", lambda toy: str(toy["zeros"])),
        ("expected zeros", lambda toy: f"{toy['parting'][1]} + {toy['smaller'][1]}"),
        ("claimed zeros", lambda toy: str(toy["order"] * toy["read"])),
        ("positive", lambda toy: str(toy["positive"])),
        ("rank(G)", lambda toy: str(toy["rank"])),
        ("kind", lambda toy: toy["kind"]),
    )
