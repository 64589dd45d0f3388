"""Specs inferred for random networks keep their functions, and planted wrong rules are found."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from infer.functions import difference, moving, traced
from infer.grammar import random_net
from infer.grammar_operations import OPERATIONS
from variables import permuted

from mcjax import PermutationSpec, infer_spec
from mcjax.symmetry.infer.propagation import RULES, Propagation


class Draft(NamedTuple):
    """A random network, traced, with the spec inferred for it."""

    layers: tuple
    fn: Any
    theta: dict
    x: np.ndarray
    spec: PermutationSpec
    sizes: dict


def drafted(seed, most=10, through=None):
    net, rng = random_net(seed, 3 + seed % (most - 2), through), np.random.default_rng(seed)
    theta = {name: rng.normal(size=shape) for name, shape in net.shapes.items()}
    with jax.enable_x64(True):
        fn = traced(net.fn, theta, net.x)
        spec = infer_spec(fn, theta, net.x)
    return Draft(net.layers, fn, theta, net.x, spec, spec.group_sizes(theta))


def broken(drafts, together=50):
    """The layers of the networks, {seed: draft}, whose function changes under their spec; many in one program."""
    found, seeds = {}, [seed for seed, draft in drafts.items() if draft.sizes]
    for some in (seeds[start : start + together] for start in range(0, len(seeds), together)):
        fns = [drafts[seed].fn for seed in some]
        before = [(drafts[seed].theta, drafts[seed].x) for seed in some]
        after = [
            (permuted(drafts[seed].spec, moving(drafts[seed].sizes, number), theta), x)
            for number, (seed, (theta, x)) in enumerate(zip(some, before, strict=True))
        ]
        with jax.enable_x64(True):
            run = jax.jit(lambda each, fns=fns: [fn(*args) for fn, args in zip(fns, each, strict=True)])
            changes = map(difference, run(before), run(after))
        found |= {seed: drafts[seed].layers for seed, change in zip(some, changes, strict=True) if not change <= 1e-8}
    return found


@pytest.mark.usefixtures("loose_ranks")
@pytest.mark.parametrize(
    "seeds", [range(60), pytest.param(range(60, 200), marks=pytest.mark.slow)], ids=["sixty", "one hundred and forty"]
)
def test_random_networks_keep_their_function(seeds):
    drafts = {seed: drafted(seed) for seed in seeds}
    assert broken(drafts) == {}
    sizes = [draft.sizes for draft in drafts.values() if draft.sizes]
    assert len(sizes) > len(seeds) / 2
    assert sum(sum(each.values()) for each in sizes) > 3 * len(seeds)


@pytest.mark.usefixtures("loose_ranks")
@pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_networks_through_every_operation_keep_their_function(count):
    drafts = {(name, seed): drafted(seed, 4, name) for name in OPERATIONS for seed in range(count)}
    assert broken(drafts) == {}
    assert {name for (name, _), draft in drafts.items() if name in draft.layers} == OPERATIONS.keys()
    assert sum(bool(draft.sizes) for draft in drafts.values()) > len(drafts) / 2


def passes(op):
    """A wrong rule: the result is permuted like the first operand, whatever was done to it."""
    sizes = [op.shapes[0][: len(shape)] for shape in op.results]
    return [
        tuple(op.axes[0][i] if i < len(there) and there[i] == n else op.new_pinned(n) for i, n in enumerate(shape))
        for shape, there in zip(op.results, sizes, strict=True)
    ]


def uniform(op):
    """A wrong rule: the result is the same all along every axis."""
    return [tuple(None if n > 1 else () for n in shape) for shape in op.results]


def first_alone(op):
    """A wrong rule: operands need not be permuted alike."""
    return [next(axes for axes, shape in zip(op.axes, op.shapes, strict=True) if shape == op.results[0])]


def from_the_start(op):
    """A wrong rule: a slice begins at 0."""
    starts, stops = op.equation.params["start_indices"], op.equation.params["limit_indices"]
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    if op.equation.params["strides"] or any(axis is None for axis in op.axes[0]):
        return passes(op)
    cuts = [[n, m - n] if n < m else [n] for n, m in zip(sizes, op.shapes[0], strict=True)]
    segments = [op.factors.cut(axis, cut) for axis, cut in zip(op.axes[0], cuts, strict=True)]
    return [tuple(segment[0] if segment else op.new_pinned(n) for segment, n in zip(segments, sizes, strict=True))]


# primitive: (a wrong rule for it, a layer that has it)
WRONG = {
    "add": (first_alone, "add"),
    "mul": (first_alone, "gate"),
    "dot_general": (uniform, "dense"),
    "cumsum": (passes, "ordered"),
    "sort": (passes, "ordered"),
    "rev": (passes, "ordered"),
    "concatenate": (uniform, "concatenate"),
    "slice": (from_the_start, "part"),
    "reshape": (uniform, "merge"),
    "gather": (passes, "taken"),
    "conv_general_dilated": (passes, "convolution"),
    "scan": (None, "recurrent"),
    "eq": (uniform, "diagonals"),
    "scatter-add": (passes, "segments"),
}


def misled(name, wrong, through, monkeypatch, most=3):
    """A few random networks for which a wrong rule infers another spec."""
    found = {}
    for seed in range(40):
        draft = drafted(seed, 4, through)
        with monkeypatch.context() as patched, jax.enable_x64(True):
            if name == "scan":  # a carry that is not one and the same at every step
                patched.setattr(Propagation, "new_carry", lambda self, value, shape, data: value)
            else:
                patched.setitem(RULES, name, wrong)
            spec = infer_spec(draft.fn, draft.theta, draft.x)
        if spec != draft.spec:
            found[name, seed] = draft._replace(spec=spec, sizes=spec.group_sizes(draft.theta))
        if len(found) == most:
            break
    return found


@pytest.mark.usefixtures("loose_ranks")
def test_the_attack_finds_planted_wrong_rules(monkeypatch):
    drafts = {}
    for name, (wrong, through) in WRONG.items():
        drafts |= misled(name, wrong, through, monkeypatch)
    assert {name for name, _ in broken(drafts)} == WRONG.keys()
