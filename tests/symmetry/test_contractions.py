"""Rules of products, convolutions, pooling and indexing: each says of its axes exactly this, and they behave so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equivariance import Unsound, drawn, primitives, symmetry
from jax import lax

from mcjax.symmetry import contractions
from mcjax.symmetry.program import trace
from mcjax.symmetry.rules import RULES

IMAGES = ("NHWC", "HWIO", "NHWC")
M = (3, 4)


def conv(strides=(1, 1), padding="VALID", numbers=IMAGES, **options):
    return lambda x, k: lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=numbers, **options)


def pool(operation, start, window, strides, padding="VALID", **dilations):
    return lambda x: lax.reduce_window(x, start, operation, window, strides, padding, **dilations)


def gather(fn, mode=None):
    return fn


I3 = np.array([2, 0, 2])
PAIRS = np.array([[0, 1], [2, 0], [2, 2], [1, 0]])


# Of every primitive: what is said of operands and results, and the function and the operands' shapes or values.
ROWS = {
    "dot_general": [
        ("?", jnp.matmul, M, (4, 5)),
        ("?", jnp.matmul, M, (4,)),
        ("?", jnp.dot, (4,), (4,)),
        ("?", jnp.outer, (3,), (4,)),
        ("?", jnp.matmul, (2, 3, 4), (2, 4, 5)),
        ("?", lambda x, y: jnp.einsum("aibj,jbik->kia", x, y), (2, 3, 4, 5), (5, 4, 3, 2)),
        ("?", lambda x, y: jnp.einsum("ijab,jcib->ijac", x, y), (2, 3, 4, 5), (3, 4, 2, 5)),
        ("?", lambda x: x @ x.T, M),
        ("?", lambda x: x.T @ x, M),
        ("?", lambda x: x @ x, (3, 3)),
        ("?", lambda x, y: x @ y @ x, (3, 3), (3, 3)),
        ("?", lambda x: jnp.ones((2, 3)) @ x, M),
        ("?", lambda x: np.arange(6, dtype="f").reshape(2, 3) @ x, M),
        ("?", lambda x, y: x @ jnp.broadcast_to(y, (4, 2)), M, (2,)),
        ("?", lambda x, y: x.reshape(3, 4) @ y, (12,), (4, 5)),
        ("?", lambda x, y, z: jnp.concatenate([x, y]) @ z, (2,), (3,), (5, 4)),
        ("?", lambda x, y: jnp.concatenate([x, x]) @ y, (3,), (6, 4)),
        ("?", lambda x, y: x.cumsum() @ y, (3,), M),
        ("?", jnp.matmul, (0, 3), (3, 4)),
        ("?", jnp.matmul, (3, 0), (0, 4)),
        ("?", jnp.matmul, (3, 1), (1, 4)),
    ],
    "conv_general_dilated": [
        ("?", conv(), (2, 5, 5, 3), (3, 3, 3, 4)),
        ("?", conv((2, 1), "SAME"), (2, 4, 5, 3), (2, 1, 3, 4)),
        ("?", conv(), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("?", conv(), (2, 4, 5, 3), (1, 2, 3, 4)),
        ("?", conv((2, 1)), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("?", conv(padding=[(1, 1), (0, 0)]), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("?", conv(padding=[(1, -1), (-1, 0)]), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("?", conv(lhs_dilation=(2, 1)), (2, 3, 5, 3), (1, 1, 3, 4)),
        ("?", conv(rhs_dilation=(2, 2)), (2, 5, 5, 3), (2, 1, 3, 4)),
        ("?", conv(numbers=("NCHW", "OIHW", "NCHW")), (2, 3, 4, 4), (5, 3, 2, 1)),
        ("?", conv(numbers=("HWNC", "HWOI", "CHNW")), (3, 4, 2, 5), (1, 1, 6, 5)),
        ("?", conv((1,), numbers=("NHC", "HIO", "NHC")), (2, 5, 3), (3, 3, 4)),
        ("?", conv((2,), "SAME", ("NHC", "HIO", "NHC"), rhs_dilation=(2,)), (2, 6, 3), (3, 3, 4)),
        ("?", conv((), (), ("NC", "IO", "NC")), (2, 3), (3, 4)),
        ("?", conv(feature_group_count=2), (2, 4, 4, 6), (2, 2, 3, 10)),
        ("?", conv(feature_group_count=3), (2, 3, 3, 6), (1, 1, 2, 3)),
        ("?", conv(feature_group_count=3), (2, 4, 4, 3), (2, 2, 1, 3)),
        ("?", conv(feature_group_count=3), (2, 4, 4, 3), (2, 2, 1, 6)),
        ("?", conv(batch_group_count=2), (4, 3, 3, 3), (2, 2, 3, 6)),
        ("?", conv(), (1, 1, 1, 1), (1, 1, 1, 1)),
        ("?", lambda x, k: conv()(jnp.broadcast_to(x, (2, 4, 4, 3)), k), (3,), (2, 2, 3, 4)),
        ("?", lambda x, k: conv()(x, jnp.broadcast_to(k, (2, 1, 3, 4))), (2, 4, 4, 3), (3, 4)),
        ("?", lambda x, k: conv()(x, k @ k.T * jnp.ones((1, 1, 1, 1))), (2, 3, 3, 4), (4, 5)),
        ("?", jax.grad(lambda k, x: (conv()(x, k) ** 2).sum()), (2, 1, 3, 4), (2, 4, 4, 3)),
        ("?", jax.grad(lambda x, k: (conv((2, 1))(x, k) ** 2).sum()), (2, 4, 4, 3), (2, 1, 3, 4)),
        (
            "?",
            jax.grad(lambda k, x: (conv(feature_group_count=3)(x, k) ** 2).sum()),
            (2, 1, 1, 6),
            (2, 4, 4, 3),
        ),
    ],
    "reduce_window_max": [
        ("?", pool(lax.max, -np.inf, (1, 2, 2, 1), (1, 2, 2, 1)), (2, 4, 4, 3)),
        ("?", pool(lax.max, -np.inf, (1, 2), (1, 1), "SAME"), M),
        ("?", pool(lax.max, -np.inf, (1, 1), (1, 2)), M),
        ("?", pool(lax.max, -np.inf, (1, 1), (1, 1), [(0, 0), (1, 0)]), M),
        ("?", pool(lax.max, -np.inf, (1, 1), (1, 1), base_dilation=(2, 1)), M),
        ("?", pool(lax.max, -np.inf, (1, 2), (1, 1), window_dilation=(3, 2)), M),
        ("?", pool(lax.max, -np.inf, (3, 1), (1, 1)), M),
    ],
    "reduce_window_min": [("?", pool(lax.min, np.inf, (2, 1), (2, 1)), (4, 3))],
    "reduce_window_sum": [("?", pool(lax.add, 0.0, (2, 1), (2, 1)), (4, 3))],
    "dynamic_slice": [
        ("?", lambda x, i: lax.dynamic_slice(x, (i, 0), (2, 4)), M, np.array(1)),
        ("?", lambda x, i: lax.dynamic_slice(x, (i, i), M), M, np.array(7)),
        ("?", lambda x, i: lax.dynamic_index_in_dim(x, i, 1), M, np.array(2)),
        ("?", lambda x, i: x[i], M, np.array(2)),
        ("?", lambda x, i: lax.dynamic_slice(jnp.broadcast_to(x, (3,)), (i,), (2,)), (), np.array(1)),
    ],
    "dynamic_update_slice": [
        ("?", lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)), M, (2, 4), np.array(1)),
        ("?", lambda x, u, i: lax.dynamic_update_slice(x, u, (i, i)), M, M, np.array(1)),
        ("?", lambda x, u, i: lax.dynamic_update_slice(x, u, (0, i)), M, (1, 2), np.array(1)),
        ("?", lambda u, i: lax.dynamic_update_slice(jnp.zeros(M), u, (i, 0)), (1, 4), np.array(1)),
        ("?", lambda x, i: lax.dynamic_update_slice(x, jnp.ones((1, 4)), (i, 0)), M, np.array(1)),
        ("?", lambda x, u: x.at[1:3].set(u), M, (2, 4)),
    ],
    "gather": [
        ("?", lambda table, i: table[i], (5, 4), I3),
        ("?", lambda table, i: table[i], (5, 4), np.array([I3, I3])),
        ("?", lambda table, i: table[:, i], (5, 4), I3),
        ("?", lambda table, i: table[i], (3, 4), I3),
        ("?", lambda table: table[I3], (5, 4)),
        ("?", lambda x: x[:, np.array([3, 1])], M),
        ("?", lambda x, i: x[i, i], (3, 3, 2), I3),
        ("?", lambda x, i: x[i[:, 0], i[:, 1]], (3, 3, 2), PAIRS),
        ("?", lambda x, i: x[i[:, None], i[None]], (3, 4), I3),
        ("?", lambda x, i, j: x[i, :, j], (3, 2, 4), I3, I3),
        ("?", lambda x, i: jnp.take(x, i, 1), M, np.array([1, 9, -9])),
        ("?", lambda x, i: jnp.take(x, i, 0, mode="clip"), M, np.array([1, 9, -9])),
        ("?", lambda x, i: x.at[i].get(mode="fill", fill_value=7), M, np.array([1, 9, -9])),
        ("?", lambda x, i: x.at[i].get(mode="promise_in_bounds"), M, I3),
        ("?", lambda x, i: jnp.take_along_axis(x, i, 1), (3, 5), np.array([[0, 4], [1, 1], [3, 2]])),
        ("?", lambda x, i: jnp.take_along_axis(x, i, 1), (3, 5, 2), np.array([[0, 4], [1, 1], [3, 2]])[..., None]),
        ("?", lambda x, i: jnp.take_along_axis(x, i[:, None], 1), (3, 5), I3),
        ("?", jax.vmap(lambda x, i: x[i]), (3, 5, 2), np.array([[0, 4], [1, 1], [3, 2]])),
        ("?", jax.vmap(lambda x, i: x[i], (1, 0), 1), (5, 3, 2), np.array([[0, 4], [1, 1], [3, 2]])),
        ("?", jax.vmap(lambda x, i: lax.dynamic_slice(x, (i, 0), (2, 2))), (3, 5, 2), I3),
        ("?", jax.vmap(lambda x, i: lax.dynamic_slice(x, (i,), (2,)), (None, 0)), (5,), I3),
        ("?", lambda x, i: x[jnp.broadcast_to(i, (4,))], (5, 2), np.array(3)),
        ("?", lambda x, i: jnp.broadcast_to(x, (5, 2))[i], (2,), I3),
        ("?", lambda x, i: x[i], (1, 4), np.array([0, 0])),
        ("?", lambda x: x[np.zeros((0,), int)], M),
        ("?", lambda x: jnp.diagonal(x), (3, 3)),
        ("?", lambda x: x[jnp.array(1)], M),
        ("?", lambda x: x[..., ::2], (3, 6)),
    ],
    "scatter": [
        ("?", lambda x, u: x.at[:, 1].set(u), M, (3,)),
        ("?", lambda x, i, u: x.at[i].set(u), (5, 4), np.array([2, 0, 3]), M),
        ("?", lambda x, i, u: x.at[:, i].set(u), (5, 4), np.array([2, 0]), (5, 2)),
        ("?", lambda x, u: x.at[1:3, 1:3].set(u), M, (2, 2)),
        ("?", lambda x: x.at[0].set(0), M),
        ("?", lambda u: jnp.zeros(M).at[1].set(u), (4,)),
        ("?", lambda x, i, u: x.at[i].set(u, mode="drop"), M, np.array([1, 9]), (2, 4)),
        ("?", jax.vmap(lambda x, i, u: x.at[i].set(u)), (3, 5, 2), np.array([1, 0, 4]), (3, 2)),
        ("?", jax.vmap(lambda x, i, u: lax.dynamic_update_slice(x, u, (i, 0))), (3, 5, 2), I3, (3, 2, 2)),
        ("?", jax.vmap(lambda x, i, u: lax.dynamic_update_slice(x, u, (0, i))), (3, 5, 2), I3, (3, 5, 1)),
        ("?", lambda x, u: x.at[jnp.array(1)].set(u), M, (4,)),
        ("?", lambda x, u: x.at[:].set(u), M, M),
    ],
    "scatter-add": [
        ("?", lambda x, i, u: x.at[i].add(u), (5, 4), I3, M),
        ("?", lambda x, i, u: x.at[i, i].add(u), (3, 3), I3, (3,)),
        ("?", jax.vmap(lambda x, i, u: x.at[i].add(u)), (2, 5, 4), np.array([I3, I3]), (2, 3, 4)),
        ("?", lambda i, u: jax.ops.segment_sum(u, i, 4), I3, M),
        ("?", lambda table, i: jax.grad(lambda t: (t[i] ** 2).sum())(table), (5, 4), I3),
    ],
    **{
        f"scatter-{name}": [
            ("?", lambda x, i, u, name=method: getattr(x.at[i], name)(u), (5, 4), I3, M),
            ("?", lambda x, u, name=method: getattr(x.at[:, 0], name)(u), M, (3,)),
        ]
        for name, method in {"mul": "multiply", "min": "min", "max": "max", "sub": "subtract"}.items()
    },
}
