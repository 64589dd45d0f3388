"""Settings of strings: their defaults, and what is refused by name."""

import math

import pytest
from refusals import says

from mcjax import InputError, TrainConfig
from mcjax.strings import StringConfig
from mcjax.training import Criterion


def test_the_defaults_are_one_object():
    # Fits share programs by their optimiser object.
    one, other = StringConfig(), StringConfig(depth=3)
    assert one.training is other.training
    assert hash(one) == hash(StringConfig())
    assert one == StringConfig()
    assert (one.training.epochs, one.training.weight_decay, one.criterion) == (100, 0.0, Criterion("loss", "train"))


NAN, INF = math.nan, math.inf
OUT_OF_RANGE = {
    "alpha": (0.0, 1.0, -0.5, NAN),
    "tolerance": (-0.1,),
    "noise": (INF,),
    "zeta": (-1.0, INF),
    "kappa": (-1.0,),
    "scan_points": (2, 5.5),
    "scan_tolerance": (0.0,),
    "verification_density": (0,),
    "beads": (-1, 3.5),
    "depth": (-1, INF),
    "chunk": (0, 2.5),
}


@pytest.mark.parametrize("option", OUT_OF_RANGE)
def test_numbers_out_of_range_are_named(option):
    for value in OUT_OF_RANGE[option]:
        with says(InputError, f"{option}={value}", "expected"):
            StringConfig(**{option: value})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"insert": "midle"}, ("'midle'", "'middle'")),
        ({"training": {"epochs": 3}}, ("'epochs': 3", "training", "TrainConfig")),
        ({"training": Criterion()}, ("Criterion(", "training", "TrainConfig")),
        ({"criterion": "error"}, ("'error'", "criterion", "Criterion")),
        ({"criterion": TrainConfig()}, ("TrainConfig(", "criterion", "Criterion")),
    ],
)
def test_other_settings_are_named(changes, named):
    with says(InputError, *named):
        StringConfig(**changes)


def test_planes_may_be_infinitely_stiff():
    assert StringConfig(kappa=math.inf).kappa == math.inf
