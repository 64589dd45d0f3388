"""Settings of strings: refused by name where a string cannot be sampled with them."""

import math

import pytest
from refusals import says

from mcjax import InputError, TrainConfig
from mcjax.strings import StringConfig
from mcjax.training import Criterion


def test_the_criterion_is_of_the_config():
    settings = StringConfig(metric="error", split="test", images=7, calibration_images=5, evaluation_batch_size=3)
    assert settings.criterion == Criterion("error", "test", 7, 3, 5)
    assert isinstance(settings, TrainConfig)


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
    "images": (0, 2.5),
    "epochs": (0,),
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
        ({"metric": "accuracy"}, ("'accuracy'", "error, loss, perplexity")),
        ({"split": "tset"}, ("'tset'", "'test'")),
    ],
)
def test_names_that_are_not_known(changes, named):
    with says(InputError, *named):
        StringConfig(**changes)


def test_strings_have_no_presets():
    with says(InputError, "none"):
        StringConfig.preset("paper")


def test_planes_may_be_infinitely_stiff():
    assert StringConfig(kappa=math.inf).kappa == math.inf
