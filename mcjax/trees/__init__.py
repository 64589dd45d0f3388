"""Pytrees with leaves named by their path, and vector arithmetic on them.

Arithmetic is of floating-point leaves. It is computed in float32 at least, or in float64 where the leaf is, and a
network keeps the dtype of every leaf, which is rounded once. All other leaves are state: a counter, a mask, a key. They
are carried from the first tree, and never added, interpolated or differentiated.

Example::

    import jax
    import mcjax
    from mcjax import trees

    model = mcjax.models.create("mlp", 3, (4,), widths=(5,))
    theta_1, theta_2 = (model.init(jax.random.key(seed)) for seed in range(2))
    middle = trees.interpolate(theta_1, theta_2, 0.5)
    print(float(trees.norm(trees.subtract(theta_2, theta_1))), trees.parameter_count(middle))
    thetas = trees.stack([theta_1, middle, theta_2])  # networks along a leading axis
    print(trees.shapes(thetas))
"""

from mcjax.trees.arithmetic import add, as_precise_as, combine, dot, interpolate, mean, norm, scale, subtract
from mcjax.trees.axes import concatenate, index, length, on_host, stack, stack_on_host, unstack
from mcjax.trees.keys import check_keys, is_key, with_keys, without_keys
from mcjax.trees.names import (
    Tree,
    flatten,
    is_box,
    like,
    map_with_name,
    nest,
    path_keys,
    path_name,
    same_containers,
    shapes,
)
from mcjax.trees.variables import (
    at_least_float32,
    batch_stats,
    cast,
    check_alike,
    fingerprint,
    floating,
    is_floating,
    not_finite,
    parameter_count,
    params,
    trained,
    widened,
    with_batch_stats,
    with_floating,
    with_params,
    with_trained,
)

__all__ = [
    "Tree",
    "add",
    "as_precise_as",
    "at_least_float32",
    "batch_stats",
    "cast",
    "check_alike",
    "check_keys",
    "combine",
    "concatenate",
    "dot",
    "fingerprint",
    "flatten",
    "floating",
    "index",
    "interpolate",
    "is_box",
    "is_floating",
    "is_key",
    "length",
    "like",
    "map_with_name",
    "mean",
    "nest",
    "norm",
    "not_finite",
    "on_host",
    "parameter_count",
    "params",
    "path_keys",
    "path_name",
    "same_containers",
    "scale",
    "shapes",
    "stack",
    "stack_on_host",
    "subtract",
    "trained",
    "unstack",
    "widened",
    "with_batch_stats",
    "with_floating",
    "with_keys",
    "with_params",
    "with_trained",
    "without_keys",
]
