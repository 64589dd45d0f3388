"""Totals at many points against numpy, of arrays and of streams; what is read, compiled and held for them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from streams import Source, Watched, rows_of
from variables import spaced

from mcjax import InputError, make_mesh
from mcjax.data import Stream, blocks
from mcjax.runtime.memory import program_memory
from mcjax.training.batches import mean_of, moments_of
from mcjax.training.totals import Points, Reading, totals

RNG = np.random.default_rng(0)
N = 43
DATA = {"x": RNG.normal(2, 1, (N, 3)).astype(np.float32), "y": RNG.integers(0, 9, N).astype(np.int32)}
THETAS = RNG.normal(size=(5, 3)).astype(np.float32)
PAIRS = RNG.normal(size=(5, 2, 3)).astype(np.float32)
doubled = jax.tree_util.Partial(lambda theta: 2 * theta)


def on_batch(theta, batch, number):
    """A mean over the examples, the number of their batch, and moments of batches that have equal weight."""
    values = (batch["x"] * theta[None]).sum(1) * batch["y"]
    return {
        "mean": mean_of({"value": values.mean(), "number": 1.0 * number}, batch),
        "moments": moments_of(batch["x"] * theta[None]),
    }


def by_hand(sizes, thetas, data):
    """The totals of batches of these sizes in float64, (points[, pairs], ...)."""
    n = sum(sizes)
    x, y = np.float64(data["x"][:n]), data["y"][:n]
    numbers = np.arange(len(sizes)).repeat(sizes)
    scaled = x * 2 * np.float64(thetas)[..., None, :]
    return {
        "value": (scaled.sum(-1) * y).mean(-1),
        "number": np.full(thetas.shape[:-1], numbers.mean()),
        "mean": scaled.mean(-2),
        "variance": scaled.var(-2),
    }


def check(found, sizes, thetas, data=DATA):
    expected = by_hand(sizes, thetas, data)
    moments = found["moments"]
    got = {**found["mean"].value, "mean": moments.mean, "variance": moments.square / moments.samples[..., None]}
    for name, value in expected.items():
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found["mean"].examples, np.full(thetas.shape[:-1], sum(sizes)))


@pytest.mark.parametrize(
    ("reading", "of_arrays", "of_streams"),
    [
        (Reading(10), [10, 10, 10, 10, 3], [10, 10, 10, 10, 3]),
        (Reading(10, 25), [10, 10, 5], [10, 10, 5]),
        (Reading(10, 20), [10, 10], [10, 10]),
        (Reading(100), [43], [43]),
        (Reading(10, 7), [7], [7]),
        (Reading(10, 25, equal=True), [8, 8, 8], [8, 8, 8]),
        (Reading(10, 20, equal=True), [10, 10], [10, 10]),
        # More batches of this size are among the first examples than are taken.
        (Reading(8, 41, equal=True), [6] * 6, [6] * 6),
        (Reading(2, 5, equal=True), [1] * 3, [1] * 3),
        # A remainder is left out, and of a stream nobody knows before how large it will be.
        (Reading(10, equal=True), [8] * 5, [10] * 4),
        (Reading(100, equal=True), [43], [43]),
    ],
)
@pytest.mark.parametrize("pairs", [False, True], ids=["points", "pairs"])
def test_totals_are_those_of_the_batches(reading, of_arrays, of_streams, pairs):
    """Whatever the batches of the source and the blocks are; to the bit those of arrays, where the batches are.

    Fewer examples than all are evenly spaced in arrays, and the first ones of a stream.
    """
    thetas = PAIRS if pairs else THETAS
    points = Points(doubled, thetas, pairs, chunk=2)
    n = reading.examples or 43
    some = jax.tree.map(lambda leaf: spaced(leaf, n), DATA)
    check(totals(on_batch_, DATA, reading, points), of_arrays, thetas, some)
    on_arrays = totals(on_batch_, jax.tree.map(lambda leaf: leaf[:n], DATA), reading, points)
    for size, in_a_block in ((5, 2), (43, 1), (7, 100)):
        source = Source(DATA, size)
        found = totals(on_batch_, source.stream(in_a_block, reading.batch_size), reading, points)
        check(found, of_streams, thetas)
        assert source.begun == [0]
        if of_arrays == of_streams:
            for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(on_arrays), strict=True):
                np.testing.assert_array_equal(got, expected)


on_batch_ = jax.tree_util.Partial(on_batch)


def test_no_more_is_read_than_the_first_examples():
    source = Source(DATA, 4)
    totals(on_batch_, source.stream(1, 6), Reading(6, 12), Points(doubled, THETAS))
    assert (source.begun, source.asked) == ([0], 3)


def counted():
    """The function of a batch, and its calls."""
    calls = []

    def of_batch(theta, batch, number):
        calls.append(batch["x"].shape)
        return on_batch(theta, batch, number)

    return jax.tree_util.Partial(of_batch), calls


@pytest.mark.parametrize("pairs", [False, True], ids=["points", "pairs"])
def test_one_program_serves_all_whole_blocks_and_all_streams(compiled, pairs):
    """And another one the remainder; the first batch alone is traced for the shapes of the totals."""
    of_batch, calls = counted()
    points = Points(doubled, PAIRS if pairs else THETAS, pairs)
    compiled.clear()
    totals(of_batch, Source(DATA, 43).stream(2, 4), Reading(4, 40), points)
    traces, programs = len(calls), len(compiled)
    assert set(calls) == {(4, 3)}
    assert sum("_add_block" in name for name in compiled) == 1
    for n in (8, 24, 36):
        totals(of_batch, Source(DATA, 9).stream(2, 4), Reading(4, n), points)
    assert (len(calls), len(compiled)) == (traces, programs)
    totals(of_batch, Source(DATA, 9).stream(2, 4), Reading(4, 43), points)
    assert set(calls[traces:]) == {(3, 3)}
    assert sum("_add_block" in name for name in compiled) == 2


def test_a_check_is_given_the_program_of_a_block_once():
    given = []

    def check_program(program):
        compiled, arguments = program(2)
        given.append(program_memory(compiled, *arguments))

    for split in (DATA, Source(DATA, 9).stream(2, 4)):
        totals(on_batch_, split, Reading(4), Points(doubled, THETAS), check_program)
    assert len(given) == 2
    assert all(size > 0 for size in given)


def test_a_mesh_of_one_device_changes_nothing():
    mesh = make_mesh(devices=jax.devices()[:1])
    for reading in (Reading(10), Reading(10, 25, equal=True)):
        alone, meshed = (
            totals(on_batch_, Source(DATA, 7).stream(2, 10), reading, Points(doubled, PAIRS, True, 2, each))
            for each in (None, mesh)
        )
        for got, expected in zip(jax.tree.leaves(meshed), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_too_few_examples_are_told_and_errors_of_the_source_are_its_own():
    threads = set(threading.enumerate())
    with says(InputError, "got 43 examples", "the numbers", "at least 44"):
        totals(on_batch_, Source(DATA, 9).stream(), Reading(10, 44), Points(doubled, THETAS))

    class Short(list):
        begun = 0

        def __iter__(self):
            self.begun += 1
            return iter(self[: None if self.begun == 1 else 2])

    # By its length, where all of them are measured on: 8 batches of 5 and one of 3.
    short = Short(rows_of(DATA, slice(at, at + 5)) for at in range(0, 43, 5))
    with says(InputError, "got 10 examples", "the numbers", "at least 43"):
        totals(on_batch_, Stream(short, name="the numbers"), Reading(10), Points(doubled, THETAS))

    class Broken(Source):
        def __call__(self, number):
            for i, batch in enumerate(super().__call__(number)):
                if i == 3:
                    raise OSError("the disk is gone")
                yield batch

    with pytest.raises(OSError, match="the disk is gone"):
        totals(on_batch_, Broken(DATA, 9).stream(1, 4), Reading(4), Points(doubled, THETAS))
    assert not set(threading.enumerate()) - threads


def test_no_more_than_four_blocks_are_held(monkeypatch):
    """One is computed on, one is on its way, one is ready on the host and one is read; the device has two of them."""

    def slow(theta, batch, number):
        # Slower than the source, which would run ahead otherwise.
        x = jax.lax.fori_loop(0, 300, lambda i, x: jnp.tanh(x @ x.T @ x), batch)
        return mean_of(x.mean() * theta, batch)

    source = Watched(np.zeros((160, 64), np.float32), 5, (2, 5, 64))
    stream = source.stream(2, 5)
    monkeypatch.setattr(blocks, "np", source.held)
    totals(jax.tree_util.Partial(slow), stream, Reading(5), Points(doubled, THETAS[:1, 0]))
    assert len(source.held.made) == 16
    # The runtime may let go of a block a moment late.
    assert np.percentile(source.most, 90) <= 4
    assert max(source.on_device) <= 2
