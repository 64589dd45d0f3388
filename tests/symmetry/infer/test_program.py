"""Programs: which equations a trace is inlined to, and intermediate values, against numpy and jax itself."""

import inspect
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from modules import feedforward

from mcjax.symmetry.infer.program import Program, scan_counts, trace

X = np.array([0.5, -1.0, 2.0], np.float32)


def names(program):
    return [equation.name for equation in program.equations]


def equation_of(program, name):
    (found,) = (equation for equation in program.equations if equation.name == name)
    return found


def outputs(program, *inputs):
    addresses = [(slot,) for slot in program.outputs]
    values = jax.jit(program.values, static_argnums=1)(inputs, tuple(addresses))
    return [values[address] for address in addresses]


def base(x):
    return jnp.sin(x) * 3


def custom_jvp(fn):
    wrapped = jax.custom_jvp(fn)
    wrapped.defjvp(lambda primals, tangents: (wrapped(*primals), tangents[0]))
    return wrapped


def custom_vjp(fn):
    wrapped = jax.custom_vjp(fn)
    wrapped.defvjp(lambda x: (wrapped(x), None), lambda _, g: (g,))
    return wrapped


def all_of_them(fn):
    return jax.jit(custom_vjp(jax.checkpoint(custom_jvp(jax.jit(jax.jit(fn))))))


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, custom_jvp, custom_vjp, all_of_them])
def test_calls_are_unfolded(wrap):
    program = trace(lambda x: wrap(base)(x) + 1, X)
    assert names(program) == ["sin", "mul", "add"]
    sin, mul, add = (equation.outputs[0] for equation in program.equations)
    values = program.values([X], [(add,), (sin,), (mul,)])
    np.testing.assert_allclose(values[sin,], np.sin(X), rtol=1e-6)
    np.testing.assert_allclose(values[mul,], np.sin(X) * 3, rtol=1e-6)
    np.testing.assert_allclose(values[add,], np.sin(X) * 3 + 1, rtol=1e-6)


def test_one_inner_function_called_twice():
    inner = jax.jit(lambda x, y: jnp.sin(x) * y)
    program = trace(lambda x, y: (inner(x, y), inner(y, inner(x, x))), X, X)
    assert names(program) == ["sin", "mul"] * 3
    assert len({slot for equation in program.equations for slot in equation.outputs}) == 6
    first, second = outputs(program, X, 2 * X)
    np.testing.assert_allclose(first, np.sin(X) * 2 * X, rtol=1e-6)
    np.testing.assert_allclose(second, np.sin(2 * X) * np.sin(X) * X, rtol=1e-6)


def test_calls_nested_300_deep_do_not_recurse():
    closed = jax.make_jaxpr(jnp.sin)(X)
    for _ in range(300):
        inner = core.jaxpr_as_fun(closed)
        closed = jax.make_jaxpr(jax.jit(lambda x, inner=inner: inner(x)[0] + 1))(X)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        program = Program(closed)
    finally:
        sys.setrecursionlimit(limit)
    assert names(program) == ["sin"] + ["add"] * 300
    np.testing.assert_allclose(outputs(program, X)[0], np.sin(X) + 300, rtol=1e-6)


def test_shapes_constants_and_literals():
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    program = trace(jax.jit(lambda x: jax.jit(lambda x: x @ table.T)(x) * 2.0), np.zeros((4, 3), np.float32))
    held = {program.shapes[slot]: value for slot, value in program.constants.items()}
    np.testing.assert_array_equal(held[3, 2], table.T)
    assert held[()] == 2
    assert len(held) == 2
    assert program.shapes[program.inputs[0]] == (4, 3)
    assert program.shapes[program.outputs[0]] == (4, 2)
    for equation in program.equations:
        assert [program.shapes[slot] for slot in equation.outputs] == [var.aval.shape for var in equation.eqn.outvars]
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(outputs(program, x)[0], x @ table.T * 2, rtol=1e-6)


def test_outputs_may_be_inputs_and_constants():
    program = trace(lambda x, y: (y, 4.0, x, jax.jit(lambda y: y)(y)), X, 2 * X)
    assert program.equations == []
    y, four, x, again = program.outputs
    assert (x, y) == program.inputs
    assert again == y
    assert program.constants[four] == 4
    assert [np.shape(value) for value in outputs(program, X, 2 * X)] == [(3,), (), (3,), (3,)]


def test_inputs_are_the_leaves_in_order():
    theta = {"b": np.zeros(2), "a": [np.zeros(3), np.zeros((4, 1))]}
    program = trace(lambda theta, x: theta["b"].sum() + x, theta, jax.ShapeDtypeStruct((5,), np.float32))
    assert [program.shapes[slot] for slot in program.inputs] == [(3,), (4, 1), (2,), (5,)]
    leaves = [*jax.tree.leaves(theta), np.arange(5.0)]
    values = program.values(leaves, [(slot,) for slot in program.inputs])
    for slot, leaf in zip(program.inputs, leaves, strict=True):
        np.testing.assert_array_equal(values[slot,], leaf)


def test_steps_that_no_output_needs_are_left_out():
    def fn(x):
        unused = jnp.cos(x)
        jnp.exp(unused)
        return jax.jit(lambda x: (jnp.sin(x), jnp.tan(x)))(x)[0]

    program = trace(fn, X)
    assert names(program) == ["sin"]
    assert program.num_equations == 1


def test_a_write_that_no_output_names_is_kept():
    def fn(x):
        array = jax.new_ref(jnp.zeros_like(x))
        array[...] = 2 * x
        return array[...] + 1

    program = trace(fn, X)
    np.testing.assert_array_equal(program.values([X], [program.outputs])[program.outputs], fn(X))


def test_equations_count_those_of_bodies():
    def fn(x):
        x, _ = jax.lax.scan(lambda c, _: (jnp.sin(c) * 2, None), x, None, length=3)  # 1 + 2
        x = jax.lax.while_loop(lambda x: x[0] > 0, jnp.cos, x)  # 1 + (index, compare) + 1
        return jax.lax.cond(True, jnp.exp, lambda x: x + x, x)  # 1 + 1 + 1

    program = trace(fn, X)
    assert [len(equation.bodies) for equation in program.equations if equation.bodies] == [1, 2, 2]
    (_, (condition, body), branches) = (equation.bodies for equation in program.equations if equation.bodies)
    assert names(body) == ["cos"]
    assert sorted(map(names, branches)) == [["add"], ["exp"]]
    assert program.num_equations == len(program.equations) + 2 + condition.num_equations + 1 + 2
    assert trace(jax.jit(jax.jit(fn)), X).num_equations == program.num_equations


def test_loops_and_branches_run():
    def fn(x):
        x = jax.lax.cond(x.sum() > 0, jnp.sin, lambda x: 2 * x, x)
        x = jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: 1.5 * x + 1, x)
        return jax.lax.fori_loop(0, 4, lambda i, x: x + i, x)

    (slot,), run = (program := trace(fn, X)).outputs, jax.jit(fn)
    values = jax.jit(lambda x: program.values([x], [(slot,)])[slot,])
    for x in (X, -X):
        np.testing.assert_allclose(values(x), run(x), rtol=1e-6)


W = np.array([[0.5, -0.3, 0.2], [0.1, 0.4, -0.6], [-0.2, 0.7, 0.3]], np.float32)
ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def recurrence(w, h, rows, reverse):
    def equation(carry, row):
        h, count = carry
        h = jax.jit(lambda h: jnp.tanh(h @ w + row))(h)
        return (h, count + 1), (h.sum(), 2 * row)

    return jax.lax.scan(equation, (h, 0), rows, reverse=reverse)


def recurrence_by_hand(w, h, rows, reverse):
    before, products, after = (np.zeros_like(rows) for _ in range(3))
    for t in reversed(range(len(rows))) if reverse else range(len(rows)):
        before[t], products[t] = h, h @ w
        h = after[t] = np.tanh(h @ w + rows[t])
    return before, products, after


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "in reverse"])
def test_values_inside_a_scan(reverse):
    program = trace(lambda w, h, rows: recurrence(w, h, rows, reverse), W, X, ROWS)
    number = names(program).index("scan")
    equation = program.equations[number]
    (body,) = equation.bodies
    assert scan_counts(equation) == (1, 2)
    before, products, after = recurrence_by_hand(W, X, ROWS, reverse)
    expected = {
        (number, equation_of(body, "dot_general").outputs[0]): products,
        (number, equation_of(body, "tanh").outputs[0]): after,
        (number, equation_of(body, "reduce_sum").outputs[0]): after.sum(1),
        (number, body.inputs[0]): np.stack([W] * 4),
        (number, body.inputs[1]): before,
        (number, body.inputs[2]): np.arange(4)[::-1] if reverse else np.arange(4),
        (number, body.inputs[3]): ROWS,
        (program.inputs[2],): ROWS,
        (equation.outputs[0],): after[0 if reverse else -1],
        (equation.outputs[1],): np.array(4),
        (equation.outputs[2],): after.sum(1),
        (equation.outputs[3],): 2 * ROWS,
    }
    values = program.values([W, X, ROWS], expected)
    assert values.keys() == expected.keys()
    for address, value in expected.items():
        assert values[address].shape == value.shape
        np.testing.assert_allclose(values[address], value, rtol=1e-5, atol=1e-6)


def nested(x, rows):
    def outer(c, row):
        c, inside = jax.lax.scan(lambda d, r: (jnp.sin(d) + r, d * r), c + row.mean(), row, reverse=True)
        return jnp.cos(c), inside

    return jax.lax.scan(outer, x, rows)


def test_values_inside_nested_scans():
    program = trace(nested, np.float32(0.3), ROWS)
    outer = names(program).index("scan")
    (body,) = program.equations[outer].bodies
    inner = names(body).index("scan")
    (innermost,) = body.equations[inner].bodies
    sines, products, after = np.zeros((4, 3)), np.zeros((4, 3)), np.zeros(4)
    c = 0.3
    for i, row in enumerate(ROWS.astype(np.float64)):
        c = c + row.mean()
        for j in (2, 1, 0):
            sines[i, j], products[i, j] = np.sin(c), c * row[j]
            c = np.sin(c) + row[j]
        c = after[i] = np.cos(c)
    expected = {
        (outer, inner, equation_of(innermost, "sin").outputs[0]): sines,
        (outer, inner, equation_of(innermost, "mul").outputs[0]): products,
        (outer, inner, innermost.inputs[-1]): ROWS,
        (outer, equation_of(body, "cos").outputs[0]): after,
        (program.equations[outer].outputs[1],): products,
    }
    values = program.values([np.float32(0.3), ROWS], expected)
    for address, value in expected.items():
        assert values[address].shape == value.shape
        np.testing.assert_allclose(values[address], value, rtol=1e-5, atol=1e-6)


def test_two_scans_and_one_without_rows():
    def fn(x):
        x, _ = jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=3)
        return jax.lax.map(jnp.exp, x)

    program = trace(fn, X)
    first, second = (i for i, name in enumerate(names(program)) if name == "scan")
    addresses = [
        (number, equation_of(program.equations[number].bodies[0], name).outputs[0])
        for number, name in ((first, "sin"), (second, "exp"))
    ]
    values = program.values([X], addresses)
    sines = [np.sin(X), np.sin(np.sin(X)), np.sin(np.sin(np.sin(X)))]
    np.testing.assert_allclose(values[addresses[0]], sines, rtol=1e-6)
    np.testing.assert_allclose(values[addresses[1]], np.exp(sines[-1]), rtol=1e-6)


def test_under_jit_vmap_and_grad():
    program = trace(lambda w, h, rows: recurrence(w, h, rows, False), W, X, ROWS)
    number = names(program).index("scan")
    address = (number, equation_of(program.equations[number].bodies[0], "tanh").outputs[0])

    def hidden(h, rows):
        return program.values([W, h, rows], [address])[address]

    hs, batch = np.stack([X, -X]), np.stack([ROWS, 2 * ROWS])
    expected = np.stack([recurrence_by_hand(W, h, rows, False)[2] for h, rows in zip(hs, batch, strict=True)])
    np.testing.assert_allclose(jax.jit(hidden)(X, ROWS), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(hidden))(hs, batch), expected, rtol=1e-5, atol=1e-6)
    grad = jax.jit(jax.grad(lambda h: hidden(h, ROWS).sum()))(X)
    # By the chain rule, from the last state back.
    slope = np.zeros(3)
    for state in expected[0][::-1]:
        slope = (1 + slope) * (1 - state**2) @ W.T
    np.testing.assert_allclose(grad, slope, rtol=1e-4)


def test_a_gradient_is_a_program_too():
    def loss(x):
        return (jax.checkpoint(jnp.sin)(x) * jax.lax.scan(lambda c, r: (c * r, c), 1.0, x)[1]).sum()

    np.testing.assert_allclose(outputs(trace(jax.grad(loss), X), X)[0], jax.jit(jax.grad(loss))(X), rtol=1e-5)


def test_random_numbers_and_keys(key):
    def fn(key, x):
        return x + jax.random.uniform(jax.random.fold_in(key, 1), x.shape)

    np.testing.assert_allclose(outputs(trace(fn, key, X), key, X)[0], jax.jit(fn)(key, X), rtol=1e-6)


@pytest.mark.parametrize("module", [feedforward.Layered(), feedforward.Branching()])
def test_traced_modules_give_the_outputs_of_the_module(module):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 1)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    theta = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    (values,) = outputs(trace(module.apply, theta, x), *jax.tree.leaves((theta, x)))
    np.testing.assert_allclose(values, jax.jit(module.apply)(theta, x), rtol=1e-5, atol=1e-6)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.cumsum(jnp.sin(nn.Dense(2)(x)), -1)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Block()(x)
        return jnp.exp(Block()(x))


def test_the_scope_of_an_equation():
    theta = jax.eval_shape(Net().init, jax.random.key(0), X)
    program = trace(Net().apply, theta, X)
    scopes = {}
    for equation in program.equations:
        scopes.setdefault(equation.name, []).append(equation.scope)
    assert scopes["dot_general"] == ["Net/Block_0/Dense_0", "Net/Block_1/Dense_0"]
    assert scopes["sin"] == ["Net/Block_0", "Net/Block_1"]
    assert scopes["exp"] == ["Net"]
    assert scopes["cumsum"] == ["Net/Block_0", "Net/Block_1"]  # jnp.cumsum is a function under jit of its own
    assert {equation.scope for equation in trace(base, X).equations} == {""}
