"""Configurations of fits and of PAM: presets, how they are composed, and values that are refused."""

from dataclasses import fields

import numpy as np
import optax
import pytest
from refusals import says

from mcjax import SGD, FitConfig, InputError, PamConfig, TrainConfig
from mcjax.curves.config import PermutationFitConfig


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        (PamConfig, {"nu_P": 0.0}, "nu_P=0.0"),
        (PamConfig, {"nu_phi": -1.0}, "nu_phi=-1.0"),
        (PamConfig, {"nu_P": float("nan")}, "nu_P=nan"),
        (PamConfig, {"nu_P": "a"}, "nu_P='a'"),
        (PamConfig, {"iterations": 0}, "iterations=0"),
        (PamConfig, {"objective_examples": 0}, "objective_examples=0"),
        (PamConfig, {"objective_points": 1.5}, "objective_points=1.5"),
        (PamConfig, {"curve": TrainConfig()}, "TrainConfig"),
        (PamConfig, {"curve": PermutationFitConfig()}, "PermutationFitConfig"),
        (PamConfig, {"permutation": FitConfig()}, "expected PermutationFitConfig"),
        (PamConfig, {"norm_bound": 0.0}, "norm_bound=0.0"),
        (PamConfig, {"acceptance": "never"}, "always, descent, lookahead"),
        (PermutationFitConfig, {"learning_rate": 0.0}, "learning_rate=0.0"),
        (PermutationFitConfig, {"learning_rate": (0.1, -1.0)}, "learning_rate=-1.0"),
        (PermutationFitConfig, {"learning_rate": ()}, "learning_rate=()"),
        (PermutationFitConfig, {"schedule": "liner"}, "'linear'"),
        (PermutationFitConfig, {"decay": 1.5}, "decay=1.5"),
        (PermutationFitConfig, {"epochs": 0}, "epochs=0"),
        (PermutationFitConfig, {"annealing": 0.0}, "annealing=0.0"),
        (PermutationFitConfig, {"annealing": 1.5}, "annealing=1.5"),
        (PermutationFitConfig, {"samples": -1}, "samples=-1"),
        (PermutationFitConfig, {"projection": "dykstra"}, "'dykstra'"),
        (FitConfig, {"points_per_step": 0}, "points_per_step=0"),
        (FitConfig, {"epochs": 0}, "epochs=0"),
        (FitConfig, {"batch_size": 2.5}, "batch_size=2.5"),
        (FitConfig, {"steps_per_epoch": 0}, "steps_per_epoch=0"),
        (FitConfig, {"weight_decay": -1.0}, "weight_decay=-1.0"),
        (FitConfig, {"compute_dtype": "float16"}, "'float16'"),
        (FitConfig, {"optimizer": "sgd"}, "optax.sgd(1e-3)"),
    ],
)
def test_a_bad_config_is_named(kind, changes, named):
    with says(InputError, named):
        kind(**changes)


def test_presets_are_the_papers_and_a_short_one():
    paper = PamConfig.preset("paper", iterations=3)
    assert (paper.iterations, paper.permutation.epochs, paper.curve.epochs) == (3, 20, 40)
    assert PamConfig.preset("paper").iterations == PamConfig().iterations == 4
    assert paper.curve.optimizer == SGD(0.1, "halving")
    assert (PamConfig().curve.epochs, PamConfig().curve.optimizer) == (40, SGD())
    fast = PamConfig.preset("fast")
    assert (fast.iterations, fast.permutation.epochs, fast.curve.epochs) == (4, 4, 8)
    # A curve alone is fitted for as long as the paper's, which is not as long as its half-steps together.
    alone = FitConfig.preset("paper", batch_size=64)
    assert (alone.epochs, alone.optimizer, alone.batch_size, alone.weight_decay) == (200, SGD(0.1, "halving"), 64, 5e-4)
    assert FitConfig.preset("fast") == FitConfig()
    for kind, names in ((FitConfig, "fast, paper"), (PamConfig, "fast, paper, published")):
        with says(InputError, "'slow'", names):
            kind.preset("slow")


def test_the_published_scheme_is_that_of_the_paper_and_its_code():
    """One rate, halved from iteration to iteration, and 0.9996 an epoch; nothing is refused, tried or looked ahead."""
    published = PamConfig.preset("published")
    assert (published.iterations, published.permutation.epochs, published.curve.epochs) == (4, 20, 40)
    assert published.curve == FitConfig(40, optimizer=SGD(0.1, "halving", decay=0.9996))
    matrices = published.permutation
    assert (matrices.learning_rates, matrices.annealing, matrices.projection) == ((0.05,), 0.5, "alternating")
    assert (matrices.schedule, matrices.decay) == ("constant", 0.9996)
    # As in the code, where e counts the epochs of all half-steps: 0.5^floor(e / 20) 0.9996^e.
    in_code = [0.5**k * 0.9996 ** (20 * k) for k in range(4)]
    np.testing.assert_allclose([matrices.rate_factor(k) for k in range(4)], in_code)
    assert (matrices.regularized, matrices.samples, matrices.partial_moves) == (False, 0, False)
    assert (published.nu_P, published.nu_phi, published.acceptance) == (1e3, 1e3, "always")


def test_an_optimiser_of_optax_takes_the_place_of_the_papers():
    adam = optax.adam(1e-3)
    assert PamConfig(curve=FitConfig(epochs=5, optimizer=adam)).curve.optimizer is adam
    assert FitConfig.preset("paper", optimizer=adam).optimizer is adam


def test_every_option_belongs_to_one_config():
    """What a fit of a curve reads, the permutation half-step takes from it: batches and dtype are not said twice."""
    names = [{field.name for field in fields(kind)} for kind in (FitConfig, PermutationFitConfig, PamConfig)]
    assert names[0] & names[1] == {"epochs"}
    assert not names[2] & (names[0] | names[1])
