"""Relaxed strings: the known geodesics of annuli, nothing above the level, networks, thresholds of error rates."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from landscapes import BOWL, at, config, heights, landscape
from refusals import says
from variables import spaced

from mcjax import InputError, TrainConfig, evaluate_path, supervised
from mcjax.strings import StringConfig, relax, relax_string, sample_string
from mcjax.training import Criterion

WIDTH, LEVEL = 0.25, 1e-4


def depth(points):
    """How far points are outside of the annulus of half a width `WIDTH` around the unit circle."""
    return np.maximum(np.abs(np.linalg.norm(points, axis=-1) - 1) - WIDTH, 0)


def annulus(size):
    return landscape(lambda point: jax.nn.relu(jnp.abs(jnp.linalg.norm(point) - 1) - WIDTH)[None], size)


def geodesic(inner):
    """The shortest way between opposite points of the unit circle around a disc: two tangents and an arc."""
    return 2 * math.sqrt(1 - inner**2) + inner * (math.pi - 2 * math.acos(inner))


def between(*point):
    return at(*point), at(*(-x for x in point))


PLANES, SPRINGS = {"kappa": math.inf}, {"zeta": 0.01, "kappa": 1.0}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("size", "held", "tolerance"),
    [
        (2, PLANES, 0.0),
        (2, SPRINGS, 0.0),
        pytest.param(2, PLANES, 0.5, marks=SLOW),
        pytest.param(9, SPRINGS, 0.0, marks=SLOW),
    ],
)
def test_a_string_around_a_disc_becomes_the_geodesic_of_its_level(key, size, held, tolerance):
    settings = config(0.05, tolerance=tolerance, chunk=64, **held)
    task, ends = annulus(size), between(1, *[0] * (size - 1))
    string = sample_string(key, task, *ends, LEVEL, config=settings)
    relaxed = relax_string(task, string, settings)
    least, most = (geodesic(1 - WIDTH - math.sqrt(LEVEL * (1 + above))) for above in (tolerance, 0))
    # The beads stopped where they were low enough.
    assert string.length / least > 1.04
    assert least * (1 - 1e-4) < relaxed.length < most * 1.01
    # Nothing is above the level, on an independent grid.
    assert relaxed.connected
    assert heights(lambda points: depth(points) ** 2, relaxed).max() <= LEVEL * (1 + tolerance) * 1.001
    points = np.asarray(relaxed.knots["point"], np.float64)
    for end, point in zip(ends, points[[0, -1]], strict=True):
        np.testing.assert_array_equal(point, end["point"])
    # Two splits; the old knots are in their places.
    assert len(points) == 4 * len(string.values) - 3
    np.testing.assert_array_equal(relaxed.depths[::4], string.depths)
    assert (relaxed.depth, set(relaxed.depths[2::4])) == (string.depth + 2, {string.depth + 1})
    np.testing.assert_allclose(relaxed.values, depth(points) ** 2, atol=1e-6)
    assert relaxed.evaluations > string.evaluations


def test_no_split_and_one_sweep_keep_beads_and_shorten(key):
    task, settings = annulus(2), config(0.05, chunk=64, **PLANES)
    string = sample_string(key, task, *between(1, 0), LEVEL, config=settings)
    lengths = [
        relax_string(task, string, settings, splits=0, sweeps=sweeps, precision=1e-6).length for sweeps in (1, 30, 300)
    ]
    assert string.length > lengths[0] > lengths[1] >= lengths[2]
    assert relax_string(task, string, settings, splits=0).beads == string.beads


def test_a_straight_string_stays(key):
    string = sample_string(key, BOWL, at(1, 0), at(0, 1), 0.6, config=config())
    assert relax_string(BOWL, string, config()) is string


def test_all_sweeps_are_one_program(key, compiled):
    settings = config(0.0503, chunk=64, **PLANES)
    task = annulus(3)
    string = sample_string(key, task, *between(1, 0, 0), LEVEL, config=settings)
    compiled.clear()
    relax_string(task, string, settings, splits=0)
    assert 1 <= len([name for name in compiled if "_relax" in name]) <= 4
    compiled.clear()
    relax_string(task, string, settings, splits=0, sweeps=20, precision=0.01)
    assert not [name for name in compiled if "_relax" in name]


def test_the_nearest_point_of_two_half_spaces():
    rng = np.random.default_rng(0)
    ways, a, b = (rng.normal(size=(40, 3)) for _ in range(3))
    s, r = rng.normal(size=(2, 40))
    s[0], a[0] = np.inf, 0  # no constraint
    got = np.asarray(relax._nearest(jnp.asarray(ways), (jnp.asarray(a), jnp.asarray(b)), (s, r)))
    for i in range(1, 40):
        # Of all sets of active constraints, the nearest point that keeps both.
        found = []
        for active in itertools.chain.from_iterable(itertools.combinations(range(2), n) for n in range(3)):
            normals, sides = np.array([a[i], b[i]])[list(active)], np.array([s[i], r[i]])[list(active)]
            point = ways[i] - np.linalg.pinv(normals) @ (normals @ ways[i] - sides) if active else ways[i]
            if a[i] @ point <= s[i] + 1e-9 and b[i] @ point <= r[i] + 1e-9:
                found.append(point)
        best = min(found, key=lambda point: np.linalg.norm(point - ways[i]))
        np.testing.assert_allclose(got[i], best, atol=2e-3)


TRAINING = TrainConfig(epochs=60, batch_size=40, steps_per_epoch=3, optimizer=optax.adam(0.01), weight_decay=0.0)


@pytest.mark.parametrize(
    ("criterion", "threshold"),
    [(Criterion(), 0.2), pytest.param(Criterion("error", "test", examples=40), 0.06, marks=SLOW)],
)
def test_strings_of_networks(key, tiny_data, tiny_model, tiny_task, tiny_ends, criterion, threshold):
    settings = StringConfig(TRAINING, criterion, chunk=4)
    string = sample_string(key, tiny_task, *tiny_ends, threshold, config=settings)
    relaxed = relax_string(tiny_task, string, settings, splits=0)
    assert relaxed.connected
    excess = [each.normalized_length - 1 for each in (string, relaxed)]
    assert 0 < excess[1] < 0.8 * excess[0]
    images, labels = (spaced(each, 40) for each in (tiny_data.test_images, tiny_data.test_labels))
    task = supervised(tiny_model, replace(tiny_data, test_images=images, test_labels=labels))
    metrics = evaluate_path(task, relaxed.path, 301)
    highest = metrics.train_loss.max() if criterion.split == "train" else 1 - metrics.test_accuracy.min()
    assert highest <= threshold * 1.01


def test_bad_arguments_are_refused(key):
    task, settings = annulus(2), config(0.05, chunk=64, **PLANES)
    string = sample_string(key, task, *between(1, 0), LEVEL, config=settings)
    for changes, *named in (
        ({"splits": -1}, "splits=-1"),
        ({"sweeps": 0}, "sweeps=0"),
        ({"points": 1}, "points=1"),
        ({"precision": 0.0}, "precision=0.0"),
    ):
        with says(InputError, *named):
            relax_string(task, string, settings, **changes)
    with says(InputError, "not connected", "depth"):
        relax_string(task, string._replace(connected=False, reason="depth"), settings)
