"""PAM's candidate permutations: assignment, draws by the weights of the decomposition, parts of the way to one."""

from itertools import combinations

import chex
import jax
import numpy as np
import pytest
from refusals import says

from mcjax import nearest_permutation
from mcjax.curves.pam_candidates import best_part_of_the_way, candidate_permutations
from mcjax.errors import RunError

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


def test_the_nearest_permutation_alone(key, soft):
    found = candidate_permutations(key, soft, 0)
    for group, matrices in soft.items():
        np.testing.assert_array_equal(found[group], nearest_permutation(matrices)[:, None])
        np.testing.assert_array_equal(which(group, found[group]), [[1], [1]])


def test_the_nearest_permutation_comes_first_and_the_draws_follow(key, soft):
    found = candidate_permutations(key, soft, 5)
    for group, n in (("a", 4), ("b", 7)):
        assert found[group].shape == (2, 6, n)
        assert found[group].dtype == np.int32
        np.testing.assert_array_equal(found[group][:, 0], nearest_permutation(soft[group]))
        np.testing.assert_array_equal(np.sort(found[group], -1), np.broadcast_to(np.arange(n), (2, 6, n)))


def test_draws_are_as_frequent_as_in_the_mixture_and_independent(key, soft):
    found = candidate_permutations(key, soft, 6000)
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
    one, again, other = (candidate_permutations(jax.random.key(seed), soft, 50) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    assert any((one[group] != other[group]).any() for group in soft)
    for group in soft:
        np.testing.assert_array_equal(one[group][:, 0], other[group][:, 0])


def test_a_permutation_matrix_is_its_only_candidate(key):
    p = np.random.default_rng(0).permutation(6)
    found = candidate_permutations(key, {"g": np.eye(6, dtype=np.float32)[None, p]}, 8)["g"]
    np.testing.assert_array_equal(found, np.tile(p, (1, 9, 1)))


@pytest.mark.parametrize("samples", [0, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_group_that_is_not_finite_is_named(key, soft, samples, bad):
    soft["b"][1, 2, 3] = bad
    with says(RunError, "group 'b'", "not finite"):
        candidate_permutations(key, soft, samples)


def test_draws_of_a_pair_do_not_depend_on_the_other_pairs(key, soft):
    both = candidate_permutations(key, soft, 20)
    alone = candidate_permutations(key, {group: matrices[:1] for group, matrices in soft.items()}, 20)
    chex.assert_trees_all_equal(alone, {group: p[:1] for group, p in both.items()})


def subsets(cycles):
    return [which for count in range(len(cycles) + 1) for which in combinations(cycles, count)]


def cycles_of(old, new):
    """The sets of units that an iteration from old to new visits, of more than one unit."""
    found = set()
    for start in range(len(old)):
        visited, unit = {start}, start
        while (unit := list(old).index(new[unit])) != start:
            visited.add(unit)
        found.add(frozenset(visited))
    return [each for each in found if len(each) > 1]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_part_of_the_way_is_that_of_all_subsets_if_costs_add_up(seed):
    """Costs that are sums over units: then the best is every cycle that gains, of all subsets of cycles."""
    rng, sizes, pairs = np.random.default_rng(seed), {"a": 5, "b": 9}, 4
    old, new = ({g: rng.permuted(np.tile(np.arange(n), (pairs, 1)), axis=1) for g, n in sizes.items()} for _ in "12")
    new["a"][0], new["b"][0] = old["a"][0], old["b"][0]  # one that stays
    weights = {g: rng.normal(size=(pairs, n, n)) for g, n in sizes.items()}

    def cost(P):
        at = np.arange(pairs)[:, None, None]
        return sum(weights[g][at, np.arange(sizes[g]), p].sum(-1) for g, p in P.items())

    found, costs = best_part_of_the_way(cost, old, new)
    np.testing.assert_allclose(costs, cost({g: p[:, None] for g, p in found.items()})[:, 0])
    for i in range(pairs):
        least = 0.0
        for g in sizes:
            values = []
            for which in subsets(cycles_of(old[g][i], new[g][i])):
                units = sorted(set().union(*which))
                p = old[g][i].copy()
                p[units] = new[g][i][units]
                np.testing.assert_array_equal(np.sort(p), np.arange(sizes[g]))
                values.append(weights[g][i, np.arange(sizes[g]), p].sum())
            least += min(values)
        # Not to move at all is one of them.
        np.testing.assert_allclose(costs[i], least)


def test_a_single_group_can_be_the_best_part_of_the_way():
    """A cost under which the cycles of one group help only together, and those of the other, each cheaper, never do."""
    old = {"a": np.arange(4)[None], "b": np.arange(4)[None]}
    new = {"a": np.array([[1, 0, 3, 2]]), "b": np.array([[3, 2, 1, 0]])}

    def cost(P):
        moved = {g: (p != np.arange(4)).sum(-1) for g, p in P.items()}
        return np.where(moved["a"] == 4, -1.0, 0.1 * moved["a"]) + 0.05 * moved["b"]

    found, costs = best_part_of_the_way(cost, old, new)
    np.testing.assert_array_equal(found["a"], new["a"])
    np.testing.assert_array_equal(found["b"], old["b"])
    np.testing.assert_allclose(costs, [-1.0])


def test_a_way_that_leads_nowhere_better_is_not_gone():
    """Nor does the other pair, which has more cycles, change that."""
    old = {"g": np.tile(np.arange(4), (2, 1))}
    new = {"g": np.array([[1, 2, 3, 0], [1, 0, 3, 2]])}

    def cost(P):
        return (P["g"] != np.arange(4)).sum(-1) * 1.0

    for pairs in (slice(0, 1), slice(0, 2)):
        found, costs = best_part_of_the_way(cost, *({"g": p["g"][pairs]} for p in (old, new)))
        np.testing.assert_array_equal(found["g"], old["g"][pairs])
        np.testing.assert_array_equal(costs, 0)
