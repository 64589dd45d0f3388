"""Activations read off for each group: against values computed in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from refusals import says

from mcjax import Axis, PermutationSpec, SpecError, infer_spec
from mcjax.symmetry import infer_activations

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)).astype(np.float32)


def leaves(**shapes):
    return {name: RNG.normal(size=shape).astype(np.float32) / 2 for name, shape in shapes.items()}


def read(fn, theta, x=X, spec=None):
    """The groups and what is read from them, with the spec inferred at a batch of two."""
    spec = spec or infer_spec(fn, theta, jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype))
    return spec, infer_activations(fn, spec)(theta, x)


def close(got, *expected):
    for a, b in zip(got, expected, strict=True):
        assert a.shape[-1] == b.shape[-1]
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-4, atol=1e-5)


def mean_and_square(a, axis):
    return a.mean(axis), np.sqrt((a**2).mean(axis))


def dense(theta, x):
    return jnp.tanh(jnp.tanh(x @ theta["a"]) @ theta["b"]) @ theta["c"]


DENSE = leaves(a=(3, 5), b=(5, 6), c=(6, 2))
ONE = np.tanh(X @ DENSE["a"])
TWO = np.tanh(ONE @ DENSE["b"])


def test_a_dense_layer_reads_its_inputs():
    spec, got = read(dense, DENSE)
    assert list(got) == list(spec.groups) == ["a", "b"]
    close(got["a"], ONE)
    close(got["b"], TWO)


def test_the_pixels_of_a_flattened_map_are_samples():
    theta, x = leaves(kernel=(2, 2, 3, 5), out=(60, 2)), RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)

    def fn(theta, x):
        maps = lax.conv_general_dilated(x, theta["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.tanh(maps).reshape(x.shape[0], -1) @ theta["out"]

    spec, got = read(fn, theta, x)
    assert spec.axes["out"] == (Axis("kernel", outer=12, consumes=True), None)
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), (1, 2))
    assert got["kernel"][0].shape == (2, 12, 5)
    close(got["kernel"], np.tanh(np.einsum("nhwcij,ijcd->nhwd", windows, theta["kernel"])).reshape(2, 12, 5))


def test_copies_of_a_unit_that_lie_next_to_one_another_are_samples_too():
    theta, scales = leaves(a=(3, 5), b=(15, 2)), np.array([1, 2, 3], np.float32)

    def fn(theta, x):
        return (jnp.tanh(x @ theta["a"])[:, :, None] * scales[None, None]).reshape(-1, 15) @ theta["b"]

    spec, got = read(fn, theta)
    assert spec.axes["b"] == (Axis("a", inner=3, consumes=True), None)
    close(got["a"], scales[:, None] * np.tanh(X @ theta["a"])[:, None])


def trunk(theta, x):
    x = x @ theta["stem"]
    for i in range(3):
        x = x + jnp.tanh(x @ theta[f"up_{i}"]) @ theta[f"down_{i}"]
    return jnp.tanh(x) @ theta["top"]


def test_a_residual_trunk_gives_the_input_of_every_block():
    blocks = {f"up_{i}": (4, 5 + i) for i in range(3)} | {f"down_{i}": (5 + i, 4) for i in range(3)}
    theta = leaves(stem=(3, 4), **blocks, top=(4, 2))
    spec, got = read(trunk, theta)
    stream, inside = [X @ theta["stem"]], []
    for i in range(3):
        inside.append(np.tanh(stream[-1] @ theta[f"up_{i}"]))
        stream.append(stream[-1] + inside[-1] @ theta[f"down_{i}"])
    (group,) = [group for group, n in spec.group_sizes(theta).items() if n == 4]
    close(got[group], *stream[:3], np.tanh(stream[3]))
    for i in range(3):
        close(got[f"up_{i}"], inside[i])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_gives_every_time_step(reverse):
    theta, x = leaves(first=(3, 5), again=(5, 5), out=(5, 2)), RNG.normal(size=(2, 7, 3)).astype(np.float32)

    def fn(theta, x):
        def step(h, row):
            return jnp.tanh(row @ theta["first"] + h @ theta["again"]), None

        start = jnp.zeros((x.shape[0], 5), x.dtype)
        return lax.scan(step, start, x.swapaxes(0, 1), reverse=reverse)[0] @ theta["out"]

    _, got = read(fn, theta, x)
    states = [np.zeros((2, 5))]
    for t in range(7)[:: -1 if reverse else 1]:
        states.append(np.tanh(x[:, t] @ theta["first"] + states[-1] @ theta["again"]))
    before = np.stack(states[:-1])
    (group,) = got
    close(got[group], before[::-1] if reverse else before, states[-1])


def test_layers_run_through_by_a_scan_give_every_layer():
    theta = leaves(stem=(3, 4), up=(6, 4, 5), down=(6, 5, 4), out=(4, 2))

    def fn(theta, x):
        def block(x, weights):
            return x + jnp.tanh(x @ weights[0]) @ weights[1], None

        return lax.scan(block, x @ theta["stem"], (theta["up"], theta["down"]))[0] @ theta["out"]

    spec, got = read(fn, theta)
    stream, inside = [X @ theta["stem"]], []
    for up, down in zip(theta["up"], theta["down"], strict=True):
        inside.append(np.tanh(stream[-1] @ up))
        stream.append(stream[-1] + inside[-1] @ down)
    sizes = spec.group_sizes(theta)
    assert sorted(sizes.values()) == [4, 5]
    expected = {4: (np.stack(stream[:-1]), stream[-1]), 5: (np.stack(inside),)}
    for group, n in sizes.items():
        close(got[group], *expected[n])


ATTENTION = leaves(q=(3, 2, 4), k=(3, 2, 4), v=(3, 2, 5), o=(2, 5, 3))


def attention(theta, x):
    q, k, v = (jnp.tensordot(x, theta[name], 1) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k), -1)
    return jnp.tensordot(jnp.einsum("bhts,bshd->bthd", weights, v), theta["o"], 2)


def test_heads_and_units_that_share_a_value_are_averaged_over_one_another():
    x = RNG.normal(size=(2, 6, 3)).astype(np.float32)
    spec, got = read(attention, ATTENTION, x)
    q, k, v = (np.einsum("bti,ihd->bthd", x, ATTENTION[name]) for name in "qkv")
    scores = np.exp(np.einsum("bthd,bshd->bhts", q, k))
    mixed = np.einsum("bhts,bshd->bthd", scores / scores.sum(-1, keepdims=True), v)
    (heads,) = [group for group, n in spec.group_sizes(ATTENTION).items() if n == 2]
    keys, values = (spec.axes[leaf][2].group for leaf in ("k", "v"))
    close(got[heads], *mean_and_square(mixed, 3))
    close(got[keys], *mean_and_square(q, 2), *mean_and_square(k, 2))
    close(got[values], *mean_and_square(mixed, 2))


def test_heads_and_units_that_share_an_axis_are_averaged_over_one_another():
    theta = leaves(a=(3, 6), b=(6, 2))

    def fn(theta, x):
        h = jnp.tanh(x @ theta["a"]).reshape(-1, 2, 3)
        return (h - h.mean(2, keepdims=True)).reshape(-1, 6) @ theta["b"]

    spec, got = read(fn, theta)
    by_layout = {(axis.outer, axis.inner): axis.group for axis in spec.axes["b"][0]}
    assert by_layout.keys() == {(1, 3), (2, 1)}
    h = np.tanh(X @ theta["a"]).reshape(4, 2, 3)
    h = h - h.mean(2, keepdims=True)
    close(got[by_layout[1, 3]], *mean_and_square(h, 2))
    close(got[by_layout[2, 1]], *mean_and_square(h, 1))


def test_a_segment_of_a_concatenation():
    theta = leaves(a=(3, 4), b=(3, 5), c=(9, 2))
    spec, got = read(lambda w, x: jnp.concatenate([jnp.tanh(x @ w["a"]), jnp.sin(x @ w["b"])], -1) @ w["c"], theta)
    assert set(spec.groups) == {"a", "b"}
    close(got["a"], np.tanh(X @ theta["a"]))
    close(got["b"], np.sin(X @ theta["b"]))


def test_a_value_that_nothing_contracts_is_read_last():
    theta = leaves(a=(3, 5))
    _, got = read(lambda theta, x: (2 * jnp.tanh(x @ theta["a"])).mean(-1), theta)
    close(got["a"], 2 * np.tanh(X @ theta["a"]))


def test_a_group_without_data_gives_its_leaf():
    theta = leaves(a=(3, 5), b=(5, 2))
    _, got = read(lambda theta, x: x @ (theta["a"] @ theta["b"]), theta)
    close(got["a"], theta["a"])


def test_values_that_depend_on_data_by_a_condition_alone_are_read():
    theta = leaves(a=(5,), b=(5, 2))

    def fn(theta, x):
        return lax.cond(x.sum() > 0, lambda a: jnp.sin(a), lambda a: 2 * a, theta["a"]) @ theta["b"]

    for sign in (1, -1):
        _, got = read(fn, theta, sign * np.abs(X))
        close(got["a"], np.sin(theta["a"]) if sign > 0 else 2 * theta["a"])


def test_groups_left_out_of_the_spec_are_not_given():
    whole, _ = read(dense, DENSE)
    spec, got = read(dense, DENSE, spec=whole.without("a"))
    assert list(got) == list(spec.groups) == ["b"]
    close(got["b"], TWO)
    assert read(dense, DENSE, spec=whole.without("a", "b"))[1] == {}


def test_groups_merged_by_hand_give_the_activations_of_each():
    theta = leaves(a=(3, 5), b=(5, 5), c=(5, 2))
    spec = PermutationSpec({"a": (None, "units"), "b": ("units", "units"), "c": ("units", None)})
    _, got = read(dense, theta, spec=spec)
    one = np.tanh(X @ theta["a"])
    close(got["units"], one, np.tanh(one @ theta["b"]))


@pytest.mark.parametrize("n", [1, 2, 9])
def test_another_batch_size_than_inferred_with(n):
    x = np.concatenate([X, X, X])[:n]
    _, got = read(dense, DENSE, x)
    close(got["a"], np.tanh(x @ DENSE["a"]))


def test_under_jit_and_over_many_networks():
    spec, alone = read(dense, DENSE)
    take = infer_activations(dense, spec)
    for group, arrays in jax.jit(take)(DENSE, X).items():
        close(arrays, *alone[group])
    many = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), DENSE)
    got = jax.jit(jax.vmap(take, (0, None)))(many, X)
    close(got["a"], np.tanh(X @ many["a"]))
    close(got["b"], np.tanh(np.tanh(X @ many["a"]) @ many["b"]))


def halves(theta, x):
    h = jnp.tanh(x @ theta["a"])
    return h[:, :3] @ theta["b"] + h[:, 3:] @ theta["c"]


HALVES = leaves(a=(3, 7), b=(3, 2), c=(4, 2))


@pytest.mark.parametrize("stop", [7, None])
def test_a_segment_may_leave_its_end_open(stop):
    whole = (Axis("one", stop=3), Axis("other", start=3, stop=stop))
    spec = PermutationSpec({"a": (None, whole), "b": ("one", None), "c": ("other", None)})
    h = np.tanh(X @ HALVES["a"])
    _, units = read(halves, HALVES, spec=spec)
    close(units["one"], h[:, :3])
    close(units["other"], h[:, 3:])


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis("part", stop=2), lambda h: h[:, :2]),
        (Axis("part", start=1, stop=3), lambda h: h[:, 1:3]),
        (Axis("part", inner=3), lambda h: h.reshape(4, 2, 3).swapaxes(1, 2)),
        (Axis("part", outer=2), lambda h: h.reshape(4, 2, 3)),
    ],
    ids=["the first", "the middle", "blocks", "interleaved"],
)
def test_a_group_may_be_part_of_one_that_was_inferred(axis, expected):
    theta = leaves(a=(3, 6), b=(6, 2))
    spec = PermutationSpec({"a": (None, axis), "b": (axis, None)})
    _, units = read(lambda theta, x: jnp.tanh(x @ theta["a"]) @ theta["b"], theta, spec=spec)
    close(units["part"], expected(np.tanh(X @ theta["a"])))


def test_a_group_of_one_unit_gives_its_leaf():
    theta = leaves(a=(3, 1), b=(1, 2))
    spec = PermutationSpec({"a": (None, "one"), "b": ("one", None)})
    assert read(lambda theta, x: x @ theta["a"] @ theta["b"], theta, spec=spec)[1]["one"][0].shape[-1] == 1


def test_a_group_on_a_pinned_axis_is_refused():
    theta = leaves(a=(3, 6), b=(6, 2))
    spec = PermutationSpec({"a": ("inputs", "units"), "b": ("units", None)})
    with says(SpecError, "'inputs'"):
        read(lambda theta, x: jnp.tanh(x @ theta["a"]) @ theta["b"], theta, spec=spec)
