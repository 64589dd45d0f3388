"""An oracle for the rules of inference: permute the operands as inference says, and see if the results follow."""

from itertools import count
from string import ascii_lowercase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from mcjax.symmetry.infer.factors import Factors, Sum
from mcjax.symmetry.infer.program import Program
from mcjax.symmetry.infer.propagation import RULES, Propagation, Value

TOGETHER = 40  # functions in one program


class Inferred:
    """Result of a propagation: axes of operands and results, each with its free classes, and the classes' sizes."""

    def __init__(self, factors, inputs, outputs):
        self.factors, self.sizes = factors, {}
        self.inputs, self.outputs = ([self._with_classes(axes) for axes in side] for side in (inputs, outputs))

    def _with_classes(self, axes):
        free = [[atom for atom in self.factors.atoms(axis or ()) if self.factors.is_free(atom)] for axis in axes]
        self.sizes.update((self.factors.find(atom), self.factors.length((atom,))) for atoms in free for atom in atoms)
        return [(axis, set(map(self.factors.find, atoms))) for axis, atoms in zip(axes, free, strict=True)]

    def permuted(self, axes, value, permutations):
        for i, (axis, classes) in enumerate(axes):
            if not classes.isdisjoint(permutations):
                value = value.take(order(self.factors, axis, permutations), i)
        return value

    def generators(self):
        """Permutations that generate all: a cycle and a swap of each class by itself."""
        for root, size in self.sizes.items():
            if size > 1:
                yield {root: np.roll(np.arange(size), 1)}
            if size > 2:
                yield {root: np.r_[1, 0, 2:size]}

    def drawn(self, rng):
        """Random permutations of most classes at once, none the identity."""
        roots = [root for root, size in self.sizes.items() if size > 1]
        some = [root for root in roots if rng.random() < 0.7] or roots[:1]
        permutations = {root: rng.permutation(self.sizes[root]) for root in some}
        return {root: np.roll(p, (p == np.arange(len(p))).all()) for root, p in permutations.items()}

    def judged(self, results, before, permutations):
        """The errors of the results, which were `before` until the operands were permuted."""
        if permutations:
            expected = [self.permuted(*each, permutations) for each in zip(self.outputs, before, strict=True)]
            return "" if all(map(same, results, expected)) else f"not so under {permutations}"
        for axes, result in zip(self.outputs, results, strict=True):
            for i, ((axis, _), n) in enumerate(zip(axes, result.shape, strict=True)):
                if axis is None and n and not same(result, result.take([0] * n, i)):
                    return f"axis {i} of a result {result.shape} is inferred not to vary, and does"
                if axis is not None and self.factors.length(axis) != n:
                    return f"axis {i} of a result {result.shape} is inferred to be {self.factors.length(axis)} long"
        return ""


class Trial(NamedTuple):
    """Operands: those of the trial `of`, permuted; or others, and no permutations."""

    inferred: Inferred
    operands: list[np.ndarray]
    of: int
    permutations: dict[int, np.ndarray]


class Claim(NamedTuple):
    """A traced function, its primitives, what inference says of it, and the trials that could refute that."""

    closed: Any
    primitives: set[str]
    inferred: str
    trials: list[Trial]


def claim(fn, *operands, dressed=True):
    """The inference of a function, and trials: operands as they are, alike along each axis, and dressed."""
    operands = [drawn(operand, seed) for seed, operand in enumerate(operands)]
    closed = jax.make_jaxpr(fn)(*operands)
    program, rng, trials = Program(closed), np.random.default_rng(0), []

    def attack(inferred, operands, many):
        of = len(trials)
        trials.append(Trial(inferred, operands, of, {}))
        for permutations in filter(None, many):
            moved = [inferred.permuted(*each, permutations) for each in zip(inferred.inputs, operands, strict=True)]
            trials.append(Trial(inferred, moved, of, permutations))

    found, *axes = propagate(program)
    plain, others = Inferred(found.factors, *axes), list(versions(operands))
    straight = not any(equation.bodies for equation in program.equations)
    for number, version in enumerate(others):
        attack(plain, version, [plain.drawn(rng)] if number and straight else plain.generators())
    places = [(k, i) for k, operand in enumerate(operands) for i, n in enumerate(operand.shape) if n > 1]
    for number, place in enumerate([*places, None, None, None] if dressed else []):
        dressing = Dressing(rng, place)
        found, *sides = propagate(program, dressing)
        inferred, version = Inferred(found.factors, *sides), [each.copy() for each in others[number % len(others)]]
        for k, i in dressing.alike:
            version[k][...] = version[k].take([0], i)
        attack(inferred, version, [inferred.drawn(rng) for _ in range(2)])
    return Claim(closed, primitives(program), notation(plain.factors, *axes), trials)


class Dressing:
    """Axes of operands as other primitives may leave them, drawn at random; or with all entries alike at one place."""

    def __init__(self, rng, place):
        self.rng, self.place, self.known, self.alike = rng, place, {}, []

    def __call__(self, factors, place, n, origin):
        kinds = ("free", "alike", "stays", "product", "segments", "another's")
        kind = str(self.rng.choice(kinds)) if self.place is None else "alike" if self.place == place else "free"
        if kind == "alike" and n > 1:
            self.alike.append(place)
            return None
        axis, first = (
            factors.new(n, "it stays" if kind == "stays" else None, origin),
            int(self.rng.integers(max(n, 1))) or 1,
        )
        if kind == "product" and n % first == 0:
            factors.unify(axis, factors.new(first) + factors.new(n // first))
        elif kind == "segments" and n > 1:
            factors.cut(axis, [first, n - first])
        elif kind == "another's":
            factors.unify(axis, self.known.get(n, axis))
        return self.known.setdefault(n, axis)


def drawn(shape, seed=0):
    """Normal floats; an array instead of a shape comes back as it is."""
    if isinstance(shape, tuple):
        return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)
    return np.asarray(shape)


def free(factors, place, n, origin):
    return factors.new(n, None, origin)


def propagate(program, axis=free):
    """The propagation through a program whose operands have these axes, and the axes of operands and of results."""
    found, origins = Propagation(program, Factors()), count()
    inputs = [
        Value(tuple(axis(found.factors, (k, i), n, next(origins)) for i, n in enumerate(program.shapes[slot])), False)
        for k, slot in enumerate(program.inputs)
    ]
    outputs = found.run(program, inputs, ())
    return found, [value.axes for value in inputs], [value.axes for value in outputs]


def propagated(fn, *operands):
    """The propagation through a function of arrays that are all variables."""
    return propagate(Program(jax.make_jaxpr(fn)(*operands)))


def primitives(program):
    """The names of all primitives in a program, those in its loops included."""
    names = {equation.name for equation in program.equations}
    return names.union(*(primitives(body) for equation in program.equations for body in equation.bodies))


def check(rows):
    """Every function of a table {name: [(expected notation, the function, its operands)]} has exactly this symmetry.

    Returns the claims: {title: claim}.
    """
    claims, wrong = {}, {}
    for name, (expected, *row) in ((name, row) for name, rows in rows.items() for row in rows):
        title = f"{name}, {len(claims)}: {expected}"
        try:
            claims[title] = claim(*row)
        except Exception as error:
            error.add_note(title)
            raise
        if claims[title].inferred != expected:
            wrong[title] = f"it is inferred to be {claims[title].inferred}"
    wrong |= refuted(claims)
    assert not wrong, "\n".join(f"{title}: {why}" for title, why in wrong.items())
    return claims


def refuted(claims):
    """The claims that are wrong, and why; run in few programs, those of about equally many trials in one."""
    wrong, names = {}, sorted(claims, key=lambda name: len(claims[name].trials))
    for some in (names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)):
        for name, results in zip(some, run([claims[name] for name in some]), strict=True):
            found = (
                trial.inferred.judged(result, results[trial.of], trial.permutations)
                for trial, result in zip(claims[name].trials, results, strict=True)
            )
            if why := next(filter(None, found), ""):
                wrong[name] = why
    return wrong


def run(claims):
    """The results of all trials of each claim, from one program."""
    fns = [jaxpr_as_fun(each.closed) for each in claims]
    together = jax.jit(lambda operands: [fn(*each) for fn, each in zip(fns, operands, strict=True)])
    turns = max(len(each.trials) for each in claims)
    results = [
        jax.device_get(together([each.trials[min(turn, len(each.trials) - 1)].operands for each in claims]))
        for turn in range(turns)
    ]
    return [[result[i] for result in results[: len(each.trials)]] for i, each in enumerate(claims)]


def registered(module):
    """The names of the primitives whose rules are in a module."""
    return {name for name, rule in RULES.items() if rule.__module__ == module.__name__}


def passed_on(op):
    """A rule, mostly wrong: the results are permuted like the first operand."""
    return [op.axes[0] for _ in op.results]


def all_new(op):
    """A rule, mostly wrong: the results have nothing to do with the operands."""
    return [tuple(map(op.factors.new, shape)) for shape in op.results]


def all_uniform(op):
    """A rule, mostly wrong: the results do not vary."""
    return [(None,) * len(shape) for shape in op.results]


def under_wrong_rules(rows):
    """A claim for every row (primitive, a wrong rule for it, the function, its operands)."""
    claims = {}
    for name, wrong, fn, operands in rows:
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(RULES, name, wrong)
            claims[f"{name}, {len(claims)}: {wrong.__name__}"] = claim(fn, *operands, dressed=False)
    return claims


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


def same(a, b):
    if np.issubdtype(b.dtype, np.inexact):
        scale = np.abs(b[np.isfinite(b)]).max(initial=1)
        return np.allclose(a, b, rtol=1e-5, atol=1e-5 * scale, equal_nan=True)
    return np.array_equal(a, b)


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
        if factors.is_pinned(product):
            return "."
        terms = merged(map(term, factors.expand(product)))
        return terms[0] if len(terms) == 1 else f"({''.join(terms)})"

    def term(each):
        if isinstance(each, Sum):
            return f"[{'|'.join(merged(map(spelled, each.parts)))}]"
        if not factors.is_free(each):
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
