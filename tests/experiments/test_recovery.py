"""Recovery: what is planted, and that every way of matching finds it."""

import jax
import numpy as np

from experiments.recovery import Recovery, can_be_told, main, networks, planted
from mcjax import permute
from mcjax.matching import Match


def test_what_is_planted_is_undone_by_what_is_looked_for():
    _, spec, (theta, *_) = networks("blocks", Recovery(runs=1))
    P, moved = planted(spec, jax.random.key(0), theta, 0.0)
    assert any((np.asarray(p) != np.arange(len(p))).any() for p in P.values())
    jax.tree.map(np.testing.assert_array_equal, permute(spec, P, moved), theta)


def test_noise_has_its_share_of_the_norm_of_every_leaf():
    _, spec, (theta, *_) = networks("blocks", Recovery(runs=1))
    (_, moved), (_, noisy) = (planted(spec, jax.random.key(0), theta, noise) for noise in (0.0, 0.1))
    for name, leaf in noisy.items():
        share = np.linalg.norm(leaf - moved[name]) / np.linalg.norm(moved[name])
        np.testing.assert_allclose(share, 0.1, rtol=1e-4)


def test_only_units_that_vary_are_told_apart_by_activations():
    correlation = {"a": np.array([[1.0, 0.0], [0.0, 0.0]])}
    by_activations, by_weights = Match({}, 0.0, {"correlation": correlation}), Match({}, 0.0, {"sweeps": 1})
    assert can_be_told(by_activations, "a", np.array([0, 1])).tolist() == [True, False]
    assert can_be_told(by_weights, "a", np.array([0, 1])).tolist() == [True, True]


def test_a_small_run_recovers_everything(capsys):
    main(Recovery(("mlp", "blocks"), noises=(0.0,), starts=("activations", "propagation"), restarts=(1,), runs=2))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0], row[2], row[4]) for row in rows] == [
        ("mlp", "activations", "2"),
        ("mlp", "propagation", "2"),
        ("blocks", "propagation", "2"),
    ]
