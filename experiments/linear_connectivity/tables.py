"""The tables, with the claims of the papers."""

from collections.abc import Mapping
from typing import Any

from experiments.study import Column, tabulate
from mcjax.runs.tables import plus_minus

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


CONDITIONS = {
    "polyak_lojasiewicz": "Polyak-Lojasiewicz",
    "weak_quasi_convexity": "weak quasi-convexity",
    "restricted_secant": "restricted secant",
}
"""The conditions of Definition 5."""


def tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All tables: title, text, head and rows of text of each."""
    made: list[dict[str, Any]] = []
    for name, cell in found["data"].items():
        if "spawning" in cell:
            made.append(_spawning(name, cell["title"], cell["spawning"]))
        if "conjecture" in cell:
            made += [
                _barriers(cell["title"], cell["conjecture"], against, measure)
                for against in ("width", "step")
                for measure in ("train_loss", "test_accuracy")
            ]
        if "merging" in cell:
            made.append(_merging(cell["title"], cell["merging"]))
    if "tractable" in found:
        made += _tractable(found["tractable"])
    return made


def _spawning(name: str, title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return tabulate(
        f"{title}: instability of {found['model']} against the step of spawning",
        f"{found['parameters']:,} parameters, {found['steps']:,} steps. The rise of error and loss on the "
        "straight line between two copies above the mean of both; mean and deviation over seeds. Frankle et al. "
        f"call a network stable if the error rises by less than 2% of the images. {STABLE[name]}",
        found["levels"],
        ("spawned after step", lambda level: f"{level['step']:,}"),
        ("of training (%)", lambda level: f"{100 * level['step'] / found['steps']:.1f}"),
        ("test accuracy of the copies (%)", lambda level: plus_minus(level["ends"]["test_accuracy"], 2, 100)),
        ("rise of the train error (%)", lambda level: plus_minus(level["barriers"]["train_accuracy"], 2, 100)),
        ("rise of the test error (%)", lambda level: plus_minus(level["barriers"]["test_accuracy"], 2, 100)),
        ("of the train loss (nats)", lambda level: plus_minus(level["barriers"]["train_loss"])),
        ("of the test loss (nats)", lambda level: plus_minus(level["barriers"]["test_loss"])),
    )


def _barriers(title: str, found: Mapping[str, Any], against: str, measure: str) -> dict[str, Any]:
    """The table of the barriers in one measure, against "width" or "step"."""
    levels = found[f"{against}s"]
    what, look = ("train loss (nats)", (4, 1)) if measure == "train_loss" else ("test error (%)", (2, 100))
    said = "networks at the end of training, by the multiplier of their widths"
    if against == "step":
        said = f"networks of width {found['width']:g} after so many steps"

    def rise(method: str) -> Column:
        head = "not matched" if method == "none" else method
        return head, lambda level: plus_minus(level["methods"][method][measure], *look)

    return tabulate(
        f"{title}: barrier of {found['model']} in {what} against {against}",
        f"Largest height above the straight line between the ends' values; {said}; mean and deviation "
        f"over pairs. {_unmoved(levels)}{CONJECTURE}",
        levels,
        (against, lambda level: f"{level[against]:,g}"),
        ("parameters", lambda level: f"{level['parameters']:,}"),
        ("test accuracy of the ends (%)", lambda level: plus_minus(level["ends"]["test_accuracy"], 2, 100)),
        *map(rise, levels[0]["methods"]),
    )


def _unmoved(levels: list[Mapping[str, Any]]) -> str:
    """A sentence on the methods that found nothing better than their start."""
    pairs = sum(len(level["methods"]["none"]["train_loss"]["values"]) for level in levels)
    unmoved = " and ".join(
        f"by {method} in {sum(level['unmoved'][method] for level in levels)}" for method in levels[0]["unmoved"]
    )
    if not unmoved:
        return ""
    return (
        f"Straight-through matching starts from activations, PAM from no match; of {pairs} pairs nothing "
        f"better than the start was found {unmoved}. "
    )


def _merging(title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return tabulate(
        f"{title}: merging two networks ({found['model']}) trained on parts of the data",
        f"Each part has 80% of the images of half of the classes and 20% of the others: {found['images']:,} images "
        f"and {found['steps']:,} steps a network. Mean and deviation over pairs. {MERGING}",
        found["rows"].items(),
        ("network", lambda row: row[0]),
        ("test loss (nats)", lambda row: plus_minus(row[1]["test_loss"])),
        ("test accuracy (%)", lambda row: plus_minus(row[1]["test_accuracy"], 2, 100)),
    )


def _tractable(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    eigenvector = found["eigenvector"]
    values = ", ".join(f"{each:g}" for each in eigenvector["eigenvalues"])
    return [
        tabulate(
            "Generalised linear models (equations 1 to 3)",
            "Gaussian inputs. Equation 3, <grad L, w - w*> = E[sigma'(xi) sigma'(w.x) (w.x - w*.x)^2], at random "
            "points; the least ratios of Definition 5 along gradient descent from them (upper bounds of the "
            "constants); and searches for points where the gradient vanishes, of any kind. Those of the sigmoid "
            "that find none follow it to where it is flat.",
            found["generalised_linear"].items(),
            ("link", lambda row: row[0]),
            ("equation 3, largest relative error", lambda row: f"{row[1]['identity_error']:.1e}"),
            *((said, lambda row, name=name: f"{row[1]['constants'][name]:.4f}") for name, said in CONDITIONS.items()),
            ("descents that reach w*", lambda row: f"{row[1]['descended']} of {row[1]['searches']}"),
            ("searches that find a critical point", lambda row: f"{row[1]['converged']} of {row[1]['searches']}"),
            ("other than w*", lambda row: str(len(row[1]["spurious"]))),
        ),
        tabulate(
            "Theorem 6: what each condition predicts of gradient descent / the worst that was measured",
            "With the constants along the way, so that predictions are bounds. Factors a step: of the loss by "
            "Polyak-Lojasiewicz, of the squared distance to w* by restricted secant. Weak quasi-convexity bounds the "
            "sum of all losses, in units of the squared distance at the start: no geometric rate, and ||x||^4 / 4 has "
            "none. Typical: the mean factor of the loss.",
            [
                *((link, each["rates"]) for link, each in found["generalised_linear"].items()),
                ("||x||^4 / 4", found["quartic"]),
            ],
            ("loss", lambda row: row[0]),
            *(
                (said, lambda row, name=name: " / ".join(f"{each:.4f}" for each in row[1][name]))
                for name, said in CONDITIONS.items()
            ),
            ("typical", lambda row: f"{row[1]['typical']:.4f}"),
        ),
        tabulate(
            "Top eigenvector of a matrix: all critical points that were found (Theorem 10)",
            f"||M - x x^T||^2 / 4, M of eigenvalues {values}; {eigenvector['converged']} of "
            f"{eigenvector['searches']} searches converged. The theorem: these points and no others, and all but "
            "the first two have a negative eigenvalue.",
            eigenvector["points"],
            ("critical point", lambda point: _named(point["eigenvector"])),
            ("distance to it", lambda point: f"{point['distance']:.0e}"),
            ("loss", lambda point: f"{point['loss']:.6f}"),
            ("kind", lambda point: point["kind"]),
            ("index", lambda point: str(point["index"])),
            ("lowest eigenvalue", lambda point: f"{point['lowest']:+.4f}"),
            ("v_1 is a direction of improvement", lambda point: "yes" if point["improving"] else "no"),
        ),
        tabulate(
            "Directions of improvement (Lemmas 12 and 13), M = z z^T",
            "x and z as directions at every point. The largest c of Lemma 12 by optimisation: 1 / sqrt(2) = 0.70711, "
            "where both slopes and the curvature along z are at their limits.",
            [found["directions"]],
            ("points", lambda row: f"{row['points']:,}"),
            ("violations of Lemma 13", lambda row: str(row["lemma_13_violations"])),
            ("largest c of Lemma 12", lambda row: f"{row['constant']:.8f}"),
            ("reached at |<x, z>|, ||x||^2", lambda row: f"{row['along']:.6f}, {row['square']:.6f}"),
            ("violations at (1 - 1e-6) c", lambda row: str(row["below"])),
            ("at (1 + 1e-6) c", lambda row: str(row["above"])),
        ),
        tabulate(
            "Definition 9, M = z z^T: (epsilon, gamma) for which no (epsilon, gamma)-SOSP has a loss above tau",
            "By Lemma 12, and by X - Z R as the direction, for M of any rank with a least eigenvalue of 1. Beside them "
            "the least gradient of points above tau with no eigenvalue below -gamma.",
            found["directions"]["second_order"],
            ("tau", lambda row: f"{row['tau']:g}"),
            ("Lemma 12", lambda row: "{:.4f}, {:.4f}".format(*row["lemma_12"])),
            ("least gradient", lambda row: f"{row['least'][0]:.4f}"),
            ("any rank", lambda row: "{:.4f}, {:.4f}".format(*row["tolerances"])),
            ("its least gradient", lambda row: f"{row['least'][1]:.4f}"),
        ),
        tabulate(
            "M = Z Z^T of rank r: all entries, matrix sensing, matrix completion",
            "All points where the gradient vanishes that were found, and X - Z R as a direction of improvement at "
            "those that are not the minimum, and at random points.",
            found["factorised"],
            ("known", lambda row: row["known"]),
            ("r", lambda row: str(row["rank"])),
            ("measurements", lambda row: str(row["measurements"])),
            ("critical points", lambda row: f"{row['converged']} of {row['searches']}"),
            ("of loss 0", lambda row: str(row["global"])),
            ("there X X^T = M", lambda row: str(row["equal"])),
            ("others", lambda row: str(row["others"])),
            ("others without a negative eigenvalue", lambda row: str(row["spurious"])),
            ("X - Z R improves", lambda row: f"{row['improving']} of {row['others']}"),
            ("at random", lambda row: f"{row['improving_at_random']} of {row['searches']}"),
        ),
        tabulate(
            "Permutation symmetry: a network of k units with its own outputs as targets",
            "The loss is 0 at all orders of the units; if it were convex, it would be 0 at their average, where all "
            "units are equal.",
            [found["symmetric"]],
            ("k", lambda row: str(row["units"])),
            ("orders", lambda row: str(row["orders"])),
            ("largest loss of an order", lambda row: f"{row['of_orders']:.0e}"),
            ("loss of the average", lambda row: f"{row['of_average']:.4f}"),
            ("of k times one unit of mean weights", lambda row: f"{row['of_one_unit']:.4f}"),
            ("best loss of equal units", lambda row: f"{row['of_equal']:.4f}"),
            ("kind of that point", lambda row: f"{row['kind']}, index {row['index']}"),
        ),
    ]


def _named(i: int) -> str:
    return f"sqrt(lambda_{i}) v_{i}, + or -" if i else "0"
