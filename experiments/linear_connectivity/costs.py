"""What every stage of the linear-connectivity experiments will cost, for its line of progress."""

from collections.abc import Sequence

from experiments.display import BACKWARD
from experiments.linear_connectivity.tasks import TRAINING, Task


def planned(task: Task, tasks: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Of every stage how many images pass through a network of the task's width, roughly, and its epochs."""
    size, batch = task.size, TRAINING[task.name]["batch_size"]
    trained = float(size.steps * batch * (1 + BACKWARD))
    line = float(size.points * (size.measured + size.tested))
    test = float(len(task.data.test_labels) + len(task.data.train_labels))
    matching = {
        "activations": 2 * len(task.data.train_labels) / 5,
        "weights": 100.0,
        "straight-through": 2 * size.matching_steps * batch * (1 + BACKWARD),
        "PAM": 2 * size.matching_steps * batch * (1 + BACKWARD) + 12.0 * size.measured,
    }
    costs: dict[str, tuple[float, int]] = {}

    def compared(part: str, methods: Sequence[str], factor: float = 1.0) -> None:
        for method in methods:
            costs[f"{part}_{method}_line"] = (size.seeds * factor * line, 0)
            if method != "none":
                epochs = size.matching_steps + 1 if method == "PAM" else 0
                costs[f"{part}_{method}"] = (size.seeds * factor * matching[method], epochs)

    if "spawning" in tasks:
        fits, (config, _) = 2 * size.seeds * len(size.spawn_steps), task.training(*size.spawn_steps)
        costs["spawning"] = (fits * trained, config.epochs)
        costs["spawning_line"] = (fits / 2 * line, 0)
    if "conjecture" in tasks:
        times = sorted({*size.snapshot_steps, size.steps})
        for width in dict.fromkeys((*size.widths, size.width)):
            own = width == size.width
            factor = (width / size.width) ** 2
            epochs = task.training(*(times if own else (size.steps,)))[0].epochs
            costs[f"width_{width:g}"] = (2 * size.seeds * factor * trained, epochs)
            for step in times if own else (size.steps,):
                compared(f"width_{width:g}_{step}", size.compared, factor)
    if "merging" in tasks:
        epochs = task.training(*size.snapshot_steps)[0].epochs
        for part, twice in (("input_0", 1), ("input_1", 1), ("whole_1", 1), ("whole_2", 2)):
            costs[f"merging_{part}"] = (twice * size.seeds * trained, epochs * twice)
            costs[f"merging_{part}_measured"] = (size.seeds * test, 0)
        compared("merging", size.merged)
        for method in size.merged:
            costs[f"merging_{method}_merged"] = (1.0, 0)
            costs[f"merging_{method}_repaired"] = (4.0 * size.seeds * size.measured, 0)
            costs |= {f"merging_{method}_{how}_measured": (size.seeds * test, 0) for how in ("merged", "repaired")}
        costs["merging_ensemble"] = (2 * size.seeds * len(task.data.test_labels), 0)
    return {f"{task.name}_{name}": cost for name, cost in costs.items()}
