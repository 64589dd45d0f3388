"""The figures: the panels of every figure from the findings."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.permutation_points.plots import (
    Approached,
    Merger,
    approached,
    eigenvalues,
    growth,
    mergers,
    rearranged,
    spectral_densities,
)
from experiments.permutation_points.tables import PAPER_BARRIERS
from experiments.study import Drawing
from mcjax.plotting import ALIGNED, UNALIGNED, Dependence, Series, dependences

COLORS = ("#e0791e", "#2f8f6b", "#1c5f9e", "#7a3f98", "#111111", "#b2182b")
STYLES = ("-", "--", "-.", ":")


def draw(tasks: Mapping[str, Any]) -> Iterator[Drawing]:
    """The figures of all tasks."""
    if "toy" in tasks:
        for name, found in tasks["toy"].items():
            yield Drawing(f"toy_{name}", mergers(_mergers(found), f"Merging two units of a network 2-5-1, {name}"), (
                f"Figure 1, {name}. Above: the input weights of the five units, of the teacher and at the permutation "
                "point; the numbers of the two merged ones are red. Below: the loss at the minima; the dot is at d = 0."
            ))  # fmt: skip
            yield Drawing(f"toy_{name}_bound", _free(name, found), (
                f"{name}: with the output weights of the two units free, as published, and held to their norm."
            ))  # fmt: skip
        panels = [
            (name, np.array(found["paths"][0]["along"]), np.array(found["paths"][0]["exchange"]["loss"]))
            for name, found in tasks["toy"].items()
        ]
        yield Drawing("toy_orders", rearranged(panels, "From a network to its copy in another order of units"), (
            "The loss on the way from theta to its copy with all units in reverse order (section 4.2, ii)."
        ))  # fmt: skip
    if "mnist" in tasks:
        found = tasks["mnist"]
        yield Drawing("mnist", _mnist(found), "Figure 3: loss and training accuracy on the way, a line a teacher.")
        yield Drawing(
            "mnist_barrier", _barriers(found), "The barrier against the number of hidden units, mean and deviation."
        )
    if "spectrum" in tasks:
        found = tasks["spectrum"]
        yield Drawing(
            "spectrum_toy", _eigenvalues(found["toy"]), "The Hessian's eigenvalues at permutation points of toys."
        )
        yield Drawing("spectrum_mnist", _densities(found["mnist"]), "The density of the Hessian's eigenvalues, MNIST.")
    if "count" in tasks:
        yield Drawing(
            "count", _growth(tasks["count"]), "The lower bound over its limit; dotted: with the lemma's constant."
        )


def _mergers(found: Mapping[str, Any]) -> list[Merger]:
    panels = []
    for letter, path in zip("ABC", found["paths"], strict=True):
        first, second = path["pair"]
        teacher, point, distances, loss = (np.array(path[of]) for of in ("teacher", "at_point", "distances", "loss"))
        title, published = f"{letter}: units {first + 1} and {second + 1}", PAPER_BARRIERS[letter]
        panels.append(Merger(title, (first, second), teacher, point, distances, loss, path["barrier"], published))
    return panels


def _free(name: str, found: Mapping[str, Any]) -> Any:
    looks = (
        ("free, as published", found["free"], UNALIGNED, "--"),
        ("held to their norm", found["paths"][0], ALIGNED, "-"),
    )
    panels = []
    for title, of, what in (
        ("loss", "loss $L$ (mean squared error)", "loss"),
        ("output weights", "norm of the output weights of the two units", "output_norm"),
    ):
        lines = [
            (label, np.array(path["distances"]), np.array(path[what]), color, style)
            for label, path, color, style in looks
        ]
        panels.append(Approached(title, of, lines, logarithmic=what != "loss"))
    first, second = (unit + 1 for unit in found["free"]["pair"])
    return approached(panels, f"Units {first} and {second}, {name}: their output weights free and held")


def _mnist(found: Mapping[str, Any]) -> Any:
    panels = []
    for title, of, what, factor in (
        ("A: loss", r"$L = \langle \|y - f\|^2 \rangle / \langle y_i^2 \rangle$", "loss", 1),
        ("B: accuracy", "training accuracy (%)", "accuracy", 100),
    ):
        lines = []
        for i, level in enumerate(found["levels"]):
            look = (COLORS[i % len(COLORS)], STYLES[i % len(STYLES)])
            for path in level["paths"]:
                values = factor * np.array(path[what])
                lines.append((f"H = {level['width']}", np.array(path["distances"]), values, *look))
        panels.append(Approached(title, of, lines))
    return approached(panels, f"Merging two units of the second layer, MNIST, {found['activation']}")


def _barriers(found: Mapping[str, Any]) -> Any:
    levels = found["levels"]
    at = np.array([level["width"] for level in levels], float)

    def line(label: str, what: str, color: str, style: str) -> Series:
        return Series(label, np.array([level[what]["values"] for level in levels]).T, color, style)

    lines = [
        line("barrier of the path", "barrier", ALIGNED, "-"),
        line("permutation point", "point", UNALIGNED, "--"),
    ]
    panel = Dependence("", "units H of both hidden layers", "loss $L$", at, lines)
    return dependences([panel], "Barrier against width, MNIST")


def _eigenvalues(found: list[Mapping[str, Any]]) -> Any:
    panels = []
    for outputs in sorted({each["outputs"] for each in found}):
        here = [each for each in found if each["outputs"] == outputs]
        zero = max(each["zero_tolerance"] for each in here)
        panels.append((f"2-5-{outputs}", [np.array(each["eigenvalues"]) for each in here], zero))
    return eigenvalues(panels, "The Hessian at permutation points of random toys, tanh")


def _densities(found: Mapping[str, Any]) -> Any:
    looks = {"theta": ("teacher", ALIGNED, "-"), "point": ("permutation point", UNALIGNED, "--")}
    lines, grids = [], []
    for name, (label, color, style) in looks.items():
        lines.append(Series(label, np.array(found["at"][name]["density"]), color, style))
        grids.append(np.array(found["at"][name]["grid"]))
    title = f"Hessian of {found['parameters']:,} parameters, MNIST, H = {found['width']}"
    return spectral_densities(lines, grids, title)


def _growth(found: Mapping[str, Any]) -> Any:
    lines = [
        Series(f"K = {each['order']}", np.array(each["ratio"]), COLORS[i], STYLES[i])
        for i, each in enumerate(found["growth"])
    ]
    published = [float(np.exp(-each["order"])) for each in found["growth"]]
    return growth(np.array(found["large"]), lines, published, "How fast permutation points multiply (Lemma 1)")
