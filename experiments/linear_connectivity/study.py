"""The study: its options, its parts in order, and what is found from them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import jax

from experiments.linear_connectivity.figures import draw
from experiments.linear_connectivity.measures import Cell, conjecture, spawning
from experiments.linear_connectivity.merging import merging
from experiments.linear_connectivity.tables import tables
from experiments.linear_connectivity.tasks import Problem, Size, make
from experiments.linear_connectivity.theory import PARTS, theory
from experiments.linear_connectivity.tractable import Fineness
from experiments.options import Sources, changes_of, check_choices, fingerprint
from experiments.study import Findings, Parts, Study, run
from mcjax.commands.options import seed_key

TaskName = Literal["spawning", "conjecture", "merging", "tractable"]
DataName = Literal["mnist", "cifar10"]
DATA: tuple[DataName, ...] = get_args(DataName)
TASKS = {"spawning": spawning, "conjecture": conjecture, "merging": merging}


@dataclass(frozen=True)
class Config:
    """The tasks, their data, and how much of them is done."""

    tasks: tuple[TaskName, ...] = get_args(TaskName)
    """The tasks to do."""
    data: tuple[DataName, ...] = DATA
    """The data of all tasks but tractable."""
    preset: Literal["small", "paper"] = "small"
    """Amount of work; the options of the size take precedence."""
    sources: Sources = field(default_factory=Sources)
    size: Size = field(default_factory=lambda: changes_of(Size))
    fineness: Fineness = field(default_factory=Fineness)
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/linear_connectivity-HASH)."""


def main(config: Config) -> None:
    """Run the study, resume it, or report what it found."""
    key = seed_key(config.seed)
    check_choices("tasks", config.tasks, (*TASKS, "tractable"))
    check_choices("data", config.data, DATA)
    trained = [name for name in config.tasks if name != "tractable"]
    problems = {name: make(name, config.preset, config.sources, config.size) for name in config.data if trained}
    explained = "tractable" in config.tasks

    def find(parts: Parts) -> Findings:
        found: dict[str, Any] = {"data": {}}
        for name, problem in problems.items():
            cell = Cell(problem, jax.random.fold_in(key, DATA.index(name)), parts.under(name))
            found["data"][name] = {"title": problem.data.name} | {each: TASKS[each](cell) for each in trained}
        if explained:
            found["tractable"] = theory(parts, jax.random.fold_in(key, len(DATA)), config.fineness)
        return Findings({"found": found}, draw(found))

    study = Study(
        name="linear_connectivity",
        title="When does linear mode connectivity appear?",
        text=[
            "Two networks are linearly connected if the loss does not rise on the straight line between them: when "
            "they have shared the beginning of training, or when the units of one are put in the order of the other's."
        ],
        parts=[
            *(each for problem in problems.values() for each in _parts(problem, trained)),
            *(PARTS * explained),
        ],
        find=find,
        tables=lambda results: tables(results["found"]),
    )
    settings = {name: _described(problem) for name, problem in problems.items()}
    run(study, {**asdict(config), "settings": settings}, config.out)


def _described(problem: Problem) -> dict[str, Any]:
    return {
        "size": asdict(problem.size),
        "model": [problem.architecture, problem.options],
        "training": asdict(problem.training(problem.size.steps)[0]),
        "data": fingerprint(problem.data),
    }


def _parts(problem: Problem, tasks: Sequence[str]) -> list[str]:
    """The parts of the tasks on one data set."""
    size, names = problem.size, list[str]()

    def compared(part: str, methods: Sequence[str]) -> list[str]:
        return [f"{part}_{method}" for method in methods[1:]] + [f"{part}_{method}_line" for method in methods]

    if "spawning" in tasks:
        names += ["spawning", "spawning_line"]
    if "conjecture" in tasks:
        for width in dict.fromkeys((*size.widths, size.width)):
            times = {*size.snapshot_steps, size.steps} if width == size.width else {size.steps}
            names += [f"width_{width:g}"]
            names += [each for step in sorted(times) for each in compared(f"width_{width:g}_{step}", size.compared)]
    if "merging" in tasks:
        networks = ["input_0", "input_1", "whole_1", "whole_2"]
        merged = [f"{method}_{how}" for method in size.merged for how in ("merged", "repaired")]
        names += [f"merging_{part}{of}" for part in networks + merged for of in ("", "_measured")]
        names += [*compared("merging", size.merged), "merging_ensemble"]
    return [f"{problem.name}_{name}" for name in names]
