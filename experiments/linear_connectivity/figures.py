"""The figures."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.study import Drawing
from mcjax import plotting

LOOKS = {
    "none": ("not matched", plotting.UNALIGNED, "-"),
    "activations": ("activations", plotting.ALIGNED, "-"),
    "weights": ("weights", "#2f8f6b", "--"),
    "straight-through": ("straight-through", "#111111", "-."),
    "PAM": ("PAM", "#9a6fb0", ":"),
}
STABLE = 2.0
"""The rise of the error, in per cent of the images, below which a network counts as stable (Frankle et al.)."""


def draw(found: Mapping[str, Any]) -> Iterator[Drawing]:
    """All figures."""
    plots = {
        "spawning": (_spawning, "Instability against the step of spawning."),
        "conjecture": (_conjecture, "Barriers before and after matching, against width and time of training."),
        "merging": (_merging, "Along the line between two networks that were trained on parts of the data."),
    }
    for name, cell in found["data"].items():
        for task, (plot, caption) in plots.items():
            if task in cell:
                yield Drawing(f"{name}_{task}", plot(cell["title"], cell[task]), caption)
    if "tractable" in found:
        figure = _tractable(found["tractable"])
        yield Drawing("tractable", figure, "The ratios of Definition 5 along gradient descent.")


def _over_levels(levels: list[Any], measure: str, factor: float) -> np.ndarray:
    return factor * np.array([level[measure]["values"] for level in levels]).T


def _spawning(title: str, found: Mapping[str, Any]) -> Any:
    at = np.array([level["step"] for level in found["levels"]], float)
    rises = [level["barriers"] for level in found["levels"]]

    def lines(of: str, factor: float) -> list[plotting.Series]:
        return [
            plotting.Series(split, _over_levels(rises, f"{split}_{of}", factor), color, style)
            for split, color, style in (("train", plotting.UNALIGNED, "-"), ("test", plotting.ALIGNED, "--"))
        ]

    said = "spawned after step"
    panels = [
        plotting.ParameterPanel("error", said, "rise of the error (%)", at, lines("accuracy", 100), "symlog", STABLE),
        plotting.ParameterPanel("loss", said, "rise of the loss (nats)", at, lines("loss", 1), "symlog"),
    ]
    return plotting.against_parameter(panels, f"{title}: instability of {found['model']}")


def _conjecture(title: str, found: Mapping[str, Any]) -> Any:
    panels = []
    for against, said in (("width", "multiplier of the widths"), ("step", "steps of training")):
        levels = found[f"{against}s"]
        at = np.array([level[against] for level in levels], float)
        for measure, of, factor in (("train_loss", "train loss (nats)", 1), ("test_accuracy", "test error (%)", 100)):
            lines = []
            for method in levels[0]["methods"]:
                rises = [level["methods"][method] for level in levels]
                label, *look = LOOKS[method]
                lines.append(plotting.Series(label, _over_levels(rises, measure, factor), *look))
            panels.append(plotting.ParameterPanel("", said, f"barrier in {of}", at, lines, "log"))
    return plotting.against_parameter(panels, f"{title}: barriers between networks of {found['model']}")


def _merging(title: str, found: Mapping[str, Any]) -> Any:
    lines = []
    for method, along in found["along"].items():
        label, color, style = LOOKS[method]
        loss, accuracy = (np.array(along[of]) for of in ("test_loss", "test_accuracy"))
        lines.append(plotting.Line(label, loss, accuracy, color, style))
    ts = np.array(next(iter(found["along"].values()))["ts"])
    return plotting.along_paths(ts, lines, f"{title}: between networks of two parts of the data", loss_split="test")


def _tractable(found: Mapping[str, Any]) -> Any:
    panels = []
    looks = {
        "polyak_lojasiewicz": ("Polyak-Lojasiewicz", plotting.UNALIGNED, "-"),
        "weak_quasi_convexity": ("weak quasi-convexity", plotting.ALIGNED, "--"),
        "restricted_secant": ("restricted secant", "#111111", ":"),
    }
    said = "iteration of gradient descent"
    for link, each in found["generalised_linear"].items():
        ratios = ((look, np.array(each["ratios"][name])) for name, look in looks.items())
        lines = [plotting.Series(label, values, *look) for (label, *look), values in ratios]
        at = np.array(each["iterations"], float)
        panels.append(plotting.ParameterPanel(f"{link} link", said, "ratio", at, lines, log_y=True))
    return plotting.against_parameter(panels, "Generalised linear models: how steep the loss is towards its minimum")
