"""Evaluation at many points: memory against XLA's own account, one compilation, the defaults."""

import jax
import pytest
from variables import alive

from mcjax import InputError, evaluate_path, linear, models, plane
from mcjax.landscape import points
from mcjax.landscape.points import evaluation_config
from mcjax.runtime import memory

DEFAULTS = {
    "pairs": False,
    "reestimate": True,
    "batch_size": 500,
    "calibration_images": None,
    "augmentation": None,
    "chunk": None,
}


@pytest.fixture(scope="module")
def path(tiny_model):
    return linear(tiny_model.spec).bind(alive(tiny_model, 0), alive(tiny_model, 1))


@pytest.fixture
def needs(path, tiny_model, tiny_data, monkeypatch):
    """chunk -> the bytes of the program over 20 points, as a refusal names them to `gigabytes`."""

    def bytes_of(chunk):
        sizes = []
        with monkeypatch.context() as patch:
            patch.setattr(memory, "device_memory", lambda: 1)
            patch.setattr(memory, "gigabytes", lambda size: sizes.append(size) or "some")
            with pytest.raises(InputError):
                evaluate_path(tiny_model, path, tiny_data, 20, chunk=chunk)
        return sizes[0]

    return bytes_of


def test_a_chunk_that_would_fit_is_given_and_does_fit(needs, path, tiny_model, tiny_data, monkeypatch):
    small, large = needs(2), needs(16)
    # What is in memory at once grows with the chunk, by the first layer's activations at the least.
    assert large - small >= 14 * 120 * 6 * 4
    for limit in (small, large - 1):
        monkeypatch.setattr(memory, "device_memory", lambda limit=limit: limit)
        with pytest.raises(InputError, match=r"20 points with chunk=16 .* GB") as refused:
            evaluate_path(tiny_model, path, tiny_data, 20)
        chunk = int(str(refused.value).split("Give chunk=")[1].split(",")[0])
        assert 1 <= chunk < 16
        assert evaluate_path(tiny_model, path, tiny_data, 20, chunk=chunk).test_loss.shape == (20,)
    monkeypatch.setattr(memory, "device_memory", lambda: large)
    evaluate_path(tiny_model, path, tiny_data, 20)


def test_nothing_is_run_where_not_even_one_point_fits(path, tiny_model, tiny_data, monkeypatch):
    ran = []

    def apply(theta, x):
        jax.debug.callback(lambda: ran.append(1))
        return tiny_model.apply(theta, x)

    model = tiny_model._replace(apply=apply)
    monkeypatch.setattr(memory, "device_memory", lambda: 100)
    for chunk in (1, 3):
        with pytest.raises(InputError, match=f"chunk={chunk} .*batch_size below 500"):
            evaluate_path(model, path, tiny_data, 5, chunk=chunk)
    assert not ran
    monkeypatch.setattr(memory, "device_memory", lambda: None)
    evaluate_path(model, path, tiny_data, 5, chunk=1)
    jax.effects_barrier()
    assert ran


def test_a_program_is_compiled_once(path, tiny_model, tiny_data, compiled):
    model = tiny_model._replace(name="compiled once")
    thetas = [alive(tiny_model, seed) for seed in range(3)]

    def both():
        evaluate_path(model, path, tiny_data, 5)
        plane(model, *thetas, tiny_data, 3)

    both()
    assert sum("_values" in name for name in compiled) == 2
    compiled.clear()
    both()
    assert not compiled


def test_a_compiler_that_refuses_counts_as_too_much(path, tiny_model, tiny_data, monkeypatch):
    class Refusing:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory in compilation")

    monkeypatch.setattr(points._values, "lower", lambda *args, **kwargs: Refusing(), raising=False)
    with pytest.raises(InputError, match="chunk=5 need more memory than"):
        evaluate_path(tiny_model, path, tiny_data, 5)


def test_defaults_depend_on_the_model_and_the_data(tiny_model, tiny_data, tiny_colour_data):
    config = evaluation_config(tiny_model, tiny_data, **DEFAULTS)
    assert (config.chunk, config.calibration_images) == (16, 120)
    assert config.augmentation == tiny_data.default_augmentation()
    assert config.metrics == ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    test = evaluation_config(tiny_model, tiny_data, **DEFAULTS, splits="test")
    assert test.metrics == ("test_loss", "test_accuracy")
    if jax.default_backend() == "cpu":
        convolutional = models.create("tinysix", 3, (8, 8, 3), width=0.25)
        assert evaluation_config(convolutional, tiny_colour_data, **DEFAULTS).chunk == 1


def test_sizes_below_one_are_named(tiny_model, tiny_data):
    for name in ("chunk", "batch_size", "calibration_images"):
        with pytest.raises(InputError, match=f"{name}=0"):
            evaluation_config(tiny_model, tiny_data, **{**DEFAULTS, name: 0})
