"""The figures of the permutation-point experiments."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.permutation_points.output import PAPER_BARRIERS
from mcjax import plotting
from mcjax.runs.folder import RunFolder

COLORS = ("#e0791e", "#2f8f6b", "#1c5f9e", "#7a3f98", "#111111", "#b2182b")
STYLES = ("-", "--", "-.", ":")


def draw(run: RunFolder, tasks: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures of all tasks: what `page` lists."""
    figures: list[dict[str, str]] = []

    def save(name: str, figure: Any, caption: str) -> None:
        figures.append({"file": run.figure(name, figure).name, "caption": caption})

    if "toy" in tasks:
        for name, found in tasks["toy"].items():
            save(f"toy_{name}", plotting.mergers(_mergers(found), f"Merging two units of a network 2-5-1, {name}"), (
                f"Figure 1, {name}. Above: what makes the five units, of the teacher and at the permutation point; "
                "the numbers of the two that are merged are red. Below: the loss at the minima; the dot is at d = 0."
            ))  # fmt: skip
            save(f"toy_{name}_bound", _free(name, found), (
                f"{name}: with the output weights of the two units free, as published, and held to their norm."
            ))  # fmt: skip
        panels = [
            (name, np.array(found["paths"][0]["along"]), np.array(found["paths"][0]["exchange"]["loss"]))
            for name, found in tasks["toy"].items()
        ]
        save("toy_orders", plotting.rearranged(panels, "From a network to its copy in another order of units"), (
            "The loss on the way from theta to its copy with all units in reverse order (section 4.2, ii)."
        ))  # fmt: skip
    if "mnist" in tasks:
        found = tasks["mnist"]
        save("mnist", _mnist(found), "Figure 3: loss and training accuracy on the way, a line a teacher.")
        save("mnist_barrier", _barriers(found), "The barrier against the number of hidden units, mean and deviation.")
    if "spectrum" in tasks:
        found = tasks["spectrum"]
        save("spectrum_toy", _eigenvalues(found["toy"]), "The Hessian's eigenvalues at permutation points of toys.")
        save("spectrum_mnist", _densities(found["mnist"]), "The density of the Hessian's eigenvalues, MNIST.")
    if "count" in tasks:
        save("count", _growth(tasks["count"]), "The lower bound over its limit; dotted: with the lemma's constant.")
    return figures


def _mergers(found: Mapping[str, Any]) -> list[plotting.Merger]:
    panels = []
    for letter, path in zip("ABC", found["paths"], strict=True):
        first, second = path["pair"]
        teacher, point, distances, loss = (np.array(path[of]) for of in ("teacher", "at_point", "distances", "loss"))
        title, published = f"{letter}: units {first + 1} and {second + 1}", PAPER_BARRIERS[letter]
        panels.append(
            plotting.Merger(title, (first, second), teacher, point, distances, loss, path["barrier"], published)
        )
    return panels


def _free(name: str, found: Mapping[str, Any]) -> Any:
    looks = (
        ("free, as published", found["free"], plotting.UNALIGNED, "--"),
        ("held to their norm", found["paths"][0], plotting.ALIGNED, "-"),
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
        panels.append(plotting.Approached(title, of, lines, logarithmic=what != "loss"))
    first, second = (unit + 1 for unit in found["free"]["pair"])
    return plotting.approached(panels, f"Units {first} and {second}, {name}: their output weights free and held")


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
        panels.append(plotting.Approached(title, of, lines))
    return plotting.approached(panels, f"Merging two units of the second layer, MNIST, {found['activation']}")


def _barriers(found: Mapping[str, Any]) -> Any:
    levels = found["levels"]
    at = np.array([level["width"] for level in levels], float)

    def line(label: str, what: str, color: str, style: str) -> plotting.Series:
        return plotting.Series(label, np.array([level[what]["values"] for level in levels]).T, color, style)

    lines = [
        line("barrier of the path", "barrier", plotting.ALIGNED, "-"),
        line("permutation point", "point", plotting.UNALIGNED, "--"),
    ]
    panel = plotting.Dependence("", "units H of both hidden layers", "loss $L$", at, lines)
    return plotting.dependences([panel], "Barrier against width, MNIST")


def _eigenvalues(found: list[Mapping[str, Any]]) -> Any:
    panels = []
    for outputs in sorted({each["outputs"] for each in found}):
        here = [each for each in found if each["outputs"] == outputs]
        zero = max(each["zero_tolerance"] for each in here)
        panels.append((f"2-5-{outputs}", [np.array(each["eigenvalues"]) for each in here], zero))
    return plotting.eigenvalues(panels, "The Hessian at permutation points of random toys, tanh")


def _densities(found: Mapping[str, Any]) -> Any:
    looks = {"theta": ("teacher", plotting.ALIGNED, "-"), "point": ("permutation point", plotting.UNALIGNED, "--")}
    lines, grids = [], []
    for name, (label, color, style) in looks.items():
        lines.append(plotting.Series(label, np.array(found["at"][name]["density"]), color, style))
        grids.append(np.array(found["at"][name]["grid"]))
    title = f"Hessian of {found['parameters']:,} parameters, MNIST, H = {found['width']}"
    return plotting.spectral_densities(lines, grids, title)


def _growth(found: Mapping[str, Any]) -> Any:
    lines = [
        plotting.Series(f"K = {each['order']}", np.array(each["ratio"]), COLORS[i], STYLES[i])
        for i, each in enumerate(found["growth"])
    ]
    published = [float(np.exp(-each["order"])) for each in found["growth"]]
    return plotting.growth(np.array(found["large"]), lines, published, "How fast permutation points multiply (Lemma 1)")
