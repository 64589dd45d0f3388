"""Evaluation at many points: memory against XLA's own account, one compilation, the defaults."""

import jax
import pytest
from variables import alive

from mcjax import InputError, evaluate_path, linear, plane, supervised
from mcjax.landscape.points import evaluation_config
from mcjax.runtime import memory
from mcjax.training import totals

DEFAULTS = {
    "pairs": False,
    "reestimate": True,
    "batch_size": 500,
    "calibration_examples": None,
    "chunk": None,
}


@pytest.fixture(scope="module")
def path(tiny_model):
    return linear(tiny_model.spec).bind(alive(tiny_model, 0), alive(tiny_model, 1))


@pytest.fixture
def needs(path, tiny_task, monkeypatch):
    """chunk -> the bytes of the program over 20 points, as a refusal names them to `gigabytes`."""

    def bytes_of(chunk):
        sizes = []
        with monkeypatch.context() as patch:
            patch.setattr(memory, "device_memory", lambda: 1)
            patch.setattr(memory, "gigabytes", lambda size: sizes.append(size) or "some")
            with pytest.raises(InputError):
                evaluate_path(tiny_task, path, 20, chunk=chunk)
        return sizes[0]

    return bytes_of


def test_a_chunk_that_would_fit_is_given_and_does_fit(needs, path, tiny_task, monkeypatch):
    small, large = needs(2), needs(16)
    # What is in memory at once grows with the chunk, by the first layer's activations at the least.
    assert large - small >= 14 * 120 * 6 * 4
    for limit in (small, large - 1):
        monkeypatch.setattr(memory, "device_memory", lambda limit=limit: limit)
        with pytest.raises(InputError, match=r"20 points with chunk=16 .* GB") as refused:
            evaluate_path(tiny_task, path, 20)
        chunk = int(str(refused.value).split("Give chunk=")[1].split(",")[0])
        assert 1 <= chunk < 16
        assert evaluate_path(tiny_task, path, 20, chunk=chunk).test_loss.shape == (20,)
    monkeypatch.setattr(memory, "device_memory", lambda: large)
    evaluate_path(tiny_task, path, 20)


def test_nothing_is_run_where_not_even_one_point_fits(path, tiny_model, tiny_data, monkeypatch):
    ran = []

    def apply(theta, x):
        jax.debug.callback(lambda: ran.append(1))
        return tiny_model.apply(theta, x)

    task = supervised(tiny_model._replace(apply=apply), tiny_data)
    monkeypatch.setattr(memory, "device_memory", lambda: 100)
    for chunk in (1, 3):
        with pytest.raises(InputError, match=f"chunk={chunk} .*batch_size below 500"):
            evaluate_path(task, path, 5, chunk=chunk)
    assert not ran
    monkeypatch.setattr(memory, "device_memory", lambda: None)
    evaluate_path(task, path, 5, chunk=1)
    jax.effects_barrier()
    assert ran


def test_a_program_is_compiled_once(path, tiny_model, tiny_data, compiled):
    task = supervised(tiny_model._replace(name="compiled once"), tiny_data)
    thetas = [alive(tiny_model, seed) for seed in range(3)]

    def both():
        evaluate_path(task, path, 5)
        plane(task, *thetas, 3)

    both()
    # One of the path and one of the plane.
    assert sum("_of_arrays" in name for name in compiled) == 2
    compiled.clear()
    both()
    # Tasks of the same functions share it.
    task = supervised(task.model, tiny_data)
    both()
    assert not compiled


def test_a_compiler_that_refuses_counts_as_too_much(path, tiny_task, monkeypatch):
    class Refusing:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory in compilation")

    monkeypatch.setattr(totals._of_arrays, "lower", lambda *args, **kwargs: Refusing(), raising=False)
    with pytest.raises(InputError, match="chunk=5 need more memory than"):
        evaluate_path(tiny_task, path, 5)


def test_defaults(tiny_task):
    config = evaluation_config(tiny_task, **DEFAULTS)
    assert (config.chunk, config.calibration_examples) == (None, None)
    assert config.splits == ("train", "test")
    assert evaluation_config(tiny_task, **DEFAULTS, splits="test").splits == ("test",)


def test_a_task_without_test_examples(tiny_task):
    task = tiny_task.replace(test=None)
    for splits in ("both", "train"):
        assert evaluation_config(task, **DEFAULTS, splits=splits).splits == ("train",)
    with pytest.raises(InputError, match="no test split"):
        evaluation_config(task, **DEFAULTS, splits="test")


def test_sizes_below_one_are_named(tiny_task):
    for name in ("chunk", "batch_size", "calibration_examples"):
        with pytest.raises(InputError, match=f"{name}=0"):
            evaluation_config(tiny_task, **{**DEFAULTS, name: 0})
