"""What every stage of the dropout-stability experiments will cost, for its line of progress."""

from experiments.display import BACKWARD
from experiments.dropout_stability.measures import ACTIVATED, POINTS
from experiments.dropout_stability.tasks import HALF, SHARE, Task
from mcjax.constructions import chain_of
from mcjax.constructions.subset_search import COARSE, FINE


def planned(task: Task) -> dict[str, tuple[float, int]]:
    """Of every stage of a task how many images pass through a network, roughly, and its epochs, by its name."""
    size, depth = task.size, len(chain_of(task.model).groups)
    train = float(len(task.data.train_labels))
    measured = size.measured + size.tested + size.measured * (task.name == "cifar10")
    search = depth * (size.draws * len(COARSE) + FINE + 1) * 2 * size.search_images
    epoch = train * (1 + BACKWARD)
    costs: dict[str, tuple[float, int]] = {
        "networks": (2 * epoch * size.epochs, size.epochs),
        "networks_measured": (2 * train + ACTIVATED * measured * (task.name == "cifar10"), 0),
        "narrow": (epoch * size.epochs / 16, size.epochs),
        "match": (2 * size.measured, 0),
    }
    names = [f"searched_{HALF:g}", "rates"]
    if task.name == "mnist":
        names = [f"searched_{p:g}" for p in sorted({*size.shares, HALF})] + ["rates"]
        for p in size.shares:
            for i in range(2):
                costs[f"stable_published_{p:g}_{i}"] = (2 * size.draws * size.search_images, 0)
            costs |= {f"share_{subsets}_{p:g}": (2 * measured, 0) for subsets in ("published", "searched")}
        costs["interpolation"] = (21 * measured, 0)
        for width in (width for width in size.narrow_widths if width <= chain_of(task.model).sizes[0]):
            costs[f"narrow_{width}"] = (2 * epoch * size.epochs * width / 32, size.epochs)
            costs[f"narrow_{width}_measured"] = (train / 4, 0)
    else:
        costs["noise_stability"] = (size.stability_images * 60.0 * depth * depth, 0)
    costs |= {f"stable_{name}_{i}": (search, 0) for name in names for i in range(2)}
    if task.name == "mnist":
        costs[f"stable_searched_{SHARE:g}_0"] = (search, 0)
    points = {"path_Theorem_1": 12 * depth, "path_Theorem_2": 40, "path_Theorem_3": 40}
    costs |= {name: (count * measured, 0) for name, count in points.items()}
    for how in ("", "matched_"):
        costs[f"path_{how}line"] = (POINTS * measured, 0)
        costs[f"path_{how}curve"] = (epoch * size.curve_epochs, size.curve_epochs)
        costs[f"path_{how}string"] = (3 * POINTS * measured, 0)
    return {f"{task.name}_{name}": cost for name, cost in costs.items()}
