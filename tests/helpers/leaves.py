"""Specs of every kind of axis, with leaves drawn for them, and the inner product that weight matching maximises."""

import jax
import numpy as np
from variables import permuted

from mcjax import Axis, PermutationSpec, trees

BLOCKS = range(4)
# Leaves with several groups on an axis, segments, factors, and groups that meet themselves.
SPECS = {
    "flattened": {
        "conv": (None, None, None, "c"),
        "dense": (Axis("c", outer=4), "h"),
        "bias": ("h",),
        "out": ("h", None),
    },
    "heads": {
        "query": (None, (Axis("heads", inner=5), Axis("units", outer=4))),
        "bias": ((Axis("heads", inner=5), Axis("units", outer=4)),),
        "out": ((Axis("heads", inner=5), Axis("units", outer=4)), "t"),
        "next": ("t", None),
    },
    "joined": {
        "a": (None, "a"),
        "b": (None, "b"),
        "norm": ((Axis("a", start=0, stop=6), Axis("b", start=6, stop=14)),),
        "read": ((Axis("a", start=0, stop=6), Axis("b", start=6, stop=14)), "h"),
        "part": (Axis("a", start=2, stop=8), "h"),
        "out": ("h", None),
    },
    "recurrent": {
        "input": (None, tuple(Axis("h", start=9 * i, stop=9 * i + 9) for i in range(4))),
        "recurrent": ("h", tuple(Axis("h", start=9 * i, stop=9 * i + 9) for i in range(4))),
        "bias": (Axis("h", outer=4),),
        "out": ("h", None),
    },
    "trunk": {"stem": (None, "t"), **{f"w{i}": ("t", "t") for i in BLOCKS}, "out": ("t", None)},
    "blocks": {
        "stem": (None, "t"),
        **{f"v{i}": ("t", f"b{i}") for i in BLOCKS},
        **{f"w{i}": (f"b{i}", "t") for i in BLOCKS},
        "out": ("t", None),
    },
    "unpinned": {"ab": ("a", "b"), "bc": ("b", "c"), "cd": ("c", "d")},
    "itself": {"w": ("t", "t"), "v": ("t", "t")},
}
SHAPES = {
    "flattened": {"conv": (3, 3, 2, 8), "dense": (32, 11), "bias": (11,), "out": (11, 3)},
    "heads": {"query": (7, 20), "bias": (20,), "out": (20, 9), "next": (9, 3)},
    "joined": {"a": (3, 6), "b": (3, 8), "norm": (14,), "read": (14, 10), "part": (9, 10), "out": (10, 2)},
    "recurrent": {"input": (2, 36), "recurrent": (9, 36), "bias": (36,), "out": (9, 3)},
}


def drawn(name, seed, width=12):
    """A spec and normal variables for it."""
    spec, rng = PermutationSpec(SPECS[name]), np.random.default_rng(seed)
    shapes = SHAPES.get(name) or {
        leaf: [1 if axis is None else width for axis in axes] for leaf, axes in SPECS[name].items()
    }
    return spec, {leaf: rng.normal(size=shape).astype(np.float32) for leaf, shape in shapes.items()}


def inner_product(spec, P, theta_1, theta_2):
    """The inner product, in float64 and leaf by leaf."""
    first, second = trees.flatten(theta_1), trees.flatten(permuted(spec, P, theta_2))
    pairs = ((first[name], second[name]) for name in first if not name.startswith("batch_stats/"))
    return sum((np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum() for a, b in pairs)


def random_tree(seed, lead=()):
    """Normal leaves in two collections, with leading axes."""
    rng = np.random.default_rng(seed)
    shapes = {
        "params": {"b": {"kernel": (3, 4), "bias": (4,)}, "a": {"scale": ()}},
        "batch_stats": {"b": {"mean": (4,)}},
    }

    def draw(shape):
        return rng.normal(size=(*lead, *shape)).astype(np.float32)

    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))
