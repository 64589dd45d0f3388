"""Options that commands share: data by name, models, training, seeds, run folders by default."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from refusals import says

from mcjax import models
from mcjax.commands.connect import CurveTraining
from mcjax.commands.options import DataOptions, ModelOptions, TrainOptions, as_json, open_run, seed_key
from mcjax.curves import FitConfig
from mcjax.data import Augmentation
from mcjax.errors import InputError, RunError
from mcjax.training import SGD, TrainConfig

HALVING = SGD(schedule="halving")
GIVEN = ModelOptions(model="mlp", widths=(6, 5))


def test_data_without_a_name_is_asked_for(bars):
    for recorded in (None, {}):
        with pytest.raises(InputError, match="give --data"):
            DataOptions().load(recorded)
    for wanted in (0, -1, 121):
        with pytest.raises(InputError, match=f"has 120 train images: got {wanted}, expected 1 to 120"):
            DataOptions(data=str(bars), train_images=wanted).load()


def test_model_options_describe_what_create_takes(tiny_data, tiny_model):
    described = json.loads(json.dumps(GIVEN.describe(tiny_data)))
    assert models.create(described.pop("name"), described.pop("num_classes"), described.pop("input_shape"), **described)
    assert described == {"width": 1.0, "activation": "relu", "widths": [6, 5]}
    assert "widths" not in ModelOptions(model="tinysix").describe(tiny_data)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (TrainOptions(), TrainConfig(epochs=30, optimizer=SGD(0.1, "one_cycle"))),
        (TrainOptions(preset="paper"), TrainConfig(epochs=250, optimizer=HALVING)),
        (
            TrainOptions(epochs=3, batch_size=16, learning_rate=0.5, weight_decay=0.0),
            TrainConfig(epochs=3, batch_size=16, optimizer=SGD(0.5), weight_decay=0.0),
        ),
        (
            TrainOptions(preset="paper", learning_rate=0.5, compute_dtype="bfloat16"),
            TrainConfig(epochs=250, optimizer=SGD(0.5, "halving"), compute_dtype="bfloat16"),
        ),
        (CurveTraining(), FitConfig(epochs=30)),
        (CurveTraining(preset="paper"), FitConfig(epochs=200, optimizer=HALVING)),
        (CurveTraining(preset="paper", epochs=7, batch_size=5), FitConfig(7, 5, HALVING)),
    ],
)
def test_options_change_the_given_fields_of_the_preset(options, expected):
    assert options.change(type(expected).preset(options.preset)) == expected


def test_a_config_as_json_holds_the_options_of_its_optimizer():
    config, augmentation = TrainOptions(learning_rate=0.5).change(TrainConfig.preset("paper")), Augmentation(crop=2)
    described = json.loads(json.dumps(as_json(config, augmentation)))
    assert Augmentation(**described.pop("augmentation")) == augmentation
    assert TrainConfig(**{**described, "optimizer": SGD(**described["optimizer"])}) == config


def test_colour_images_are_augmented_unless_told_otherwise(tiny_data):
    colour = replace(tiny_data, train_images=np.repeat(tiny_data.train_images, 3, -1))
    assert TrainOptions().augmentation(colour) == Augmentation(crop=1)
    assert TrainOptions(flip="off", crop=0).augmentation(colour) == replace(Augmentation(), flip=False, crop=0)
    assert TrainOptions().augmentation(tiny_data) == Augmentation.none()
    turned = TrainOptions(flip="on", rotate=5.0).augmentation(tiny_data)
    assert turned == Augmentation(flip=True, crop=0, rotate=5.0)


def test_runs_without_out_are_told_apart_by_their_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, again, other = (open_run("match", None, {"seed": seed}).path for seed in (0, 0, 1))
    assert first == again != other
    assert first.parent.name == "runs"
    assert first.name.startswith("match-")
    assert open_run("match", str(tmp_path / "mine"), {"seed": 0}).path == tmp_path / "mine"
    with pytest.raises(InputError, match="another config"):
        open_run("connect", str(tmp_path / "mine"), {"seed": 0})
    with pytest.raises(RunError, match="cannot write"):
        open_run("match", "/dev/null/below", {})


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20])
def test_seeds_that_are_no_seeds_are_refused(seed):
    with pytest.raises(InputError, match=f"got seed={seed}, expected 0 to 4294967295"):
        seed_key(seed)


def test_every_seed_has_a_key_of_its_own():
    seeds = (0, 1, 2**31, 2**32 - 1)
    assert len({jax.random.key_data(seed_key(seed)).tobytes() for seed in seeds}) == len(seeds)


def test_a_data_set_is_known_by_its_images_and_not_by_its_path_alone(bars, tmp_path):
    arrays = dict(np.load(bars))
    changed = tmp_path / "changed.npz"
    marks = set()
    for pixel in (0, 0, 1):
        arrays["train_images"][3, 2, 1, 0] = pixel
        np.savez(changed, **arrays)
        marks.add(DataOptions(data=str(changed)).load()[1]["sha256"])
    assert len(marks) == 2


def test_recorded_data_that_can_bring_code_are_named_again(tmp_path, monkeypatch):
    """A set that somebody has prepared under another name holds the names of classes, which TFDS imports."""
    (tmp_path / "theirs").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("theirs", "no_such_set"):
        with says(InputError, f"--data {name}", "code"):
            DataOptions().load({"data": name, "data_dir": str(tmp_path)})


def test_data_that_changed_since_training_is_refused_unless_it_is_asked_for(bars, tmp_path):
    arrays = dict(np.load(bars))
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    _, recorded = DataOptions(data=str(path)).load()
    assert DataOptions().load(recorded)[1] == recorded
    arrays["test_images"][0] += 1
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="not what the networks were trained on"):
        DataOptions().load(recorded)
    assert DataOptions(data=str(path)).load(recorded)[1]["sha256"] != recorded["sha256"]
