"""More layers of the grammar: indices that are computed, windows of all kinds, derivatives by rule, known networks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def whole(v, n):
    """Whole numbers from 0 to n - 1, computed from floats."""
    return jnp.floor(jnp.abs(v) * 7.3).astype(int) % n


def operand(d, shape):
    """A function that gives an array of this shape: a leaf, or an earlier value if there is one."""
    i = d.other(shape)
    if i is None or d.rng.random() < 0.6:
        name = d.leaf(*shape)
        return lambda w, _: w[name]
    return lambda _, values: values[i]


def some(d, shape, odds=0.5):
    """A few of the axes."""
    return [i for i in range(len(shape)) if d.rng.random() < odds]


def ordered(d, axes):
    return [int(i) for i in d.rng.permutation(np.asarray(axes, int))]


class Operations:
    """fn(draft, shape) -> (v, theta, values) -> value, or None where the shape does not suit it."""

    def letters(d, shape):
        letters = list("abcd"[: len(shape)])
        for i in range(1, len(shape)):
            if shape[i] in shape[:i] and d.rng.random() < 0.3:
                letters[i] = letters[shape.index(shape[i])]
        sizes = {**dict(zip(letters, shape, strict=True)), "x": d.size(), "y": d.size()}
        other = [str(each) for each in d.rng.choice(list(sizes), int(d.rng.integers(1, 4)))]
        factor = operand(d, tuple(sizes[each] for each in other))
        used = sorted({*letters, *other})
        kept = [str(each) for each in d.rng.permutation(used)][: max(1, int(d.rng.integers(len(used) + 1)))]
        equation = f"{''.join(letters)},{''.join(other)}->{''.join(kept)}"
        return lambda v, w, values: jnp.tanh(jnp.einsum(equation, v, factor(w, values)))

    def along(d, shape):
        a = d.axis(shape)
        index = operand(d, tuple(d.size() if i == a else n for i, n in enumerate(shape)))
        return lambda v, w, values: jnp.take_along_axis(v, whole(index(w, values), shape[a]), a)

    def put(d, shape):
        a = d.axis(shape)
        index, new = operand(d, shape), operand(d, shape)
        return lambda v, w, values: jnp.put_along_axis(
            v, whole(index(w, values), shape[a]), new(w, values), a, inplace=False
        )

    def window_of_rows(d, shape):
        if len(shape) < 2:
            return None
        sizes = tuple(int(d.rng.integers(1, n + 1)) if d.rng.random() < 0.5 else n for n in shape[1:])
        start, new = operand(d, (shape[0], len(sizes))), operand(d, (shape[0], *sizes))
        write = d.rng.random() < 0.5

        def row(v, at, u):
            at = [whole(at[i], 5) for i in range(len(sizes))]
            return lax.dynamic_update_slice(v, u, at) if write else lax.dynamic_slice(v, at, sizes) * u

        return lambda v, w, values: jax.vmap(row)(v, start(w, values), new(w, values))

    def segments(d, shape):
        n, at = d.size(), operand(d, shape[:1])
        how = d.pick([jax.ops.segment_sum, jax.ops.segment_max])
        return lambda v, w, values: jnp.maximum(how(v, whole(at(w, values), n), n), -9)

    def associative(d, shape):
        a, how = d.axis(shape), d.pick([jnp.add, jnp.multiply, jnp.maximum])
        return lambda v, w, _: jnp.tanh(lax.associative_scan(how, v, axis=a, reverse=shape[a] % 2 == 0))

    def cumulative(d, shape):
        a, back = d.axis(shape), d.rng.random() < 0.5
        how = d.pick([lax.cumprod, lax.cummax, lax.cummin, lax.cumlogsumexp])
        return lambda v, w, _: jnp.tanh(how(v, a, back))

    def ranked(d, shape):
        a, k, other = d.axis(shape), max(1, shape[-1] // 2), operand(d, shape)
        how = d.pick(
            [
                lambda v, u: lax.sort((v, u), a)[1],
                lambda v, u: 0.1 * jnp.argsort(v, a) + u,
                lambda v, u: v * (v >= lax.top_k(v, k)[0][..., -1:]) + u,
                lambda v, u: v - jnp.median(u, a, keepdims=True),
                lambda v, u: 0.1 * lax.top_k(v, k)[1] + lax.top_k(u, k)[0],
            ]
        )
        return lambda v, w, values: how(v, other(w, values))

    def by_rule(d, shape):
        a, u = d.axis(shape), operand(d, shape)
        slope = d.pick([jnp.cos, lambda x: jnp.flip(x, a), lambda x: x - x.sum(a, keepdims=True)])
        forwards, backwards = jax.custom_jvp(jnp.sin), jax.custom_vjp(jnp.tanh)
        forwards.defjvp(lambda x, t: (jnp.sin(x[0]), slope(x[0]) * t[0]))
        backwards.defvjp(lambda x: (jnp.tanh(x), x), lambda x, t: (slope(x) * t,))
        if d.rng.random() < 0.5:
            return lambda v, w, values: jax.jvp(forwards, (v,), (u(w, values),))[1]
        return lambda v, w, values: jax.grad(lambda x: (backwards(x) * u(w, values)).sum())(v)

    def any_convolution(d, shape):
        space = len(shape) - 2
        if space < 1:
            return None
        specs = [tuple(ordered(d, range(len(shape)))) for _ in range(3)]
        batch, channels = (shape[i] for i in specs[0][:2])
        many = 2 if batch % 2 == 0 and d.rng.random() < 0.2 else 1
        groups = 1 if many > 1 else d.pick([g for g in (1, 2, 3, channels) if channels % g == 0])
        filters = (groups * many * int(d.pick([1, 2])), channels // groups, *d.rng.integers(1, 3, space).tolist())
        kernel = operand(d, tuple(filters[specs[1].index(i)] for i in range(len(shape))))
        strides, left, right = (d.pick([[1] * space, [1] * space, d.rng.integers(1, 3, space)]) for _ in range(3))
        padding = [d.pick([(0, 0), (0, 0), (1, 0), (1, 1), (1, -1)]) for _ in range(space)]

        def fn(v, k):
            return jnp.tanh(
                lax.conv_general_dilated(
                    *(v, k, strides, padding, left, right, lax.ConvDimensionNumbers(*specs)),
                    feature_group_count=groups,
                    batch_group_count=many,
                )
            )

        if d.rng.random() < 0.3:
            return lambda v, w, values: jax.grad(lambda v: fn(v, kernel(w, values)).sum())(v)
        return lambda v, w, values: fn(v, kernel(w, values))

    def any_window(d, shape):
        window, strides = (tuple(int(d.pick([1, 1, 2])) for _ in shape) for _ in range(2))
        start, how = d.pick([(0.0, lax.add), (-jnp.inf, lax.max), (1.0, lax.mul), (-jnp.inf, jnp.logaddexp)])
        if how is lax.max and d.rng.random() < 0.5:
            return lambda v, w, _: jax.grad(
                lambda v: jnp.sin(lax.reduce_window(v, start, how, window, strides, "SAME")).sum()
            )(v)
        return lambda v, w, _: lax.reduce_window(jnp.tanh(v), jnp.asarray(start, v.dtype), how, window, strides, "SAME")

    def rotary(d, shape):
        if len(shape) < 2 or shape[-1] % 2:
            return None
        angles = np.outer(np.arange(shape[-2]), 0.3 ** np.arange(shape[-1] // 2))
        between = d.rng.random() < 0.5

        def fn(v, w, _):
            a, b = (v[..., ::2], v[..., 1::2]) if between else jnp.split(v, 2, -1)
            cos, sin = jnp.cos(angles), jnp.sin(angles)
            turned = a * cos - b * sin, a * sin + b * cos
            return jnp.stack(turned, -1).reshape(shape) if between else jnp.concatenate(turned, -1)

        return fn

    def grouped_queries(d, shape):
        if len(shape) != 3:
            return None
        groups, each, k = (int(n) for n in d.rng.integers(1, 4, 3))
        q_name, out = d.leaf(shape[-1], groups * each * k), d.leaf(groups * each * k, d.size())
        k_name, v_name = (d.leaf(shape[-1], groups * k) for _ in range(2))
        repeat = d.pick([None, lambda x: jnp.repeat(x, each, 2), lambda x: jnp.tile(x, (1, 1, each, 1))])

        def fn(v, w, _):
            start = v.shape[:2]
            keys, mixed = ((v @ w[name]).reshape(*start, groups, k) for name in (k_name, v_name))
            if repeat is None:
                q = (v @ w[q_name]).reshape(*start, groups, each, k)
                weights = jax.nn.softmax(jnp.einsum("btgek,bsgk->bgets", q, keys))
                mixed = jnp.einsum("bgets,bsgk->btgek", weights, mixed)
            else:
                q = (v @ w[q_name]).reshape(*start, groups * each, k)
                weights = jnp.einsum("bthk,bshk->bhts", q, repeat(keys))
                weights = jax.nn.softmax(jnp.where(np.tri(start[1], dtype=bool), weights, -9))
                mixed = jnp.einsum("bhts,bshk->bthk", weights, repeat(mixed))
            return mixed.reshape(*start, -1) @ w[out]

        return fn

    def experts(d, shape):
        n, m = int(d.pick([2, 3])), d.size()
        gate, up, down = d.leaf(shape[-1], n), d.leaf(n, shape[-1], m), d.leaf(n, m, shape[-1])
        how = d.pick([lambda p: p, lambda p: jnp.where(p >= p.max(-1, keepdims=True), p, 0), None])

        def fn(v, w, _):
            weights = jax.nn.softmax(v @ w[gate])
            if how is None:
                best = weights.argmax(-1)
                return jnp.einsum("...m,...mn->...n", jnp.einsum("...n,...nm->...m", v, w[up][best]), w[down][best])
            each = jnp.tanh(jnp.einsum("...n,enm->...em", v, w[up]))
            return jnp.einsum("...e,...em,emn->...n", how(weights), each, w[down])

        return fn

    def gathered(d, shape):
        batch = some(d, shape, 0.25)
        others = [i for i in range(len(shape)) if i not in batch]
        named = [i for i in others if d.rng.random() < 0.6]
        if not named:
            return None
        sizes = [1 if i in batch else d.pick([n, 1, int(d.rng.integers(1, n + 1))]) for i, n in enumerate(shape)]
        gone = [i for i in others if sizes[i] == 1 and d.rng.random() < 0.7]
        lengths = [shape[i] for i in batch] + [d.size() for _ in range(int(d.rng.integers(2)))]
        order, windows = ordered(d, range(len(lengths))), [i for i in others if i not in gone]
        rank = len(lengths) + len(windows)
        at = sorted(ordered(d, range(rank))[: len(windows)])
        parts = (at, gone, ordered(d, named), batch, [order.index(i) for i in range(len(batch))])
        index = operand(d, (*(lengths[i] for i in order), len(named)))
        scattered, parts = d.rng.random() < 0.5, [tuple(each) for each in parts]
        windows, rows = iter(windows), iter([lengths[i] for i in order])
        new = operand(d, tuple(sizes[next(windows)] if i in at else next(rows) for i in range(rank)))
        limits = np.array([shape[i] + 1 for i in parts[2]])

        def fn(v, w, values):
            i = whole(index(w, values), limits)
            if scattered:
                return lax.scatter_add(v, i, new(w, values), lax.ScatterDimensionNumbers(*parts), mode="drop")
            return lax.gather(v, i, lax.GatherDimensionNumbers(*parts), sizes, mode="clip") * new(w, values)

        return fn

    def embedded(d, shape):
        name = d.leaf(n := d.size(), d.size())
        if len(shape) > 2 or d.rng.random() < 0.3:
            return lambda v, w, _: jax.grad(lambda table: (table[whole(v, n)] ** 2).sum())(w[name])
        return lambda v, w, _: w[name][whole(v, n)]

    def whole_numbers(d, shape):
        a, n, other = d.axis(shape), d.size(), operand(d, shape)
        how = d.pick(
            [
                lambda i, j: i % 3 + j,
                lambda i, j: i ^ j,
                lambda i, j: lax.population_count(i & j),
                lambda i, j: (i > j).any(a, keepdims=True) * i,
                lambda i, j: jax.nn.one_hot(i % n, n, axis=a) if len(shape) < 4 else i,
            ]
        )
        return lambda v, w, values: 0.3 * how(whole(v, 9), whole(other(w, values), 9))

    def noise(d, shape):
        a, key = d.axis(shape), d.size()
        kept = tuple(n if d.rng.random() < 0.5 else 1 for n in shape)
        how = d.pick(
            [
                lambda v, key: v + jax.random.normal(key, kept),
                lambda v, key: v * jax.random.bernoulli(key, 0.6, kept),
                lambda v, key: jax.random.permutation(key, v, a),
                lambda v, key: v + 0.1 * jax.random.categorical(key, v, a, shape=v.sum(a).shape).mean(),
            ]
        )
        return lambda v, w, _: how(v, jax.random.key(key))

    def diagonals(d, shape):
        name, vector, n = d.leaf(shape[-1], shape[-1]), d.leaf(shape[-1]), shape[-1]
        matrix = d.pick(
            [
                lambda m, u: m * (1 - jnp.eye(n)),
                lambda m, u: m * (1 - np.eye(n)),
                lambda m, u: m + jnp.diag(u),
                lambda m, u: m * jnp.trace(m),
                lambda m, u: jnp.tril(m),
                lambda m, u: m * jnp.eye(n, k=1),
                lambda m, u: jnp.einsum("aa->a", m) * m,
                lambda m, u: jnp.eye(n) - 2 * jnp.outer(u, u) / (u @ u),
                lambda m, u: jnp.linalg.inv(m @ m.T + jnp.eye(n)),
            ]
        )
        return lambda v, w, _: jnp.tanh(v @ matrix(w[name], w[vector]))

    def signed_zeros(d, shape):
        a = d.axis(shape)
        zeros = np.where(np.arange(shape[a]) % 2, 0.0, -0.0).reshape([-1 if i == a else 1 for i in range(len(shape))])
        return lambda v, w, _: v * jnp.sign(1 / jnp.asarray(zeros))

    def own_batch_norm(d, shape):
        names = [d.leaf(*(n if i == len(shape) - 1 else 1 for i, n in enumerate(shape))) for _ in range(4)]

        def fn(v, w, _):
            mean, var, scale, shift = (w[name] for name in names)
            return (v - mean) / jnp.sqrt(var**2 + 0.1) * scale + shift

        return fn

    def other_order(d, shape):
        order = ordered(d, range(len(shape)))
        return lambda v, w, _: v.transpose(order).reshape(shape, order="F")

    def bent(d, shape):
        a, mode = d.axis(shape), d.pick(["edge", "reflect", "wrap"])
        widths = [(1, 1) if i == a else (0, 0) for i in range(len(shape))]
        return lambda v, w, _: jnp.pad(v, widths, mode=mode)

    def states(d, shape):
        if len(shape) < 2:
            return None
        state, a = operand(d, shape[1:]), d.axis(shape[1:])
        how = d.pick(
            [
                lambda c, x: (jnp.tanh(c + x), c),
                lambda c, x: (jnp.flip(c, a) + x, c),
                lambda c, x: (lax.cond(c.sum() > 0, jnp.add, jnp.subtract, c, x), c - x),
                lambda c, x: (jnp.where(c.sum() > 0, x, c), c - c.max(a, keepdims=True)),
                lambda c, x: (lax.while_loop(lambda u: jnp.abs(u).sum() > 1, lambda u: u * 0.6, c + x), c),
            ]
        )
        return lambda v, w, values: lax.scan(how, state(w, values), v, reverse=a == 0)[1]

    def slopes(d, shape):
        name = d.leaf(shape[-1], d.size())
        return lambda v, w, _: jax.grad(lambda u: jnp.tanh(u @ w[name]).sum())(v)

    def written(d, shape):
        a = d.axis(shape)

        def fn(v, w, _):
            array = jax.new_ref(jnp.zeros_like(v))
            array[...] = jnp.tanh(jnp.cumsum(v, a))
            return v + jnp.max(array[...] * np.linspace(0, 1, shape[-1]))

        return fn


OPERATIONS = {name: fn for name, fn in vars(Operations).items() if not name.startswith("_")}
