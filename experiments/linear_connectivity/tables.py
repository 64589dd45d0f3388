"""The tables, with the claims of the papers."""

from collections.abc import Mapping
from typing import Any

from mcjax.runs.folder import plus_minus

STABLE = {
    "mnist": "Theirs for MNIST (LeNet-300-100) is stable from its initial values on.",
    "cifar10": "Their ResNet-20 is stable from about step 2,000 of 63,000 on (3% of training).",
}
"""The findings of Frankle et al."""
CONJECTURE = (
    "Entezari et al. conjecture that after the right permutation no barrier is left between networks of SGD that are "
    "wide enough. Git Re-Basin finds that the barrier after matching falls with width and time of training: nothing of "
    "it is left for the MLP on MNIST, and for ResNet-20 on CIFAR-10 when it is 32 times as wide."
)
MERGING = (
    "Git Re-Basin merges two ResNets of CIFAR-100 that were trained on such parts: the merged network has a lower test "
    "loss than both, with half the computation of their ensemble, which is better, as is a network of all data."
)


def tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All tables: title, text, head and rows of text of each."""
    made: list[dict[str, Any]] = []
    for name, cell in found["data"].items():
        if "spawning" in cell:
            made.append(_spawning(name, cell["title"], cell["spawning"]))
        if "conjecture" in cell:
            made += _conjecture(cell["title"], cell["conjecture"])
        if "merging" in cell:
            made.append(_merging(cell["title"], cell["merging"]))
    if "tractable" in found:
        made += _tractable(found["tractable"])
    return made


def _spawning(name: str, title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for level in found["levels"]:
        rises = level["barriers"]
        rows.append([
            f"{level['step']:,}", f"{100 * level['step'] / found['steps']:.1f}",
            plus_minus(level["ends"]["test_accuracy"], 2, 100), plus_minus(rises["train_accuracy"], 2, 100),
            plus_minus(rises["test_accuracy"], 2, 100), plus_minus(rises["train_loss"]), plus_minus(rises["test_loss"]),
        ])  # fmt: skip
    return {
        "title": f"{title}: instability of {found['model']} against the step of spawning",
        "text": (
            f"{found['parameters']:,} parameters, {found['steps']:,} steps. How far error and loss rise on the "
            "straight line between two copies above the mean of both; mean and deviation over seeds. Frankle et al. "
            f"call a network stable if the error rises by less than 2% of the images. {STABLE[name]}"
        ),
        "head": [
            "spawned after step", "of training (%)", "test accuracy of the copies (%)", "rise of the train error (%)",
            "rise of the test error (%)", "of the train loss (nats)", "of the test loss (nats)",
        ],
        "rows": rows,
    }  # fmt: skip


def _conjecture(title: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    made = []
    for kind, against, text in (
        ("widths", "width", "networks at the end of training, by the multiplier of their widths"),
        ("steps", "step", f"networks of width {found['width']:g} after so many steps"),
    ):
        methods = list(found[kind][0]["methods"])
        pairs = sum(len(level["methods"]["none"]["train_loss"]["values"]) for level in found[kind])
        unmoved = " and ".join(
            f"by {method} in {sum(level['unmoved'][method] for level in found[kind])}"
            for method in found[kind][0]["unmoved"]
        )
        started = ""
        if unmoved:
            started = (
                f"Straight-through matching starts from activations, PAM from no match; of {pairs} pairs nothing "
                f"better than the start was found {unmoved}. "
            )
        for measure, unit, digits, factor in (("train_loss", "nats", 4, 1), ("test_accuracy", "%", 2, 100)):
            what = "train loss" if unit == "nats" else "test error"
            rows = [
                [
                    f"{level[against]:,g}", f"{level['parameters']:,}",
                    plus_minus(level["ends"]["test_accuracy"], 2, 100),
                    *(plus_minus(level["methods"][method][measure], digits, factor) for method in methods),
                ]
                for level in found[kind]
            ]  # fmt: skip
            made.append({
                "title": f"{title}: barrier of {found['model']} in {what} ({unit}) against {against}",
                "text": (
                    f"Largest height above the straight line between the ends' values; {text}; mean and deviation "
                    f"over pairs. {started}{CONJECTURE}"
                ),
                "head": [against, "parameters", "test accuracy of the ends (%)", *(_said(each) for each in methods)],
                "rows": rows,
            })  # fmt: skip
    return made


def _said(method: str) -> str:
    return "not matched" if method == "none" else method


def _merging(title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": f"{title}: merging two networks ({found['model']}) trained on parts of the data",
        "text": (
            f"Each part has 80% of the images of half of the classes and 20% of the others: {found['images']:,} images "
            f"and {found['steps']:,} steps a network. Mean and deviation over pairs. {MERGING}"
        ),
        "head": ["network", "test loss (nats)", "test accuracy (%)"],
        "rows": [
            [name, plus_minus(row["test_loss"]), plus_minus(row["test_accuracy"], 2, 100)]
            for name, row in found["rows"].items()
        ],
    }


def _tractable(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    links = found["generalised_linear"]
    rows = [
        [
            link, f"{each['identity_error']:.1e}", f"{each['constants']['polyak_lojasiewicz']:.4f}",
            f"{each['constants']['weak_quasi_convexity']:.4f}", f"{each['constants']['restricted_secant']:.4f}",
            f"{each['descended']} of {each['searches']}", f"{each['converged']} of {each['searches']}",
            str(len(each["spurious"])),
        ]
        for link, each in links.items()
    ]  # fmt: skip
    eigenvector, directions = found["eigenvector"], found["directions"]
    points = [
        [
            _named(point["eigenvector"]),
            f"{point['distance']:.0e}", f"{point['loss']:.6f}", point["kind"], str(point["index"]),
            f"{point['lowest']:+.4f}", "yes" if point["improving"] else "no",
        ]
        for point in eigenvector["points"]
    ]  # fmt: skip
    values = ", ".join(f"{each:g}" for each in eigenvector["eigenvalues"])
    return [
        {
            "title": "Generalised linear models (equations 1 to 3)",
            "text": (
                "Gaussian inputs. Equation 3, <grad L, w - w*> = E[sigma'(xi) sigma'(w.x) (w.x - w*.x)^2], at random "
                "points; the least ratios of Definition 5 along gradient descent from them (upper bounds of the "
                "constants); and searches for points where the gradient vanishes, of any kind. Those of the sigmoid "
                "that find none follow it to where it is flat."
            ),
            "head": [
                "link", "equation 3, largest relative error", "Polyak-Lojasiewicz", "weak quasi-convexity",
                "restricted secant", "descents that reach w*", "searches that find a critical point", "other than w*",
            ],
            "rows": rows,
        },
        {
            "title": "Top eigenvector of a matrix: all critical points that were found (Theorem 10)",
            "text": (
                f"||M - x x^T||^2 / 4, M of eigenvalues {values}; {eigenvector['converged']} of "
                f"{eigenvector['searches']} searches converged. The theorem: these points and no others, and all but "
                "the first two have a negative eigenvalue."
            ),
            "head": [
                "critical point", "distance to it", "loss", "kind", "index", "lowest eigenvalue",
                "v_1 is a direction of improvement",
            ],
            "rows": points,
        },
        {
            "title": "Directions of improvement (Lemmas 12 and 13), M = z z^T",
            "text": "x and z as directions at every point. The largest c of Lemma 12 that all points allow.",
            "head": [
                "points", "violations of Lemma 13", "largest c of Lemma 12", "violations at 0.99 c", "at 1.05 c",
            ],
            "rows": [[
                f"{directions['points']:,}", str(directions["lemma_13_violations"]), f"{directions['constant']:.4f}",
                str(directions["below"]), str(directions["above"]),
            ]],
        },
    ]  # fmt: skip


def _named(i: int) -> str:
    return f"sqrt(lambda_{i}) v_{i}, + or -" if i else "0"
