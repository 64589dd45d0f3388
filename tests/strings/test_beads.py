"""Penalties and projections of beads against finite differences and geometry; when training stops."""

import math

import jax
import numpy as np
import optax
import pytest
from landscapes import BOWL, RING, at, config
from refusals import says
from variables import drawn

from mcjax import InputError, TrainConfig, evaluate, trees
from mcjax.strings import StringConfig, bead_fit
from mcjax.strings.beads import BeadPenalty, Neighbours, UntrainedBead, plane_offset, step_in_plane, train_beads
from mcjax.training import Criterion


def tree(seed):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}


def flat(leaves):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(leaves)])


def test_the_plane_is_equidistant_from_both_neighbours():
    before, after, theta = tree(0), tree(1), tree(2)
    with jax.enable_x64(True):
        off, normal = plane_offset(Neighbours(before, after), theta)
        still = jax.tree.map(np.zeros_like, theta)
        held = step_in_plane(theta, still, Neighbours(before, after, 1.0))
        free = step_in_plane(theta, still, Neighbours(before, after, 0.0))
        again = step_in_plane(held, still, Neighbours(before, after, 1.0))
        found = [float(off), *map(flat, (normal, held, free, again))]
    off, normal, held, free, again = found
    a, b, point = flat(before), flat(after), flat(theta)
    np.testing.assert_allclose(np.linalg.norm(normal), 1, rtol=1e-12)
    # The identity that the docstring derives.
    np.testing.assert_allclose(
        off * np.linalg.norm(b - a), (np.square(point - a).sum() - np.square(point - b).sum()) / 2, rtol=1e-10
    )
    np.testing.assert_allclose(np.linalg.norm(held - a), np.linalg.norm(held - b), rtol=1e-12)
    # The projection is the nearest point of the plane: the difference is along the normal.
    np.testing.assert_allclose(point - held, off * normal, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(again, held, rtol=1e-12)
    np.testing.assert_array_equal(free, point)


def test_the_plane_moves_with_the_networks():
    # With (a - b) / 2 in place of the midpoint, as printed in the paper, it would not.
    shift = tree(3)
    parts = [tree(i) for i in range(3)]
    with jax.enable_x64(True):
        off, _ = plane_offset(Neighbours(parts[0], parts[1]), parts[2])
        moved = [jax.tree.map(np.add, part, shift) for part in parts]
        again, _ = plane_offset(Neighbours(moved[0], moved[1]), moved[2])
        np.testing.assert_allclose(off, again, rtol=1e-10)


@pytest.mark.parametrize(("zeta", "kappa"), [(0.7, 0.0), (0.0, 1.3), (0.4, 2.0)])
def test_the_penalty_against_numpy_and_its_gradient_against_finite_differences(zeta, kappa):
    before, after, theta = tree(0), tree(1), tree(2)
    penalty = BeadPenalty(zeta, kappa)
    with jax.enable_x64(True):
        neighbours = Neighbours(before, after, 1.0)
        value, slope = jax.value_and_grad(penalty)(theta, neighbours)
        a, b, point = flat(before), flat(after), flat(theta)
        chord = (b - a) / np.linalg.norm(b - a)

        def expected(x):
            springs = zeta * (np.linalg.norm(x - a) + np.linalg.norm(x - b))
            return springs + kappa / 2 * (chord @ (x - (a + b) / 2)) ** 2

        np.testing.assert_allclose(value, expected(point), rtol=1e-12)
        numeric = [(expected(point + e) - expected(point - e)) / 2e-6 for e in 1e-6 * np.eye(len(point))]
        np.testing.assert_allclose(flat(slope), numeric, rtol=1e-6, atol=1e-8)
        assert float(penalty(theta, neighbours._replace(active=0.0))) == 0


def test_a_bead_on_its_neighbour_has_a_finite_gradient():
    one = at(0.3, -0.2)
    slope = jax.jit(jax.grad(BeadPenalty(1.0, 1.0)))
    for neighbours in (Neighbours(one, at(1, 1)), Neighbours(one, one)):
        assert np.isfinite(flat(slope(one, neighbours))).all()


@pytest.mark.parametrize(("zeta", "kappa"), [(0.0, 0.0), (0.3, 0.0), (0.2, 1.5), (0.0, math.inf), (0.3, math.inf)])
def test_a_step_of_a_bead_against_numpy(key, zeta, kappa):
    # In the bowl F is ||x||^2 / 2, with the gradient x; plain descent at a rate of 0.1.
    a, b, x = np.array([-1.0, 0.2]), np.array([0.8, 1.0]), np.array([0.3, -0.7])
    fit = bead_fit(BOWL, optax.sgd(0.1), zeta=zeta, kappa=kappa, weight_decay=0.5)
    state, metrics = jax.jit(fit.step)(fit.init(at(*x), at(*a), at(*b)), BOWL.train, key)
    normal = (b - a) / np.linalg.norm(b - a)
    slope = 1.5 * x + zeta * ((x - a) / np.linalg.norm(x - a) + (x - b) / np.linalg.norm(x - b))
    if kappa < math.inf:
        slope += kappa * normal * (normal @ (x - (a + b) / 2))
    moved = x - 0.1 * slope
    if kappa == math.inf:
        moved -= normal * (normal @ (moved - (a + b) / 2))
    np.testing.assert_allclose(state.variables["point"], moved, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], x @ x / 2, rtol=1e-6)  # without the terms of the fit
    # An end of a string, which has no neighbours, descends the loss alone.
    free, _ = fit.step(fit.init(at(*x)), BOWL.train, key)
    np.testing.assert_allclose(free.variables["point"], x - 0.15 * x, rtol=1e-5)


def test_a_loop_of_ones_own(key):
    # From above the ring to its top, which is as far from both ends; any optimiser.
    fit = bead_fit(RING, optax.adagrad(0.1), kappa=math.inf)
    state, step = fit.init(at(0.2, 1.5), at(1, 0), at(-1, 0)), jax.jit(fit.step)
    for step_key in jax.random.split(key, 400):
        state, _ = step(state, RING.train, step_key)
    np.testing.assert_allclose(state.variables["point"], [0, 1], atol=0.01)


def test_fits_share_programs_unless_their_weights_or_optimisers_differ():
    adam = optax.adam(0.1)

    def kind(**given):
        return jax.tree.structure(bead_fit(RING, **{"optimizer": adam, "zeta": 0.1, **given}))

    others = [{"zeta": 0.2}, {"kappa": 1.0}, {"optimizer": optax.adam(0.1)}, {"weight_decay": 0.1}]
    assert kind() == kind()
    assert all(kind() != kind(**other) for other in others)


def test_beads_that_cannot_be_fitted_are_refused():
    for given, *named in (
        ({"zeta": -1.0}, "zeta=-1"),
        ({"zeta": math.inf}, "zeta=inf"),
        ({"kappa": math.nan}, "kappa=nan"),
        ({"optimizer": "adam"}, "'adam'", "optax.adam"),
        ({"task": at(0, 0)}, "dict", "Task"),
    ):
        with says(InputError, *named):
            bead_fit(**{"task": RING, "optimizer": optax.adam(0.1), **given})
    with says(InputError, "one neighbour", "both"):
        bead_fit(RING, optax.adam(0.1), zeta=1.0).init(at(0, 0), at(1, 0))


def beads(*starts, target, keys=None):
    keys = jax.random.split(jax.random.key(0), len(starts)) if keys is None else keys
    return [UntrainedBead(at(*start), at(-1, 0), at(1, 0), k, target) for start, k in zip(starts, keys, strict=True)]


def test_beads_stop_below_their_target_and_not_much_further(key):
    starts = [(0.2, 0.9), (2.0, 0.0), (0.0, 1.3), (0.99, 0.0), (-0.3, 0.1)]
    found = train_beads(RING, config(chunk=4), beads(*starts, target=0.01))
    for trained in found:
        point = np.asarray(trained.theta["point"], np.float64)
        np.testing.assert_allclose(trained.value, (point @ point - 1) ** 2, rtol=1e-3)
        assert trained.value <= 0.01
    # Adam moves each coordinate by 0.01 a step at most, and the criterion is measured every five steps.
    far = found[1]
    assert 0.15 / 0.05 < far.epochs < 200
    assert abs(np.linalg.norm(far.theta["point"]) - 1) > 0.02


def test_a_bead_does_not_depend_on_the_others(key):
    keys = jax.random.split(key, 5)
    all_beads = beads((0.2, 0.9), (2.0, 0.0), (0.0, 1.3), (1.5, 1), (-0.3, 0.1), target=0.01, keys=keys)
    together = train_beads(RING, config(chunk=8), all_beads)
    for i in (1, 4):
        (alone,) = train_beads(RING, config(chunk=2), all_beads[i : i + 1])
        np.testing.assert_allclose(alone.theta["point"], together[i].theta["point"], rtol=1e-5)
        assert alone.epochs == together[i].epochs


def test_the_epochs_are_a_budget():
    (trained,) = train_beads(RING, config(epochs=3), beads((3.0, 0.0), target=0.01))
    assert trained.epochs == 3
    assert trained.value > 0.01
    (less,) = train_beads(RING, config(epochs=3), beads((3.0, 0.0), target=0.01), epochs=1)
    assert less.epochs == 1


@pytest.mark.parametrize("kappa", [math.inf, 50.0])
def test_beads_stay_in_the_plane(kappa):
    (trained,) = train_beads(RING, config(kappa=kappa), beads((0.0, 0.3), target=0.001))
    assert trained.value <= 0.001
    assert abs(trained.theta["point"][0]) < (1e-6 if kappa == math.inf else 0.02)


def test_springs_draw_a_bead_to_the_line_between_its_neighbours():
    start = [(0.3, 1.4)]
    (free,) = train_beads(RING, config(epochs=60), beads(*start, target=1e-9))
    (drawn_in,) = train_beads(RING, config(epochs=60, zeta=0.3), beads(*start, target=1e-9))
    assert drawn_in.theta["point"][1] < free.theta["point"][1] - 0.02


def test_no_beads():
    assert train_beads(RING, config(), []) == []


def test_batch_statistics_follow(key, normed, normed_task):
    theta = jax.tree.map(np.float32, drawn(normed))
    training = TrainConfig(epochs=2, batch_size=40, optimizer=optax.adam(0.01), weight_decay=0.0)
    settings = StringConfig(training, Criterion(examples=40, calibration_examples=40))
    (trained,) = train_beads(normed_task, settings, [UntrainedBead(theta, theta, theta, key, 1e-9)])
    moved = trees.norm(trees.subtract(trained.theta["batch_stats"], theta["batch_stats"]))
    assert float(moved) > 0
    # Measured with statistics re-estimated from the data, not the running ones.
    assert trained.value == pytest.approx(float(settings.criterion(normed_task, trained.theta)), rel=1e-5)
    assert trained.value != pytest.approx(float(evaluate(normed_task, trained.theta)[0]["loss"]), rel=1e-3)
