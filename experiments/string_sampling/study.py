"""The study: its options, its parts in order, and what is found from them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from experiments.options import changes_of, check_choices, check_least, fingerprint
from experiments.string_sampling.figures import draw
from experiments.string_sampling.measures import VARIANTS, gather, relax, sample
from experiments.string_sampling.tables import tables
from experiments.string_sampling.tasks import LARGER, SIZES, Data, Problem, Size, StringOptions, make
from experiments.study import Findings, Parts, Study, run
from mcjax.commands.options import seed_key
from mcjax.errors import InputError

TaskName = Literal["quadratic", "cubic", "mnist", "cifar10", "ptb", "permutation"]
TASKS = tuple(SIZES)
PARTS = ("networks", *VARIANTS, *(f"{name}_relaxed" for name in VARIANTS))


@dataclass(frozen=True)
class Config:
    """The tasks, the pairs, and how strings are sampled."""

    tasks: tuple[TaskName, ...] = ("quadratic", "cubic", "permutation")
    """The tasks that networks learn."""
    preset: Literal["small", "paper"] = "small"
    """Amount of work; the options of the size take precedence."""
    data: Data = field(default_factory=Data)
    size: Size = field(default_factory=lambda: changes_of(Size))
    matching: Literal["activations", "weights", "straight_through"] = "activations"
    """The method of matching units."""
    string: StringOptions = field(default_factory=StringOptions)
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/string_sampling-HASH)."""


def main(config: Config) -> None:
    """Run the study, resume it, or report what it found."""
    key = seed_key(config.seed)
    check_choices("tasks", config.tasks, TASKS)
    _check(config)
    problems = [make(name, config.preset, config.data, config.size, config.string) for name in config.tasks]

    def find(parts: Parts) -> Findings:
        found, strings = {}, {}
        for problem in problems:
            name, here = problem.name, jax.random.fold_in(key, TASKS.index(problem.name))
            strings[name], reached = sample(parts.under(name), problem, here, config.matching)
            found[name] = gather(problem, strings[name], relax(parts.under(name), problem, strings[name]), reached)
        return Findings({"tasks": found}, draw(found, [(each, strings[each.name]) for each in problems]))

    study = Study(
        name="string_sampling",
        title="Dynamic string sampling: are level sets connected, and how curved are they?",
        text=[
            "Lengths and beads are means and standard deviations over those pairs whose string is connected: up to the "
            "tolerance of each table above the threshold, and at the points where it was measured. Relaxed: the length "
            "after the string was shortened at the level of the threshold. A string that is not connected within its "
            "budget proves nothing, and is longer and has more beads than when it was given up. Matched strings join "
            "the first network to the second one with its units permuted; the paper names connectedness up to symmetry "
            "as open."
        ],
        parts=[f"{problem.name}_{part}" for problem in problems for part in PARTS],
        find=find,
        tables=lambda results: tables(results["tasks"]),
    )
    run(study, {**asdict(config), "settings": {each.name: _described(each) for each in problems}}, config.out)


def _check(config: Config) -> None:
    """Raise InputError for options that cannot be, or that no task reads."""
    if not LARGER.keys() & set(config.tasks):
        for name in ("width", "train_images", "images", "hold_out"):
            value = getattr(config.data if name == "hold_out" else config.size, name)
            if value is not None:
                raise InputError(f"got {name}={value}, which only mnist, cifar10 and ptb read: expected none.")
    thresholds, names = config.size.thresholds, ", ".join(config.tasks)
    positive = thresholds is None or (thresholds and all(0 < level < np.inf for level in thresholds))
    if not positive or (thresholds is not None and len(config.tasks) > 1):
        raise InputError(f"got thresholds {thresholds} for {names}: expected positive ones, and one task.")
    check_least(config.size, pairs=1, splits=0, sweeps=0)


def _described(problem: Problem) -> dict[str, Any]:
    size = {name: getattr(problem, name) for name in ("thresholds", "pairs", "splits", "sweeps")}
    configs = {"ends": asdict(problem.ends), "string": asdict(problem.config)}
    return {**size, **configs, "data": fingerprint(problem.data)}
