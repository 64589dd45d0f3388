"""The time to infer the spec of a large module, beside the time to trace it.

    python -m experiments.inference
    python -m experiments.inference --show resnet50

ResNet50 for ImageNet and transformers of 12, 24 and 48 layers; no array of them is allocated. The table has the
equations of the program, medians of the seconds to trace it (`jax.make_jaxpr`) and to infer the spec, tracing
included, and the groups and units found. The time should grow with the equations. A minute on two cores.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.own_modules import ResNet50, Transformer
from experiments.study import command
from mcjax import infer_spec
from mcjax.runs.tables import table
from mcjax.symmetry.infer.program import trace

IMAGES, TOKENS = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32), jax.ShapeDtypeStruct((2, 128), jnp.int32)
MODULES: dict[str, tuple[nn.Module, Any]] = {
    "resnet50": (ResNet50(), IMAGES),
    **{f"transformer{layers}": (Transformer(layers), TOKENS) for layers in (12, 24, 48)},
}


@dataclass(frozen=True)
class Inference:
    """The rounds of measurement, or the module to show."""

    rounds: int = 5
    """Rounds of measurement of every module; medians are reported."""
    show: Literal["resnet50", "transformer12", "transformer24", "transformer48"] | None = None
    """Print the spec of this module instead (None: measure)."""


def main(config: Inference) -> None:
    """Measure and print a table, or print a spec."""
    rows = []
    for name, (module, x) in MODULES.items():
        theta = jax.eval_shape(module.init, jax.random.key(0), x)
        if config.show is not None:
            if config.show == name:
                print(infer_spec(module.apply, theta, x, strict=True))
            continue
        tracing = seconds(config.rounds, jax.make_jaxpr(module.apply), theta, x)
        inferring = seconds(config.rounds, infer_spec, module.apply, theta, x)
        sizes = infer_spec(module.apply, theta, x).group_sizes(theta)
        equations = trace(module.apply, theta, x).num_equations
        found = [f"{len(sizes)}", f"{sum(sizes.values()):,}"]
        rows.append([name, f"{equations}", f"{tracing:.3f}", f"{inferring:.3f}", f"{inferring / tracing:.2f}", *found])
    if rows:
        print(table(["module", "equations", "trace s", "infer s", "ratio", "groups", "units"], rows))


def seconds(rounds: int, fn: Callable[..., Any], *args: Any) -> float:
    """The median time of a call."""
    times = []
    for _ in range(rounds):
        jax.clear_caches()
        start = time.perf_counter()
        fn(*args)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    command(Inference, main)
