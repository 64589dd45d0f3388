"""An oracle for the rules of inference: permute the operands as the walk says, and see if the results follow."""

from itertools import count
from string import ascii_lowercase

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax.symmetry.factors import Factors, Sum
from mcjax.symmetry.program import trace
from mcjax.symmetry.rules import RULES
from mcjax.symmetry.walk import Value, Walk


class Unsound(AssertionError):
    """A permutation that was said to be a symmetry changes the results."""


def drawn(shape, seed=0):
    """Normal floats; an array instead of a shape comes back as it is."""
    if isinstance(shape, tuple):
        return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)
    return np.asarray(shape)


def walked(fn, *operands):
    """The walk through a function of arrays that are all variables, and the axes of operands and of results."""
    program = trace(fn, *operands)
    found = Walk(program, Factors())
    origins = count()
    inputs = [
        Value(tuple(found.factors.new(n, None, next(origins)) for n in program.shapes[slot]), False)
        for slot in program.inputs
    ]
    outputs = found.go(program, inputs, ())
    return found, [value.axes for value in inputs], [value.axes for value in outputs]


def primitives(program):
    """The names of all primitives in a program, those in its loops included."""
    names = {step.name for step in program.steps}
    return names.union(*(primitives(body) for step in program.steps for body in step.bodies))


def cases(rows):
    """A test case for every row of a table: {primitive: [(what is said of it, a function, its operands)]}."""
    return [pytest.param(name, row, id=f"{name}: {row[0]}") for name, rows in rows.items() for row in rows]


def once_a_rule(rows):
    """Of the primitives that share a rule, the one that has the most rows."""
    longest = {RULES[name]: name for name in sorted(rows, key=lambda name: len(rows[name]))}
    return {name: rows[name] for name in longest.values()}


def check(name, row):
    """A function of this primitive has exactly this symmetry."""
    expected, fn, *operands = row
    assert name in primitives(trace(fn, *map(drawn, operands)))
    assert symmetry(fn, *operands) == expected


def check_uniform(row):
    """The same function of operands of which one, in turn, does not vary along one of its axes."""
    _, fn, *operands = row
    operands = [drawn(operand, seed) for seed, operand in enumerate(operands)]

    def spread(k, shape):
        return lambda *xs: fn(*xs[:k], jnp.broadcast_to(xs[k], shape), *xs[k + 1 :])

    for k, operand in enumerate(operands):
        for i, n in enumerate(operand.shape):
            if n > 1:
                symmetry(spread(k, operand.shape), *operands[:k], operand.take([0], i), *operands[k + 1 :])


def registered(module):
    """The names of the primitives whose rules are in a module."""
    return {name for name, rule in RULES.items() if rule.__module__ == module.__name__}


def passed_on(a):
    """A rule, mostly wrong: the results are permuted like the first operand."""
    return [a.axes[0] for _ in a.results]


def all_new(a):
    """A rule, mostly wrong: the results have nothing to do with the operands."""
    return [tuple(map(a.factors.new, shape)) for shape in a.results]


def all_uniform(a):
    """A rule, mostly wrong: the results do not vary."""
    return [(None,) * len(shape) for shape in a.results]


def symmetry(fn, *operands):
    """What the walk says of a function, as in "ab bc -> ac"; Unsound unless the function behaves so.

    A letter is a class of factors, (ab) a product, [a|b] the segments of an axis, "." what stays in
    place, "*" an axis of a result along which it does not vary, and a digit an axis of length 0 or 1.
    """
    operands = [drawn(operand, seed) for seed, operand in enumerate(operands)]
    found, inputs, outputs = walked(fn, *operands)
    factors, said = found.factors, notation(found.factors, inputs, outputs)
    run = jax.jit(lambda *operands: jax.tree.leaves(fn(*operands)))
    for version in versions(operands):
        results = [np.asarray(result) for result in run(*version)]
        for axes, result in zip(outputs, results, strict=True):
            check_axes(factors, axes, result)
        for permutations in generators(factors, [*inputs, *outputs]):
            moved = [permuted(factors, *each, permutations) for each in zip(inputs, version, strict=True)]
            expected = [permuted(factors, *each, permutations) for each in zip(outputs, results, strict=True)]
            if not all(map(same, run(*moved), expected)):
                raise Unsound(f"{said}: not so under {permutations}")
    return said


def versions(operands):
    """The operands, and others, with which a function takes other branches and other numbers of turns."""
    for number, factor in enumerate((1, -1, 2)):
        yield [
            np.asarray(number, each.dtype)
            if each.shape == () and each.dtype.kind in "bi"
            else (each * factor).astype(each.dtype)
            if each.dtype.kind == "f"
            else each
            for each in operands
        ]


def check_axes(factors, axes, result):
    for i, (axis, n) in enumerate(zip(axes, result.shape, strict=True)):
        if axis is None and n and not same(result, result.take([0] * n, i)):
            raise Unsound(f"axis {i} of a result {result.shape} is said not to vary, and does")
        if axis is not None and factors.length(axis) != n:
            raise Unsound(f"axis {i} of a result {result.shape} is said to be of length {factors.length(axis)}")


def same(a, b):
    if np.issubdtype(b.dtype, np.inexact):
        scale = np.abs(b[np.isfinite(b)]).max(initial=1)
        return np.allclose(a, b, rtol=1e-5, atol=1e-5 * scale, equal_nan=True)
    return np.array_equal(a, b)


def generators(factors, values):
    """Permutations of the free classes that generate all: a cycle and a swap of each class by itself."""
    sizes = {}
    for axes in values:
        for axis in axes:
            for atom in factors.atoms(axis or ()):
                if factors.reason(atom) is None:
                    sizes[factors.find(atom)] = factors.length((atom,))
    for root, size in sizes.items():
        if size > 1:
            yield {root: np.roll(np.arange(size), 1)}
        if size > 2:
            yield {root: np.r_[1, 0, 2:size]}


def permuted(factors, axes, value, permutations):
    for i, axis in enumerate(axes):
        if axis is not None:
            value = value.take(order(factors, axis, permutations), i)
    return value


def order(factors, product, permutations):
    """The order that permutations of the classes bring an axis into."""
    orders = np.zeros(1, int)
    for term in factors.expand(product):
        if isinstance(term, Sum):
            parts = [order(factors, part, permutations) for part in term.parts]
            starts = np.cumsum([0, *map(len, parts[:-1])])
            inner = np.concatenate([start + part for start, part in zip(starts, parts, strict=True)])
        else:
            inner = permutations.get(factors.find(term), np.arange(factors.length((term,))))
        orders = (orders[:, None] * len(inner) + inner).ravel()
    return orders


def notation(factors, inputs, outputs):
    letters = {}

    def spelled(product):
        if product is None:
            return "*"
        if (length := factors.length(product)) < 2:
            return str(length)
        if factors.pinned(product):
            return "."
        terms = merged(map(term, factors.expand(product)))
        return terms[0] if len(terms) == 1 else f"({''.join(terms)})"

    def term(each):
        if isinstance(each, Sum):
            return f"[{'|'.join(merged(map(spelled, each.parts)))}]"
        if factors.reason(each) is not None:
            return "."
        return letters.setdefault(factors.find(each), ascii_lowercase[len(letters)])

    def merged(terms):
        terms = list(terms)
        return [each for i, each in enumerate(terms) if each != "." or terms[i - 1 : i] != ["."]]

    left, right = (" ".join("".join(map(spelled, axes)) or "()" for axes in side) for side in (inputs, outputs))
    return f"{left} -> {right}"


def flat(x):
    """All entries in a row, which many tables need."""
    return x.reshape(-1)


def swapped(x):
    """The first two entries behind the others, which many tables need."""
    return jnp.concatenate([x[2:], x[:2]])
