"""Configurations of fits and of PAM: presets, and values that are refused."""

import pytest
from refusals import says

from mcjax import FitConfig, InputError, PamConfig


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"nu_P": 0.0}, "nu_P=0.0"),
        ({"nu_phi": -1.0}, "nu_phi=-1.0"),
        ({"nu_P": float("nan")}, "nu_P=nan"),
        ({"nu_P": "a"}, "nu_P=a"),
        ({"permutation_learning_rate": 0.0}, "permutation_learning_rate=0.0"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
        ({"iterations": 0}, "iterations=0"),
        ({"permutation_epochs": 0}, "permutation_epochs=0"),
        ({"annealing": 0.0}, "annealing=0.0"),
        ({"annealing": 1.5}, "annealing=1.5"),
        ({"samples": -1}, "samples=-1"),
        ({"objective_images": 0}, "objective_images=0"),
        ({"objective_points": 1.5}, "objective_points=1.5"),
        ({"rounding": "sample"}, "'sampled'"),
        ({"projection": "dykstra"}, "'dykstra'"),
    ],
)
def test_a_bad_config_is_named(changes, named):
    with says(InputError, named):
        PamConfig(**changes)


def test_presets_are_the_papers_and_a_short_one():
    paper = PamConfig.preset("paper", batch_size=64)
    assert (paper.iterations, paper.permutation_epochs, paper.epochs) == (4, 20, 40)
    assert (paper.schedule, paper.batch_size) == ("halving", 64)
    assert PamConfig.preset("fast").epochs < paper.epochs
    with says(InputError, "'slow'"):
        PamConfig.preset("slow")


def test_a_fit_averages_over_at_least_one_point():
    with says(InputError, "points_per_step=0"):
        FitConfig(points_per_step=0)
