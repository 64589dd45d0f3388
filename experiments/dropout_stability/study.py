"""The study: its options, its parts in order, and what is found from them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax

from experiments.dropout_stability import coins, measures, wide
from experiments.dropout_stability.figures import draw
from experiments.dropout_stability.measures import Cell
from experiments.dropout_stability.paths import KINDS, paths
from experiments.dropout_stability.tables import tables
from experiments.dropout_stability.tasks import HALF, SHARE, Problem, Size, check, make
from experiments.options import Sources, changes_of, check_all_positive, check_choices, check_increasing, fingerprint
from experiments.study import Findings, Parts, Study, run
from mcjax import trees
from mcjax.commands.options import seed_key
from mcjax.errors import InputError

TASKS = ("mnist", "cifar10", "wide", "coins")


@dataclass(frozen=True)
class Config:
    """The tasks, and how much of them is done."""

    tasks: tuple[Literal["mnist", "cifar10", "wide", "coins"], ...] = ("mnist", "cifar10", "wide", "coins")
    """The tasks to do."""
    preset: Literal["small", "paper"] = "small"
    """Amount of work; the options of the size take precedence."""
    sources: Sources = field(default_factory=Sources)
    size: Size = field(default_factory=lambda: changes_of(Size))
    units: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Hidden units of the networks of wide."""
    pairs: int = 3
    """Pairs of them of every width, for every kind of ends."""
    inputs: tuple[int, ...] = (2, 4)
    """Numbers of inputs of wide."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Units of either layer of the networks of coins."""
    rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 0.75)
    """Rates of dropout of coins."""
    coins: int = 200
    """Dropout networks of every width and rate."""
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder (None: runs/dropout_stability-HASH)."""


def main(config: Config) -> None:
    """Run the study, resume it, or report what it found."""
    key = seed_key(config.seed)
    check_choices("tasks", config.tasks, TASKS)
    check_all_positive(config, zero="seed")
    check_increasing(config, "units", "inputs", "widths", "rates")
    if config.rates[-1] >= 1:
        raise InputError(f"got rates={config.rates}, expected all of them below 1.")
    check(config.size)
    problems: dict[str, Problem] = {
        name: make(name, config.preset, config.sources, config.size)
        for name in config.tasks
        if name in ("mnist", "cifar10")
    }
    images = coins.images(config.sources) if "coins" in config.tasks else None

    def find(parts: Parts) -> Findings:
        found: dict[str, Any] = {}
        for name in config.tasks:
            here = jax.random.fold_in(key, TASKS.index(name))
            if name == "wide":
                found[name] = wide.gaps(parts, here, config.units, config.pairs, config.inputs)
            elif images is not None and name == "coins":
                found[name] = coins.chances(parts, here, images, config.widths, config.rates, config.coins)
            else:
                found[name] = _results(Cell(problems[name], here, parts.under(name)))
        return Findings({"tasks": found}, draw(found))

    study = Study(
        name="dropout_stability",
        title="Paths that theory constructs: dropout stability and noise stability",
        text=[
            "Networks that do without half of their units are joined by a path whose loss is known before it is "
            "walked: the top layer moves, where the loss is convex, and units that nothing reads are written anew. No "
            "segment of these paths was trained."
        ],
        parts=[each for name in config.tasks for each in _parts(name, problems.get(name), config)],
        find=find,
        tables=lambda results: tables(results["tasks"]),
    )
    settings = {name: _described(problem) for name, problem in problems.items()}
    if images is not None:
        settings["coins"] = {"training": asdict(coins.TRAINING), "data": fingerprint(images)}
    run(study, {**asdict(config), "settings": settings}, config.out)


def _described(problem: Problem) -> dict[str, Any]:
    configs = {name: asdict(getattr(problem, name)) for name in ("size", "networks", "curve", "string")}
    return {**configs, "data": fingerprint(problem.data)}


def _results(cell: Cell) -> dict[str, Any]:
    """Everything that is found of one problem, as results.json holds it."""
    found: dict[str, Any] = {
        "title": cell.problem.title,
        "parameters": trees.parameter_count(cell.end(0)),
        "networks": measures.networks(cell),
    }
    if cell.problem.name == "mnist":
        found["shares"] = measures.dropout_by_share(cell)
        found["interpolation"] = measures.interpolation(cell)
        found["narrow"] = measures.narrow_widths(cell)
    else:
        found["stability"] = measures.stability(cell)
    found["paths"] = paths(cell)
    return found


def _parts(task: str, problem: Problem | None, config: Config) -> list[str]:
    """The parts of one task."""
    if task == "coins":
        return [f"coins_{width}{of}" for width in config.widths for of in ("", "_measured")]
    if problem is None:
        return [wide.part(n, ends, each) for n in config.inputs for ends in wide.ENDS for each in config.units]
    ends, searched = (0, 1), {f"searched_{HALF:g}_{i}" for i in (0, 1)}
    names = ["networks", "networks_measured"]
    if problem.name == "mnist":
        shares = [f"{p:g}" for p in problem.size.shares]
        names += [f"stable_published_{p}_{i}" for p in shares for i in ends]
        names += [f"share_{subsets}_{p}" for subsets in ("published", "searched") for p in shares]
        searched |= {f"searched_{p}_{i}" for p in shares for i in ends} | {f"searched_{SHARE:g}_0"}
        names += ["interpolation"]
        names += [f"narrow_{width}{of}" for width in problem.narrow_widths for of in ("", "_measured")]
    else:
        names += ["noise_stability"]
    names += [f"stable_{each}" for each in (*sorted(searched), "rates_0", "rates_1")]
    names += ["match", "narrow", *(f"path_{kind}" for kind in KINDS)]
    return [f"{problem.name}_{name}".replace(" ", "_") for name in names]
