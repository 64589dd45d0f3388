"""Axes of factors: built from a description, read back as one, and moved by permutations of their free factors."""

from itertools import accumulate

import numpy as np

from mcjax.symmetry.infer.factors import Sum


def one_after_the_other(parts):
    starts = accumulate(map(len, parts), initial=0)
    return np.concatenate([start + part for start, part in zip(starts, parts, strict=False)])


def moved(factors, axis, seed):
    # Where each position of an axis comes from, when every class of free factors has a permutation of its own.
    at = np.zeros(1, int)
    for term in factors.expand(axis):
        if isinstance(term, Sum):
            inner = one_after_the_other([moved(factors, part, seed) for part in term.parts])
        elif not factors.is_free(term):
            inner = np.arange(factors.length((term,)))
        else:
            inner = np.random.default_rng((seed, factors.find(term))).permutation(factors.length((term,)))
        at = (at[:, None] * len(inner) + inner).ravel()
    return at


def assert_moved_alike(factors, p, q):
    for seed in range(3):
        np.testing.assert_array_equal(moved(factors, p, seed), moved(factors, q, seed))


def build(factors, described, origin=None):
    # A number is a factor of that length, a list is a sum of segments, a tuple is a product.
    if isinstance(described, int):
        return factors.new(described, origin=origin)
    if isinstance(described, list):
        return factors.concatenate([build(factors, part, origin) for part in described])
    return sum((build(factors, term, origin) for term in described), ())


def form(factors, axis):
    terms = tuple(
        [form(factors, part) for part in term.parts] if isinstance(term, Sum) else factors.length((term,))
        for term in factors.expand(axis)
    )
    return terms[0] if len(terms) == 1 else terms or 1


def origins(factors, product):
    return [factors.origin(atom) for atom in factors.atoms(product)]


def reasons(factors, product):
    return [None if factors.is_free(atom) else factors.reason((atom,)) for atom in factors.atoms(product)]


def classes(factors, product):
    return [factors.find(atom) for atom in factors.atoms(product)]
