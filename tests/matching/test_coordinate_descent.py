"""Groups that meet themselves on a leaf, where an assignment of the linearised objective can lose."""

import numpy as np
from leaves import drawn, inner_product

from mcjax import nearest_permutation
from mcjax.matching import coordinate_descent
from mcjax.matching.weights import match_weights


def test_plain_assignments_would_let_the_objective_fall():
    """A group that meets itself on a leaf is assigned as if the objective were linear."""
    (spec, theta_1), (_, theta_2) = (drawn("itself", seed) for seed in range(2))
    values, p = [], np.arange(12)
    for _ in range(20):
        values.append(inner_product(spec, {"t": p}, theta_1, theta_2))
        pairs = [(theta_1[leaf], theta_2[leaf]) for leaf in "wv"]
        p = nearest_permutation(sum(a @ b[:, p].T + a.T @ b[p] for a, b in pairs))
    assert (np.diff(values) < -1).any()


def test_a_proximal_term_finds_gains_that_plain_assignments_miss(key, monkeypatch):
    (spec, theta_1), (_, theta_2) = (drawn("trunk", seed) for seed in range(2))
    reached = match_weights(key, spec, theta_1, theta_2).objective
    monkeypatch.setattr(coordinate_descent, "PROXIMAL_WEIGHTS", ())
    assert reached > 1.1 * match_weights(key, spec, theta_1, theta_2).objective
