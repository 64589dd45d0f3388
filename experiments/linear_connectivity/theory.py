"""Everything that theory explains, part by part."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from experiments.linear_connectivity.linear_models import LINKS, generalised_linear, quartic_rates
from experiments.linear_connectivity.low_rank import PROBLEMS, directions, factorised
from experiments.linear_connectivity.tractable import Fineness, symmetric, top_eigenvector
from experiments.study import Parts

FACTORS = tuple(f"{known} {rank}".replace(" ", "_") for known, rank in PROBLEMS)
PARTS = tuple(f"tractable_{name}" for name in (*LINKS, "eigenvector", "directions", "quartic", "symmetric", *FACTORS))


def theory(parts: Parts, key: jax.Array, fineness: Fineness) -> dict[str, Any]:
    """Everything about tractable landscapes, as results.json holds it."""
    inner = parts.under("tractable")

    def found(name: str, find: Callable[..., Any], i: int, *of: Any) -> Any:
        return inner.numbers(name, partial(find, jax.random.fold_in(key, i), *of, fineness))

    return {
        "generalised_linear": {link: found(link, generalised_linear, i, link) for i, link in enumerate(LINKS)},
        "eigenvector": found("eigenvector", top_eigenvector, 2),
        "directions": found("directions", directions, 3),
        "quartic": inner.numbers("quartic", partial(quartic_rates, fineness)),
        "symmetric": found("symmetric", symmetric, 4),
        "factorised": [
            found(name, factorised, 5 + i, *problem)
            for i, (name, problem) in enumerate(zip(FACTORS, PROBLEMS, strict=True))
        ],
    }
