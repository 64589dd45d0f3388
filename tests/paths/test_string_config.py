"""What a string cannot be sampled with."""

import math

import pytest

from mcjax import Criterion, InputError, StringConfig, TrainConfig


def test_the_criterion_is_of_the_config():
    settings = StringConfig(of="error", on="test", images=7, calibration_images=5, evaluation_batch_size=3)
    assert settings.criterion == Criterion("error", "test", 7, 3, 5)
    assert isinstance(settings, TrainConfig)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "got alpha=0.0, expected it to be between 0 and 1, both excluded"),
        ({"alpha": 1.0}, "got alpha=1.0"),
        ({"alpha": -0.5}, "got alpha=-0.5"),
        ({"alpha": math.nan}, "got alpha=nan"),
        ({"tolerance": -0.1}, "got tolerance=-0.1, expected it to be not negative and finite"),
        ({"noise": math.inf}, "got noise=inf"),
        ({"zeta": -1.0}, "got zeta=-1.0"),
        ({"zeta": math.inf}, "got zeta=inf"),
        ({"kappa": -1.0}, "got kappa=-1.0, expected it to be not negative; inf holds beads in the hyperplane"),
        ({"points": 2}, "got points=2, expected it to be a whole number of at least 3"),
        ({"scan_tolerance": 0.0}, "got scan_tolerance=0.0"),
        ({"certify": 0}, "got certify=0"),
        ({"beads": -1}, "got beads=-1"),
        ({"depth": -1}, "got depth=-1"),
        ({"chunk": 0}, "got chunk=0"),
        ({"insert": "midle"}, "unknown insert: got 'midle', .* Did you mean 'middle'"),
        ({"of": "accuracy"}, "unknown criterion: got 'accuracy', expected one of error, loss, perplexity"),
        ({"on": "tset"}, "unknown split: got 'tset', .* Did you mean 'test'"),
        ({"images": 0}, "got images=0, expected a whole number of at least 1"),
        ({"epochs": 0}, "got epochs=0"),
        ({"beads": 3.5}, "got beads=3.5, expected it to be a whole number"),
        ({"depth": math.inf}, "got depth=inf"),
        ({"points": 5.5}, "got points=5.5"),
        ({"chunk": 2.5}, "got chunk=2.5"),
        ({"images": 2.5}, "got images=2.5, expected a whole number"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        StringConfig(**changes)


def test_presets_are_not_of_strings():
    with pytest.raises(InputError, match="strings have none"):
        StringConfig.preset("paper")


def test_planes_may_be_infinitely_stiff():
    assert StringConfig(kappa=math.inf).kappa == math.inf
