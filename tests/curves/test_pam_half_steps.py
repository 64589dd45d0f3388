"""The half-steps of PAM: which permutation is proposed, what is accepted and kept, and how fast matrices learn."""

from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from teachers import GROUP, UNITS, toy

from mcjax import FitConfig, PamConfig, Recorder, bezier, trees
from mcjax.curves import pam_half_steps
from mcjax.curves.config import PermutationFitConfig
from mcjax.curves.pam_half_steps import advance_curve, permutation_learning_rates, propose_permutation
from mcjax.curves.pam_problem import HalfStep, PamProblem, PamState, as_single_candidate
from mcjax.models.base import LeadingAxis
from mcjax.models.pairs import Pairs
from mcjax.training.fit import FitState, parts_of
from mcjax.training.loop import EpochPlan

CONFIG = PamConfig(
    curve=FitConfig(epochs=3, batch_size=20, weight_decay=0.0),
    permutation=PermutationFitConfig(epochs=20),
    iterations=2,
    objective_points=5,
)
QUIET = Recorder("the fit", progress=False)
PAIRS = 6


@dataclass(frozen=True, eq=False)
class GivenObjective(PamProblem):
    """A problem whose objective is given: a function of P, or (2 * pairs, candidates), from P_k and from P'."""

    values: Any = None

    def objective(self, theta_c, P, branches=1):
        return self.values(P) if callable(self.values) else self.values[-branches * self.pairs.number :]


def moved(leaves, p):
    """The parameters of a toy, its units in another order, by hand."""
    first, second = leaves["Dense_0"], leaves["Dense_1"]
    return {
        "Dense_0": {"kernel": first["kernel"][..., p], "bias": first["bias"][..., p]},
        "Dense_1": {"kernel": second["kernel"][..., p, :], "bias": second["bias"]},
    }


def each_moved(leaves, P):
    """`moved` of many networks by as many orders."""
    return jax.tree.map(lambda *parts: np.stack(parts), *(moved(trees.index(leaves, i), p) for i, p in enumerate(P)))


def problem(config, theta_1, theta_2, steps=3, seed=10, **more):
    """The pairs of networks (pairs, ...) of a toy, from the identity; with `values` the objective is given."""
    task, _ = toy(seed)
    count = len(theta_1["params"]["Dense_0"]["bias"])
    P = {GROUP: np.tile(np.arange(UNITS, dtype=np.int32), (count, 1))}
    made = PamProblem.create(task, bezier(task.spec), config, Pairs(theta_1, theta_2, P, LeadingAxis(True)))
    assert made.plan == EpochPlan(20, 3)  # of 60 points
    made = replace(made, plan=EpochPlan(20, steps))
    return GivenObjective(**vars(made), **more) if more else made


@pytest.fixture(scope="module")
def networks():
    """As many networks as pairs, and others."""
    made = [jax.tree.map(lambda *leaves: np.stack(leaves), *(toy(i + j)[1] for i in range(PAIRS))) for j in (0, PAIRS)]
    return tuple(made)


def state(rng, at):
    """Control points, which only their norms count of here, and an optimiser with momentum that has taken steps."""
    drawn = rng.normal(size=(2, PAIRS, 3)).astype(np.float32)
    return FitState({"c": drawn[0]}, (drawn[1], np.full(PAIRS, at, np.int32)))


def test_exchanged_units_are_found():
    """Every two units of a network exchanged: most of the six exchanges are found from the identity."""
    _, theta = toy(10)
    orders = np.tile(np.arange(UNITS), (6, 1))
    for order, (a, b) in zip(orders, combinations(range(UNITS), 2), strict=True):
        order[[a, b]] = b, a
    copies = jax.tree.map(lambda leaf: np.stack([leaf] * 6), theta)
    given = problem(CONFIG, copies, {"params": each_moved(copies["params"], orders)})
    curve = given.line
    before = given.objective(curve.variables, as_single_candidate(given.pairs.P))[:, 0]
    now = PamState(curve, given.pairs.P, before)
    P, found, _, history = propose_permutation(
        given, now, permutation_learning_rates(given, now), jax.random.key(0), QUIET
    )
    right = (np.asarray(P[GROUP]) == orders).all(1)
    assert right.sum() >= 4
    # The straight line is then a point, at which the teacher has no loss.
    np.testing.assert_allclose(found.proposed[right], 0, atol=1e-8)
    np.testing.assert_array_equal(found.moved[right], 2)
    assert (now.objective > 0.01).all()
    np.testing.assert_array_equal(found.accepted, found.moved > 0)
    assert history["loss"].shape == (6, 20)


RANK = {p: i for i, p in enumerate(permutations(range(UNITS)))}


def by_table(table):
    """An objective of candidates that is looked up, from the values (pairs, permutations); of matrices, an entry."""

    def values(P):
        return np.array([[table[i, RANK[tuple(p)]] for p in each] for i, each in enumerate(np.asarray(P[GROUP]))])

    return lambda P: P[GROUP][:, :, 0, 0] if np.ndim(P[GROUP]) == 4 else values(P)


def distance_of(p):
    return np.linalg.norm(np.eye(UNITS)[np.asarray(p)] - np.eye(UNITS))


@pytest.mark.parametrize(("acceptance", "samples"), [("descent", 7), ("always", 7), ("always", 0)])
def test_the_candidate_is_the_best_by_value_and_proximal_term(acceptance, samples, networks, monkeypatch):
    """Of two rates with eight candidates each, the nearest permutation first; with draws of which none is refused, P_k.

    The matrices that were learned are told apart by their first entry.
    """
    rng = np.random.default_rng(0)
    choices = rng.permuted(np.tile(np.arange(UNITS), (2 * PAIRS, 8, 1)), axis=-1)
    table, objective = rng.random((PAIRS, len(RANK))), rng.random(PAIRS) / 2
    table[:, 0] = objective
    table[2, RANK[tuple(choices[2, 3])]] = np.nan
    matrices = replace(CONFIG.permutation, partial_moves=False, samples=samples)
    config = replace(CONFIG, permutation=matrices, acceptance=acceptance)
    given = problem(config, *networks, values=by_table(table))
    now, seen = PamState(state(rng, 0), given.pairs.P, objective), []
    monkeypatch.setattr(pam_half_steps, "candidate_permutations", lambda *_: {GROUP: choices})
    history = {"loss": np.arange(2 * PAIRS)[:, None]}
    learned = {GROUP: np.tile(np.arange(2.0 * PAIRS)[:, None, None], (1, UNITS, UNITS))}

    def run(*args, **_):
        seen.append(args)
        return args[3]._replace(variables=learned), history

    monkeypatch.setattr(pam_half_steps, "run_epochs", run)
    rates = [{GROUP: np.full(PAIRS, rate, np.float32)} for rate in (3.0, 0.3)]
    chosen, always = [], acceptance == "always"
    stays = always and samples > 0
    for nu_P in (1e9, 20.0, 5.0, 1.0):
        told = replace(given, config=replace(config, nu_P=nu_P))
        P, found, relaxation, of_rate = propose_permutation(told, now, rates, jax.random.key(0), QUIET)
        for i in range(PAIRS):
            own = np.concatenate([choices[i], choices[PAIRS + i], np.arange(UNITS)[None]])[: 17 if stays else 16]
            values = np.array([table[i, RANK[tuple(p)]] for p in own])
            distances = np.array(list(map(distance_of, own)))
            costs = values + distances**2 / (2 * nu_P)
            best = int(np.nanargmin(costs))
            chosen.append((i, best))
            np.testing.assert_array_equal(P[GROUP][i], own[best])
            np.testing.assert_allclose(found.proposed[i], values[best])
            np.testing.assert_allclose(found.distance[i], distances[best])
            assert found.moved[i] == (own[best] != np.arange(UNITS)).sum()
            admissible = always or costs[best] <= objective[i]
            assert found.accepted[i] == (admissible and found.moved[i] > 0)
            # What is told of the matrices is of the rate of the best of their candidates.
            rate = int(np.nanargmin(costs[:16])) // 8
            assert of_rate["loss"][i] == relaxation.relaxed[i] == i + PAIRS * rate
            np.testing.assert_allclose(relaxation.rounded[i], values[8 * rate])
    assert len(set(chosen)) > PAIRS + 3  # not the same for every nu_P
    assert {best == 16 for _, best in chosen} == {False, stays}  # P_k is the best of some
    for fit, task, plan, start, keys, epochs, recorder in seen:
        assert (plan, epochs, recorder) == (EpochPlan(20, 3), 20, QUIET)
        assert task is given.task
        descent, _ = parts_of(fit)
        assert descent.penalty.nu in (1e9, 20.0, 5.0, 1.0)
        np.testing.assert_array_equal(start.fixed.rate[GROUP], np.float32(np.repeat([3.0, 0.3], PAIRS)))
        np.testing.assert_array_equal(start.fixed.anchor[GROUP], np.tile(np.eye(UNITS), (2 * PAIRS, 1, 1)))
        np.testing.assert_array_equal(start.variables[GROUP], start.fixed.anchor[GROUP])
        twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), (*networks, now.curve.variables))
        chex.assert_trees_all_equal(start.fixed[:3], twice)
        # The same batches and points for every rate.
        chex.assert_trees_all_equal(*np.split(np.asarray(jax.random.key_data(keys)), 2))


def test_a_part_of_the_way_is_proposed_if_it_is_better(networks, monkeypatch):
    """Two exchanges are proposed together, and all values are drawn: the best is one of them, or both."""
    rng = np.random.default_rng(1)
    table, both = rng.random((PAIRS, len(RANK))), (1, 0, 3, 2)
    given = problem(CONFIG, *networks, values=by_table(table))
    now = PamState(state(rng, 0), given.pairs.P, table[:, 0])
    monkeypatch.setattr(pam_half_steps, "candidate_permutations", lambda *_: {GROUP: np.tile(both, (PAIRS, 1, 1))})
    monkeypatch.setattr(pam_half_steps, "run_epochs", lambda *args, **_: (args[3], {}))
    P, found, *_ = propose_permutation(given, now, [{GROUP: np.ones(PAIRS)}], jax.random.key(0), QUIET)
    parts = (both, (1, 0, 2, 3), (0, 1, 3, 2), (0, 1, 2, 3))
    best = [min(parts, key=lambda p, i=i: table[i, RANK[p]]) for i in range(PAIRS)]
    assert len(set(best)) > 1
    np.testing.assert_array_equal(P[GROUP], best)
    np.testing.assert_allclose(found.proposed, [table[i, RANK[p]] for i, p in enumerate(best)])
    descends = found.proposed + found.moved / CONFIG.nu_P <= table[:, 0]
    np.testing.assert_array_equal(found.accepted, descends & (found.moved > 0))


def training(networks, curve, starts, after):
    """In place of `run_epochs`: looks at what is to be trained from these permutations, and says how it ended."""

    def run(fit, task, plan, begun, keys, epochs, recorder, *, mesh, before):
        assert (epochs, plan) == (CONFIG.curve.epochs, EpochPlan(20, 3))
        assert len(keys) == len(starts) * PAIRS
        ends = begun.fixed
        for got, expected in (
            (ends.theta_1["params"], [networks[0]["params"]] * len(starts)),
            (ends.theta_2["params"], [each_moved(networks[1]["params"], p) for p in starts]),
            ((ends.anchor, begun._replace(fixed=())), [(curve.variables, curve)] * len(starts)),
        ):
            chex.assert_trees_all_equal(got, jax.tree.map(lambda *leaves: np.concatenate(leaves), *expected))
        branches = np.repeat(np.arange(2)[-len(starts) :], PAIRS)
        ended = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *after[-len(starts) :])
        return ended, {"loss": branches[:, None]}

    return run


@pytest.mark.parametrize("acceptance", ["lookahead", "descent", "always"])
def test_accepted_half_steps_and_the_states_they_keep(acceptance, networks, monkeypatch):
    nu_phi, seen, descent = 3.0, {"first": set(), "second": set()}, acceptance != "always"
    given = problem(replace(CONFIG, nu_phi=nu_phi, acceptance=acceptance), *networks, values=())
    lookahead = acceptance == "lookahead"
    for seed in range(12):
        rng = np.random.default_rng(seed)
        old = rng.permuted(np.tile(np.arange(UNITS, dtype=np.int32), (PAIRS, 1)), axis=-1)
        new = rng.permuted(old, axis=-1)
        new[0] = old[0]  # one that stays
        objective = rng.random(PAIRS)
        distance = (new != old).sum(1)
        admissible = ((rng.random(PAIRS) < 0.7) & (seed != 1) | ~np.array(descent)) & (distance > 0)
        value = np.where(distance == 0, objective, objective - rng.random(PAIRS) / 2)
        after_first = np.where(admissible, value, objective)
        proposal = HalfStep(after_first, value, np.sqrt(2 * distance), admissible, distance)
        now = PamState(state(rng, 5), {GROUP: old}, objective)
        # From P_k, and from P'.
        after = [state(rng, 11) for _ in range(2)]
        values = objective + rng.normal(size=(2, PAIRS)) / 2
        travelled = [np.square(each.variables["c"] - now.curve.variables["c"]).sum(1) / (2 * nu_phi) for each in after]
        branched = lookahead and admissible.any()

        starts = [old, np.where(admissible[:, None], new, old)][0 if branched else 1 :]
        run = training(networks, now.curve, starts, after)
        monkeypatch.setattr(pam_half_steps, "run_epochs", run)
        fresh = FitState(None, jax.tree.map(np.zeros_like, now.curve.optimizer))
        monkeypatch.setattr(PamProblem, "line", fresh)
        told = replace(given, values=values.reshape(-1, 1))
        then, (first, second), history = advance_curve(told, now, {GROUP: new}, proposal, jax.random.key(0), QUIET)
        for i in range(PAIRS):
            takes = admissible[i]
            if branched and takes:
                # What each branch would end at: a curve that does not descend is refused there too.
                ends = [
                    values[b, i] if values[b, i] + travelled[b][i] <= height else height
                    for b, height in enumerate((objective[i], value[i]))
                ]
                takes = ends[1] < ends[0]
            branch = int(takes or not branched)
            before = value[i] if takes else objective[i]
            accepted = not descent or values[branch, i] + travelled[branch][i] <= before
            assert (first.accepted[i], second.accepted[i]) == (takes, accepted)
            assert (first.objective[i], first.proposed[i], first.moved[i]) == (before, value[i], distance[i])
            assert second.proposed[i] == values[branch, i]
            np.testing.assert_allclose(second.distance[i] ** 2 / (2 * nu_phi), travelled[branch][i], rtol=1e-5)
            assert second.objective[i] == then.objective[i] == (values[branch, i] if accepted else before)
            np.testing.assert_array_equal(then.P[GROUP][i], new[i] if takes else old[i])
            kept = after[branch] if accepted else now.curve
            np.testing.assert_array_equal(then.curve.variables["c"][i], kept.variables["c"][i])
            # What is refused leaves no momentum, but the schedule goes on.
            momentum, count = then.curve.optimizer
            np.testing.assert_array_equal(momentum[i], accepted * after[branch].optimizer[0][i])
            assert count[i] == 11
            assert history["loss"][i] == branch
            seen["first"].add((bool(admissible[i]), bool(takes)))
            seen["second"].add(bool(accepted))
        assert not second.moved.any()
    # Every case was there.
    assert seen["second"] == {True} | ({False} if descent else set())
    assert seen["first"] == {(True, True), (False, False)} | ({(True, False)} if lookahead else set())


def loss_along(given, i, M):
    """The squares of a toy's residuals on the curve of a pair, the matrix multiplied by hand, over the grid."""
    theta_1, theta_2 = (
        jax.tree.map(lambda leaf: np.asarray(leaf[i], np.float64), end["params"])
        for end in (given.pairs.theta_1, given.pairs.theta_2)
    )
    first, second = theta_2["Dense_0"], theta_2["Dense_1"]
    end = {
        "Dense_0": {"kernel": first["kernel"] @ M.T, "bias": M @ first["bias"]},
        "Dense_1": {"kernel": M @ second["kernel"], "bias": second["bias"]},
    }
    x, y = (np.asarray(part, np.float64) for part in given.task.train)
    losses = []
    for t in (np.arange(5) + 0.5) / 5:
        at = jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, theta_1, end)
        one, two = at["Dense_0"], at["Dense_1"]
        outputs = np.tanh(x @ one["kernel"] + one["bias"]) @ two["kernel"] + two["bias"]
        losses.append(np.square(outputs - y).mean())
    return np.mean(losses)


@pytest.mark.parametrize(("projection", "far_step", "near_step"), [("alternating", 0.1, 0.02), ("sinkhorn", 1, 0.2)])
def test_rates_are_such_that_first_steps_are_as_long_as_they_should_be(projection, far_step, near_step):
    """By the mean gradient without its sums of rows and columns, in finite differences, however many steps follow."""
    _, theta = toy(10)
    nothing = jax.tree.map(np.zeros_like, theta)
    first, second = (
        jax.tree.map(lambda *leaves: np.stack(leaves), *pair) for pair in ((theta, theta), (toy(3)[1], nothing))
    )
    permutation = replace(CONFIG.permutation, projection=projection)
    given = problem(replace(CONFIG, permutation=permutation), first, second)
    far, near = permutation_learning_rates(given, PamState(given.line, given.pairs.P, np.zeros(2)))
    np.testing.assert_allclose(near[GROUP] * far_step, far[GROUP] * near_step, rtol=1e-6)
    found = far[GROUP]
    G, h = np.zeros((UNITS, UNITS)), 1e-5
    for at in np.ndindex(G.shape):
        step = np.zeros_like(G)
        step[at] = h
        G[at] = (loss_along(given, 0, np.eye(UNITS) + step) - loss_along(given, 0, np.eye(UNITS) - step)) / (2 * h)
    J = np.eye(UNITS) - 1 / UNITS
    np.testing.assert_allclose(found[0] * np.sqrt(np.square(J @ G @ J).mean()), far_step, rtol=1e-4)
    # Nothing pulls at the units of a network of zeros.
    assert found[1] == 0


@pytest.mark.parametrize("rates", [0.25, (0.25, 4.0)])
def test_rates_that_are_given_are_those_of_every_pair_and_group(rates, networks):
    given = problem(replace(CONFIG, permutation=replace(CONFIG.permutation, learning_rate=rates)), *networks)
    found = permutation_learning_rates(given, PamState(FitState({}, ()), given.pairs.P, np.zeros(PAIRS)))
    assert len(found) == np.size(rates)
    for each, rate in zip(found, np.atleast_1d(rates), strict=True):
        np.testing.assert_array_equal(each[GROUP], np.full(PAIRS, rate))
    # Their steps are plain, those of automatic rates bounded.
    bounds = [parts_of(of.permutation_fit)[0].retract.largest_step for of in (given, problem(CONFIG, *networks))]
    assert bounds == [None, 0.5]


@pytest.mark.parametrize("regularized", [True, False])
def test_matrices_descend_the_l2_term_only_if_it_is_wanted(regularized, networks):
    config = replace(CONFIG, curve=replace(CONFIG.curve, weight_decay=0.25))
    config = replace(config, permutation=replace(config.permutation, regularized=regularized))
    given = problem(config, *networks)
    decays = [parts_of(fit)[0].weight_decay for fit in (given.permutation_fit, given.curve_fit)]
    assert decays == [0.25 * regularized, 0.25]
    assert given.grid.weight_decay == 0.25


def test_a_refused_curve_restarts_an_optimiser_and_does_not_stop_it():
    """What the state of an optimiser holds beside its momentum, such as a learning rate, is that of a fresh one."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5, momentum=0.9)

    def state(value):
        theta_c = {"c": jnp.full((2, 3), value)}
        started = jax.vmap(optimizer.init)(theta_c)
        return FitState(theta_c, jax.vmap(lambda c, state: optimizer.update(c, state)[1])(theta_c, started))

    new, old = state(1.0), state(2.0)
    fresh = jax.vmap(optimizer.init)(old.variables)
    kept = pam_half_steps._accepted(np.array([True, False]), new, old, fresh)
    np.testing.assert_allclose(kept.variables["c"][:, 0], [1.0, 2.0])
    np.testing.assert_allclose(kept.optimizer.hyperparams["learning_rate"], [0.5, 0.5])
    np.testing.assert_array_equal(kept.optimizer.count, new.optimizer.count)
    trace = kept.optimizer.inner_state[0].trace["c"][:, 0]
    np.testing.assert_allclose(trace, [1.0, 0.0])
