"""PAM's candidate permutations: assignment, and draws by the weights of the decomposition."""

import chex
import jax
import numpy as np
import pytest
from refusals import says

from mcjax import InputError, nearest_permutation
from mcjax.curves.pam_step import candidate_permutations

WEIGHTS = np.array([0.2, 0.5, 0.3])


def planted(n, seed):
    """Three permutations that share no entry, and their mixture (n, n)."""
    p = np.random.default_rng(seed).permutation(n)
    parts = np.stack([np.roll(p, k) for k in (1, 0, 2)])
    return parts, np.tensordot(WEIGHTS, np.eye(n)[parts], 1).astype(np.float32)


@pytest.fixture
def soft():
    """Two groups of two pairs."""
    return {
        "a": np.stack([planted(4, seed)[1] for seed in (0, 1)]),
        "b": np.stack([planted(7, seed)[1] for seed in (2, 3)]),
    }


def parts_of(group, pair):
    return planted({"a": 4, "b": 7}[group], {"a": 0, "b": 2}[group] + pair)[0]


def which(group, drawn):
    """The index of the planted part that each candidate (pairs, candidates, n) is."""
    same = [(drawn[pair, :, None] == parts_of(group, pair)).all(-1) for pair in range(2)]
    assert np.all(np.sum(same, -1) == 1)
    return np.argmax(same, -1)


@pytest.mark.parametrize(("rounding", "samples"), [("assignment", 16), ("assignment", 0), ("sampled", 0)])
def test_the_assignment_alone(key, soft, rounding, samples):
    found = candidate_permutations(key, soft, rounding, samples)
    for group, matrices in soft.items():
        np.testing.assert_array_equal(found[group], nearest_permutation(matrices)[:, None])
        np.testing.assert_array_equal(which(group, found[group]), [[1], [1]])


def test_the_assignment_comes_first_and_the_draws_follow(key, soft):
    found = candidate_permutations(key, soft, "sampled", 5)
    for group, n in (("a", 4), ("b", 7)):
        assert found[group].shape == (2, 6, n)
        assert found[group].dtype == np.int32
        np.testing.assert_array_equal(found[group][:, 0], nearest_permutation(soft[group]))
        np.testing.assert_array_equal(np.sort(found[group], -1), np.broadcast_to(np.arange(n), (2, 6, n)))


def test_draws_are_as_frequent_as_in_the_mixture_and_independent(key, soft):
    found = candidate_permutations(key, soft, "sampled", 6000)
    drawn = {group: which(group, found[group])[:, 1:] for group in soft}
    expected = np.outer(WEIGHTS, WEIGHTS)
    for pair in range(2):
        together = np.zeros((3, 3))
        np.add.at(together, (drawn["a"][pair], drawn["b"][pair]), 1 / 6000)
        # Five standard deviations of the most frequent.
        np.testing.assert_allclose(together, expected, atol=0.03)
    # Nor does one pair repeat the other.
    assert np.mean(drawn["a"][0] == drawn["a"][1]) == pytest.approx((WEIGHTS**2).sum(), abs=0.03)


def test_the_same_key_draws_the_same(soft):
    one, again, other = (candidate_permutations(jax.random.key(seed), soft, "sampled", 50) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    assert any((one[group] != other[group]).any() for group in soft)
    for group in soft:
        np.testing.assert_array_equal(one[group][:, 0], other[group][:, 0])


def test_a_permutation_matrix_is_its_only_candidate(key):
    p = np.random.default_rng(0).permutation(6)
    found = candidate_permutations(key, {"g": np.eye(6, dtype=np.float32)[None, p]}, "sampled", 8)["g"]
    np.testing.assert_array_equal(found, np.tile(p, (1, 9, 1)))


@pytest.mark.parametrize("rounding", ["assignment", "sampled"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_group_that_is_not_finite_is_named(key, soft, rounding, bad):
    soft["b"][1, 2, 3] = bad
    with says(InputError, "group 'b'", "not finite"):
        candidate_permutations(key, soft, rounding, 4)
