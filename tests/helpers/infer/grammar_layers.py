"""The layers of the grammar of random networks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Layers:
    """fn(draft, shape) -> (v, theta, values) -> value, or None where the shape does not suit it."""

    def dense(d, shape):
        name, bias = d.leaf(shape[-1], m := d.size()), d.leaf(m)
        return lambda v, w, _: jnp.tanh(v @ w[name] + w[bias])

    def transposed(d, shape):
        name = d.leaf(d.size(), shape[-1])
        return lambda v, w, _: jnp.sin(v @ w[name].T)

    def along(d, shape):
        a = d.axis(shape)
        name = d.leaf(shape[a], d.size())
        return lambda v, w, _: jnp.moveaxis(jnp.tensordot(v, w[name], (a, 0)), -1, a)

    def residual(d, shape):
        up, down = d.leaf(shape[-1], m := d.size()), d.leaf(m, shape[-1])
        return lambda v, w, _: v + jnp.tanh(v @ w[up]) @ w[down]

    def product_of_weights(d, shape):
        a, b = d.leaf(shape[-1], r := d.size()), d.leaf(r, d.size())
        return lambda v, w, _: v @ (w[a] @ w[b])

    def normalised_weights(d, shape):
        name, a = d.leaf(shape[-1], d.size()), int(d.rng.integers(2))
        return lambda v, w, _: v @ (w[name] / jnp.linalg.norm(w[name], axis=a, keepdims=True))

    def members(d, shape):
        name = d.leaf(d.size(), shape[-1], d.size())
        return lambda v, w, _: jnp.tanh(jnp.einsum("...n,enm->...em", v, w[name]))

    def affine(d, shape):
        keep = d.rng.random(len(shape)) < 0.5
        small = tuple(n if k else 1 for n, k in zip(shape, keep, strict=True))
        scale, shift = d.leaf(*small), d.leaf(*small)
        return lambda v, w, _: v * w[scale] + w[shift]

    def gate(d, shape):
        i = d.other(shape)
        return lambda v, w, values: v * jax.nn.sigmoid(values[i])

    def add(d, shape):
        i = d.other(shape)
        return lambda v, w, values: v + values[i]

    def standardised(d, shape):
        axes = tuple(int(i) for i in np.flatnonzero(d.rng.random(len(shape)) < 0.5)) or (len(shape) - 1,)
        return lambda v, w, _: (v - v.mean(axes, keepdims=True)) / jnp.sqrt(v.var(axes, keepdims=True) + 0.1)

    def group_norm(d, shape):
        if shape[-1] % 2:
            return None

        def fn(v, w, _):
            parts = v.reshape(*shape[:-1], 2, -1)
            return (parts - parts.mean(-1, keepdims=True)).reshape(shape) / (
                1 + jnp.repeat((parts**2).mean(-1), shape[-1] // 2, -1)
            )

        return fn

    def softmax(d, shape):
        a = d.axis(shape)
        return lambda v, w, _: jax.nn.softmax(v, a)

    def reduced(d, shape):
        a = d.axis(shape)
        how = d.pick([jnp.sum, jnp.max, jnp.min, jax.nn.logsumexp, jnp.std])
        return None if len(shape) < 2 else lambda v, w, _: how(v, axis=a)

    def transpose(d, shape):
        order = tuple(int(i) for i in d.rng.permutation(len(shape)))
        return lambda v, w, _: v.transpose(order)

    def merge(d, shape):
        if len(shape) < 2:
            return None
        i = int(d.rng.integers(len(shape) - 1))
        return lambda v, w, _: v.reshape(*shape[:i], -1, *shape[i + 2 :])

    def split(d, shape):
        a = d.axis(shape)
        parts = [k for k in range(2, shape[a]) if shape[a] % k == 0]
        k = d.pick(parts)
        return k and (lambda v, w, _: v.reshape(*shape[:a], k, -1, *shape[a + 1 :]))

    def regroup(d, shape):
        if len(shape) < 2:
            return None
        i = int(d.rng.integers(len(shape) - 1))
        total = shape[i] * shape[i + 1]
        k = d.pick([k for k in range(2, total) if total % k == 0])
        return k and (lambda v, w, _: v.reshape(*shape[:i], k, total // k, *shape[i + 2 :]))

    def concatenate(d, shape):
        a = d.axis(shape)
        fits = [
            i
            for i, there in enumerate(d.shapes)
            if len(there) == len(shape)
            and all(m == n for j, (m, n) in enumerate(zip(there, shape, strict=True)) if j != a)
        ]
        i, first = d.pick(fits), d.rng.random() < 0.5
        return lambda v, w, values: jnp.concatenate([values[i], v] if first else [v, values[i]], a)

    def constant_segment(d, shape):
        a = d.axis(shape)
        name = d.leaf(*shape[:a], d.size(), *shape[a + 1 :])
        return lambda v, w, _: jnp.concatenate([v, w[name], jnp.zeros_like(w[name])], a)

    def halves(d, shape):
        a = d.axis(shape)

        def fn(v, w, _):
            one, other = jnp.split(v, 2, a)
            return jnp.tanh(one) * other

        return None if shape[a] % 2 else fn

    def thirds(d, shape):
        a = d.axis(shape)

        def fn(v, w, _):
            one, other, last = jnp.split(v, 3, a)
            return jnp.concatenate([one + last, other], a)

        return None if shape[a] % 3 else fn

    def part(d, shape):
        a = d.axis(shape)
        start, step = int(d.rng.integers(shape[a])), int(d.pick([1, 1, 2, 3]))
        stop = int(d.rng.integers(start, shape[a])) + 1
        index = (slice(None),) * a + (slice(start, stop, step),)
        return lambda v, w, _: v[index]

    def pad(d, shape):
        a = d.axis(shape)
        low, high, inside = (int(n) for n in d.rng.integers(0, 3, 3))
        config = [(0, 0, 0)] * len(shape)
        config[a] = (low, high, inside // 2)
        return lambda v, w, _: lax.pad(v, jnp.zeros((), v.dtype), config)

    def ordered(d, shape):
        a = d.axis(shape)
        how = d.pick(
            [
                lambda v: jnp.cumsum(v, a),
                lambda v: jnp.sort(v, a),
                lambda v: jnp.flip(v, a),
                lambda v: jnp.roll(v, 1, a),
            ]
        )
        return lambda v, w, _: how(v)

    def largest(d, shape):
        a = d.axis(shape)
        return lambda v, w, _: v * jax.nn.one_hot(v.argmax(a), shape[a], axis=a, dtype=v.dtype) + 0.1 * v

    def top(d, shape):
        return lambda v, w, _: lax.top_k(v, max(1, shape[-1] - 1))[0]

    def taken(d, shape):
        a = d.axis(shape)
        index = d.rng.integers(0, shape[a], d.size(), np.int32)
        return lambda v, w, _: jnp.take(v, index, a)

    def weighted(d, shape):
        a = d.axis(shape)
        fixed = d.rng.normal(size=[n if i == a else 1 for i, n in enumerate(shape)])
        return lambda v, w, _: v * fixed.astype(v.dtype)

    def attention(d, shape):
        if len(shape) != 3:
            return None
        heads, k, m = d.size(), d.size(), d.size()
        q_name, k_name = d.leaf(shape[-1], heads * k), d.leaf(shape[-1], heads, k)
        v_name, out = d.leaf(shape[-1], heads * m), d.leaf(heads * m, shape[-1])

        def fn(v, w, _):
            b, t, _n = v.shape
            q, keys = (v @ w[q_name]).reshape(b, t, heads, k), jnp.einsum("btn,nhk->bthk", v, w[k_name])
            mixed = jnp.einsum(
                "bhts,bshm->bthm",
                jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, keys)),
                (v @ w[v_name]).reshape(b, t, heads, m),
            )
            return v + mixed.reshape(b, t, -1) @ w[out]

        return fn

    def convolution(d, shape):
        if len(shape) != 3:
            return None
        groups = d.pick([g for g in (1, 2, 3, shape[-1]) if shape[-1] % g == 0])
        name = d.leaf(int(d.pick([1, 2, 3])), shape[-1] // groups, groups * int(d.pick([1, 2])))
        stride, dilation = (int(n) for n in d.rng.integers(1, 3, 2))
        return lambda v, w, _: lax.conv_general_dilated(
            v,
            w[name],
            (stride,),
            "SAME",
            rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )

    def pool(d, shape):
        a = d.axis(shape)
        window = tuple(2 if i == a else 1 for i in range(len(shape)))
        return lambda v, w, _: lax.reduce_window(v, -jnp.inf, lax.max, window, (1,) * len(shape), "SAME")

    def recurrent(d, shape):
        if len(shape) != 3:
            return None
        inwards, again = d.leaf(shape[-1], 2 * (m := d.size())), d.leaf(m, 2 * m)

        def fn(v, w, _):
            def step(h, row):
                a, b = jnp.split(row @ w[inwards] + h @ w[again], 2, -1)
                h = jnp.tanh(a) + jax.nn.sigmoid(b) * h
                return h, h

            return lax.scan(step, jnp.zeros((v.shape[0], m), v.dtype), v.swapaxes(0, 1))[1].swapaxes(0, 1)

        return fn

    def mapped(d, shape):
        if len(shape) < 2:
            return None
        a, name = int(d.rng.integers(len(shape) - 1)), d.leaf(shape[-1], d.size())
        return lambda v, w, _: jnp.moveaxis(lax.map(lambda row: jnp.tanh(row @ w[name]), jnp.moveaxis(v, a, 0)), 0, a)

    def repeated(d, shape):
        name = d.leaf(shape[-1], shape[-1])
        return lambda v, w, _: lax.fori_loop(0, 3, lambda i, u: jnp.tanh(u @ w[name]) + v, v)

    def until(d, shape):
        name = d.leaf(shape[-1])
        return lambda v, w, _: lax.while_loop(lambda u: jnp.abs(u).max() > 0.5, lambda u: 0.5 * jnp.sin(u + w[name]), v)

    def branch(d, shape):
        name, a = d.leaf(shape[-1]), d.axis(shape)
        other = d.pick([lambda v, w: v - w, lambda v, w: jnp.flip(v, a), lambda v, w: jnp.zeros_like(v)])
        return lambda v, w, _: lax.cond(jnp.tanh(v).sum() > 0.3, lambda v, w: v + w, other, v, w[name])

    def window(d, shape):
        a = d.axis(shape)
        n = int(d.rng.integers(1, shape[a] + 1))
        name = d.leaf(*shape[:a], n, *shape[a + 1 :])
        start = int(d.rng.integers(0, shape[a] - n + 1))
        at = [start if i == a else 0 for i in range(len(shape))]
        if d.rng.random() < 0.5:
            return lambda v, w, _: lax.dynamic_update_slice(v, w[name], at)
        return lambda v, w, _: lax.dynamic_slice(v, at, w[name].shape) * w[name]

    def scattered(d, shape):
        a = d.axis(shape)
        index = d.rng.integers(0, shape[a], d.size(), np.int32)
        name = d.leaf(*shape[:a], len(index), *shape[a + 1 :])
        where = (slice(None),) * a + (index,)
        return lambda v, w, _: v.at[where].add(w[name])

    def looked_up(d, shape):
        index = d.rng.integers(0, (rows := d.size()), shape[0], np.int32)
        name = d.leaf(rows, shape[-1])
        return lambda v, w, _: (
            v + w[name][index].reshape(shape[0], *(1,) * (len(shape) - 2), shape[-1]) if len(shape) > 1 else v
        )

    def stacked(d, shape):
        i, a = d.other(shape), int(d.rng.integers(len(shape) + 1))
        return lambda v, w, values: jnp.stack([v, values[i], v], a)

    def unstacked(d, shape):
        a = d.axis(shape)

        def fn(v, w, _):
            rows = jnp.unstack(v, axis=a)
            return rows[0] * jnp.tanh(rows[-1])

        return None if len(shape) < 2 else fn

    def tiled(d, shape):
        a, how = (
            d.axis(shape),
            d.pick([jnp.repeat, lambda v, n, a: jnp.tile(v, [n if i == a else 1 for i in range(v.ndim)])]),
        )
        return lambda v, w, _: how(v, 2, a)

    def grams(d, shape):
        return None if len(shape) != 3 else lambda v, w, _: jnp.einsum("bti,btj->bij", v, v)

    def filled(d, shape):
        name = d.leaf(shape[-1])
        return lambda v, w, _: jnp.where(v > 0.3, v, jnp.broadcast_to(w[name], shape))

    def over_two(d, shape):
        name = d.leaf(*shape[-2:], d.size())
        return None if len(shape) < 3 else lambda v, w, _: jnp.tanh(jnp.tensordot(v, w[name], 2))

    def outer(d, shape):
        flat = d.rng.random() < 0.5
        return lambda v, w, _: (v[..., :, None] * v[..., None, :]).reshape(
            *shape[:-1], *([-1] if flat else [shape[-1]] * 2)
        )

    def images(d, shape):
        if len(shape) != 4:
            return None
        name = d.leaf(int(d.pick([1, 2])), int(d.pick([1, 2])), shape[-1], d.size())
        return lambda v, w, _: jax.nn.silu(
            lax.conv_general_dilated(v, w[name], (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )

    def in_order(d, shape):
        a, i = d.axis(shape), d.other(shape)
        return lambda v, w, values: v + jnp.take_along_axis(values[i], jnp.argsort(v, a), a)

    def deep(d, shape):
        name = d.leaf(d.size(), shape[-1], shape[-1])
        layer = jax.checkpoint(lambda u, w: (u + jnp.tanh(u @ w), u.sum()))
        return lambda v, w, _: lax.scan(layer, v, w[name])[0]

    def called(d, shape):
        name = d.leaf(shape[-1])
        inner = jax.jit(lambda u, b: jax.nn.relu(u) * jnp.broadcast_to(b, u.shape))
        return lambda v, w, _: inner(v, w[name]) + inner(-v, w[name])


LAYERS = {name: fn for name, fn in vars(Layers).items() if not name.startswith("_")}
