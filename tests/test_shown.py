"""What is printed: results of every public type are short, whatever networks and arrays they hold."""

import functools
import inspect
from dataclasses import dataclass, is_dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_public import PUBLIC

import mcjax
from mcjax import trees
from mcjax.shown import Bound, short, short_repr

NETWORK = {"params": {f"Dense_{i}": {"kernel": np.full((40, 41), 0.125), "bias": np.ones(41)} for i in range(30)}}
TYPES = {
    member
    for member in PUBLIC.values()
    if inspect.isclass(member) and (hasattr(member, "_fields") or is_dataclass(member))
}
SETTINGS = {
    *("Axis", "Augmentation", "Criterion", "Curve", "Descent", "PermutationSpec", "PgdAttack", "Recorder", "SGD"),
    *("Chain", "UnitLayer"),
}
"""Types that hold names, numbers and functions alone, as those do whose names end in Config."""
OWN = {"Dataset", "Construction", "DropoutStability", "MergedUnits", "NoiseStability", "PermutationPath", "Task"}
"""Types with a line of their own, which is asserted where they are tested."""


def test_every_public_type_is_one_of_these():
    results = {kind for kind in TYPES if kind.__module__.split(".")[1] != "plotting"}
    assert len(results) > 60
    others = {kind for kind in results if "short_repr" not in kind.__repr__.__qualname__}
    assert {kind.__name__ for kind in others if not kind.__name__.endswith("Config")} == SETTINGS | OWN


@pytest.mark.parametrize("held", [NETWORK, [NETWORK] * 9, np.ones((50, 60)), Bound(max, NETWORK), None])
def test_results_of_every_type_are_short(held):
    for kind in TYPES:
        if "short_repr" in kind.__repr__.__qualname__:
            names = [*(kind.__dataclass_fields__ if is_dataclass(kind) else kind._fields)]
            value = tuple.__new__(kind, [held] * len(names)) if hasattr(kind, "_fields") else object.__new__(kind)
            if is_dataclass(kind):
                for name in names:
                    object.__setattr__(value, name, held)
            text = repr(value)
            assert text.startswith(f"{kind.__name__}({names[0]}=")
            assert "\n" not in text
            assert "0.125" not in text
            assert len(text) < 100 * len(names)


def test_values():
    for value, text in (
        (NETWORK, "<60 arrays of 50,430 numbers>"),
        (np.ones((2, 3), np.int8), "int8[2,3]"),
        (jnp.arange(3), "[0, 1, 2]"),
        (np.float32(0.25), "0.25"),
        (np.arange(6.0), "[0., 1., 2., 3., 4., 5.]"),
        (np.arange(7.0), "float64[7]"),
        ([np.ones((2, 2))] * 6, "[float64[2,2], float64[2,2], "),
        ([np.ones((2, 2))] * 7, "<7 arrays of 28 numbers>"),
        (np.zeros(2, bool), "bool[2]"),
        (jax.ShapeDtypeStruct((2,), jnp.bfloat16), "bfloat16[2]"),
        (jax.random.key(0), "key<fry>[]"),
        ({"a": np.ones(9), "b": np.float32(2)}, "{a: float64[9], b: 2.0}"),
        ({str(i): np.ones(9) for i in range(9)}, "... 3 more}"),
        ((1, None), "(1, None)"),
        ((1,), "(1,)"),
        ([], "[]"),
        (["x"], "['x']"),
        (max, "max"),
        ("x" * 200, "xxx..."),
        (functools.partial(max, 1), "functools.partial(<built-in"),
        (mcjax.Task, "Task"),
    ):
        assert text in short(value)
        assert len(short(value)) < 120
    assert jax.eval_shape(lambda x: [x, print(short(x))][0], 1.0).shape == ()  # traced arrays too


def test_classes():
    @short_repr
    class Pair(NamedTuple):
        first: object
        second: object = None

    @short_repr
    @dataclass(frozen=True)
    class Held:
        first: object

    assert repr(Pair(NETWORK, Held(np.ones((2, 2))))) == (
        "Pair(first=<60 arrays of 50,430 numbers>, second=Held(first=float64[2,2]))"
    )


def test_paths_stay_pytrees_of_their_arguments(tiny_model):
    a, b = (tiny_model.init(jax.random.key(seed)) for seed in range(2))
    path = mcjax.linear(tiny_model.spec).bind(a, b)
    assert isinstance(path, jax.tree_util.Partial)
    assert len(repr(path)) < 250
    assert len(jax.tree.leaves(path)) == 2 * len(jax.tree.leaves(a))
    twice = jax.jit(lambda path: jax.tree.map(lambda leaf: 2 * leaf, path))(path)
    assert type(twice) is Bound
    assert twice.func == path.func
    found, middle = twice(0.5), trees.interpolate(a, b, 0.5)
    np.testing.assert_allclose(trees.norm(trees.subtract(found, trees.scale(2.0, middle))), 0, atol=1e-6)
    assert Bound(pow, exp=2)(3) == 9
