"""The norm bound of eq. 15: projections leaf by leaf in numpy, and a fit whose control points reach the bound."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says

from mcjax import InputError, PamConfig, Task, bezier, fit_pam, polygonal_chain, trees
from mcjax.curves import FitConfig, PermutationFitConfig, curve_fit
from mcjax.curves.fit import CurveEnds
from mcjax.curves.norm_bound import OntoBall

RADIUS = 2.0


def drawn(rng, *many):
    return {"w": np.float32(rng.normal(size=(*many, 3, 4))), "b": np.float32(rng.normal(size=(*many, 4)))}


def networks_of(theta_c, ends, count):
    """The networks of the control points, (count, ...), in numpy."""
    places = np.arange(1, count + 1) / (count + 1)

    def of_leaf(a, b, offsets):
        return np.stack([(1 - s) * a + s * b + offset for s, offset in zip(places, offsets, strict=True)])

    return jax.tree.map(of_leaf, ends.theta_1, ends.theta_2, theta_c)


@pytest.mark.parametrize("count", [1, 2])
def test_every_leaf_of_every_control_point_is_projected(count, tiny_model):
    rng, curve = np.random.default_rng(0), polygonal_chain(tiny_model.spec, count)
    ends, many = CurveEnds(drawn(rng), drawn(rng)), (() if count == 1 else (count,))
    theta_c, step = drawn(rng, *many), drawn(rng, *many)
    ball = OntoBall(curve, RADIUS)

    def stacked(tree):
        return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(count, *leaf.shape[len(many) :]), tree)

    wanted = networks_of(stacked(trees.add(theta_c, step)), ends, count)
    found = networks_of(stacked(jax.jit(ball)(theta_c, step, ends)), ends, count)
    clipped = 0
    for name, leaf in wanted.items():
        for j in range(count):
            norm = np.linalg.norm(leaf[j])
            clipped += norm > RADIUS
            np.testing.assert_allclose(found[name][j], leaf[j] * min(1, RADIUS / norm), rtol=1e-5, atol=1e-6)
    assert 0 < clipped < 2 * count + 1

    # Directions on the boundary lose what points outward; those inside lose nothing.
    theta_c = jax.jit(ball)(theta_c, step, ends)
    for direction in (drawn(rng, *many), trees.scale(-1.0, drawn(rng, *many))):
        tangent = stacked(jax.jit(ball.tangent)(theta_c, direction, ends))
        points = networks_of(stacked(theta_c), ends, count)
        for name, leaf in stacked(direction).items():
            for j in range(count):
                norm = np.linalg.norm(points[name][j])
                normal = points[name][j] / norm
                outward = max(0, np.vdot(leaf[j], normal)) if norm > RADIUS * 0.999 else 0
                np.testing.assert_allclose(tangent[name][j], leaf[j] - outward * normal, atol=1e-5)


def test_a_fit_stays_within_the_bound_and_reaches_it(tiny_ends, tiny_task, key):
    """Descent on minus the squared norm, which leaves every ball."""
    largest = max(float(jnp.linalg.norm(leaf)) for end in tiny_ends for leaf in jax.tree.leaves(end))
    bound, curve = 1.1 * largest, bezier(tiny_task.spec)

    def loss(theta, batch, key):
        return -trees.dot(trees.params(theta), trees.params(theta))

    fit = curve_fit(Task(loss, tiny_task.train, model=tiny_task.model), curve, optax.sgd(0.3), norm_bound=bound)
    state = fit.init(*tiny_ends)
    for each in jax.random.split(key, 30):
        state, _ = jax.jit(fit.step)(state, tiny_task.train, each)
    point = jax.tree.map(lambda a, b, c: (a + b) / 2 + c, *(trees.params(end) for end in tiny_ends), state.variables)
    for leaf in jax.tree.leaves(point):
        np.testing.assert_allclose(np.linalg.norm(leaf), bound, rtol=1e-5)


def test_ends_beyond_the_bound_are_refused(tiny_ends, tiny_task, key):
    config = PamConfig(FitConfig(epochs=1, batch_size=60), PermutationFitConfig(epochs=1), 1, norm_bound=0.5)
    with says(InputError, "norm_bound=0.5", "kernel", "norm"):
        fit_pam(key, tiny_task, bezier(tiny_task.spec), *tiny_ends, None, config)
