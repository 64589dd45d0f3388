"""Everything that theory explains, part by part."""

from functools import partial
from typing import Any

import jax

from experiments.linear_connectivity.low_rank import directions
from experiments.linear_connectivity.tractable import LINKS, Fineness, generalised_linear, top_eigenvector
from experiments.study import Parts

PARTS = tuple(f"tractable_{name}" for name in (*LINKS, "eigenvector", "directions"))


def theory(parts: Parts, key: jax.Array, fineness: Fineness) -> dict[str, Any]:
    """Everything about tractable landscapes, as results.json holds it."""
    keys = [jax.random.fold_in(key, i) for i in range(4)]
    inner = parts.under("tractable")
    models = {
        link: inner.numbers(link, partial(generalised_linear, keys[i], link, fineness)) for i, link in enumerate(LINKS)
    }
    eigenvector = inner.numbers("eigenvector", partial(top_eigenvector, keys[2], fineness))
    found = inner.numbers("directions", partial(directions, keys[3], fineness))
    return {"generalised_linear": models, "eigenvector": eigenvector, "directions": found}
