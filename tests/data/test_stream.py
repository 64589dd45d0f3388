"""Streams against lists: what sources may be, the batches of epochs from any of them on, and what is refused."""

from collections import namedtuple
from itertools import islice, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import says
from streams import Held

from mcjax import InputError
from mcjax.data import Stream, blocks
from mcjax.data.blocks import Processes
from mcjax.data.examples import as_examples, few

Batch = namedtuple("Batch", ["x", "y"])
X, Y = np.arange(22.0).reshape(11, 2), np.arange(11)


def cut(sizes, x=X, y=Y):
    """Batches of these sizes."""
    at = np.cumsum([0, *sizes])
    return [(x[a:b], y[a:b]) for a, b in pairwise(at)]


def read(stream, rows, **options):
    """The examples of the blocks of a pass, and how many of each are filled."""
    blocks = list(stream.blocks(rows, **options))
    return [np.concatenate([block[i][:n] for block, n in blocks]) for i in range(2)], [n for _, n in blocks]


class Again:
    """An iterable that begins anew each time, and counts how often."""

    def __init__(self, batches):
        self.batches, self.begun = batches, 0

    def __iter__(self):
        self.begun += 1
        return iter(self.batches)


class Sized(Again):
    def __len__(self):
        return len(self.batches)


class Indexed:
    """What has a length and is indexed, and no iterator."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        assert i < len(self.items)
        return self.items[i]


class Unsized(Again):
    """A loader whose length is not known, as that of torch over an iterable data set."""

    def __len__(self):
        raise TypeError("object of type 'IterableDataset' has no len()")


class Endless(Again):
    """As a data set of grain that is repeated for ever."""

    def __len__(self):
        return 2**63 - 1


BATCHES = cut([4, 4, 3])
EXAMPLES = list(zip(X, Y, strict=True))


@pytest.mark.parametrize(
    ("source", "most"),
    [
        (Again(BATCHES), None),
        (Sized(BATCHES), 12),
        (Unsized(BATCHES), None),
        (Endless(BATCHES), None),
        (Indexed(BATCHES), 11),
        (BATCHES, 11),
        (Indexed(EXAMPLES), 11),
        (EXAMPLES, 11),
        (lambda: iter(BATCHES), None),
        (lambda: Sized(BATCHES), 12),
        (lambda number: Indexed(EXAMPLES), 11),
        (lambda *, shuffled=True: iter(BATCHES), None),
    ],
)
def test_sources_of_all_kinds_begin_anew_in_every_pass(source, most):
    stream = Stream(source)
    assert stream.most == most
    for number in range(3):
        (x, y), filled = read(stream, 5, number=number)
        assert filled == [5, 5, 1]
        np.testing.assert_array_equal(x, np.float32(X))
        np.testing.assert_array_equal(y, Y)


def test_a_function_may_take_the_number_of_the_pass():
    stream = Stream(lambda number: iter(cut([11], y=Y + 100 * number)))
    for number in (3, 0, 1):
        np.testing.assert_array_equal(read(stream, 4, number=number)[0][1], Y + 100 * number)


@pytest.mark.parametrize(
    "of",
    [tuple, list, lambda pair: Batch(*pair), lambda pair: {"x": pair[0], "deep": {"y": pair[1]}}],
    ids=["tuples", "lists", "named", "dicts"],
)
def test_batches_keep_their_structure(of):
    stream = Stream([of(batch) for batch in BATCHES])
    found = stream.first()
    assert jax.tree.structure(found) == jax.tree.structure(of(BATCHES[0])) == jax.tree.structure(stream.shapes)
    for got, leaf, shape in zip(*map(jax.tree.leaves, (found, of((X, Y)), stream.shapes)), strict=True):
        np.testing.assert_array_equal(got, leaf)
        assert got.dtype == shape.dtype == jax.dtypes.canonicalize_dtype(leaf.dtype)
        assert shape.shape == (4, *leaf.shape[1:])


def test_dtypes_are_those_of_the_device():
    batch = tuple(np.zeros(2, dtype) for dtype in (np.float64, np.int64, np.uint8, bool, jnp.bfloat16))
    stream = Stream([batch] * 2)
    expected = [np.float32, np.int32, np.uint8, np.bool_, jnp.bfloat16]
    assert [leaf.dtype for leaf in stream.shapes] == expected
    (block, _), *_ = stream.blocks(4)
    assert [leaf.dtype for leaf in block] == expected
    with jax.enable_x64(True):
        assert [leaf.dtype for leaf in Stream([batch]).shapes[:2]] == [np.float64, np.int64]


def test_the_first_examples_are_arrays():
    stream = Stream(Again(BATCHES))
    for n in (1, 4, 6, 11, 12, None):
        x, y = stream.first(n)
        np.testing.assert_array_equal(x, X[:n])
        np.testing.assert_array_equal(y, Y[:n])
    assert stream.first(6)[0].dtype == np.float32


def test_a_stream_has_no_leaves_and_its_shapes_are_those_of_a_batch():
    stream = Stream(BATCHES, name="numbers")
    assert jax.tree.leaves(stream) == []
    assert "numbers" in repr(stream)
    assert [leaf.shape for leaf in few(stream)] == [(4, 2), (4,)]
    assert [leaf.shape for leaf in few(Stream([(np.zeros((200, 2)), np.zeros(200))]))] == [(128, 2), (128,)]


def test_as_many_batches_as_fit_are_a_block():
    """A quarter of the memory each: 12 bytes an example."""
    for memory, size, most, expected in (
        (4 * 12 * 10, 2, None, 5),
        (4 * 12 * 10, 2, 3, 3),
        (4 * 12 * 11, 2, None, 5),
        (1, 2, None, 1),
        (4 * 12 * 10, 11, None, 1),
    ):
        assert Stream(BATCHES, memory=memory).batches_per_block(size, most) == expected


# The batches of epochs.


def numbers(lengths, sizes):
    """A source whose examples are numbers, 1000 a pass, and the list of the examples of a pass."""

    def examples(number):
        return 1000 * number + np.arange(lengths[number % len(lengths)])

    def source(number):
        x, size = examples(number), sizes[number % len(sizes)]
        return iter([x[at : at + size] for at in range(0, len(x), size)])

    return source, examples


def taken(stream, batch_size, steps, **options):
    """The batches of every epoch, from the blocks that they are given in."""
    epochs = [[]]
    for cut_ in stream.epochs(batch_size, steps, **options):
        if cut_ is None:
            epochs.append([])
        else:
            assert cut_.block.shape[1:] == (batch_size,)
            assert cut_.start == len(epochs[-1])
            assert 0 <= cut_.first < cut_.first + cut_.steps <= len(cut_.block)
            epochs[-1] += cut_.block[cut_.first : cut_.first + cut_.steps].tolist()
        if len(epochs) > options["total"] - options["done"]:
            break
    return epochs[:-1]


def by_hand(examples, batch_size, steps, passes, total):
    """The batches of all epochs, from lists."""

    def whole(number):
        x = examples(number).tolist()
        return [x[at : at + batch_size] for at in range(0, len(x) - batch_size + 1, batch_size)]

    if passes:
        return [whole(number)[:steps] for number in range(total)]
    batches = [batch for number in range(total * steps) for batch in whole(number)]
    return [batches[i * steps : (i + 1) * steps] for i in range(total)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(4, 23), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    batch_size=st.integers(1, 4),
    steps=st.integers(1, 7),
    passes=st.booleans(),
    batches=st.integers(1, 4),
    done=st.integers(0, 4),
)
def test_epochs_are_cut_the_same_from_any_of_them_on(lengths, sizes, batch_size, steps, passes, batches, done):
    source, examples = numbers(lengths, sizes)
    expected = by_hand(examples, batch_size, steps, passes, 4)

    def stream():
        found = Stream(source, memory=4 * 4 * batch_size * batches)
        assert found.batches_per_block(batch_size) == batches
        return found

    seen = stream()
    assert taken(seen, batch_size, steps, passes=passes, done=0, total=4) == expected
    # In another process, and in this one, which knows how long passes are.
    for each in (stream(), seen):
        assert taken(each, batch_size, steps, passes=passes, done=done, total=4) == expected[done:]


def test_passes_that_are_known_to_be_over_are_not_read_again():
    begun = []

    def source(number):
        begun.append(number)
        return iter([np.arange(6) + 10 * number])

    stream = Stream(source)
    assert taken(stream, 2, 4, passes=False, done=0, total=2)[1] == [[12, 13], [14, 15], [20, 21], [22, 23]]
    begun.clear()
    assert taken(stream, 2, 4, passes=False, done=1, total=2)[0] == [[12, 13], [14, 15], [20, 21], [22, 23]]
    assert begun[0] == 1


def test_a_generator_is_read_once():
    def batches():
        yield from ([4 * i + np.arange(4)] for i in range(3))

    assert taken(Stream(lambda: (batch for (batch,) in batches())), 3, 4, passes=True, done=0, total=2)
    generator = (batch for (batch,) in batches())
    stream = Stream(generator)
    epochs = stream.epochs(3, 4, passes=True, done=0, total=2)
    (block, first, steps, start), end = islice(epochs, 2)
    assert (first, steps, start, end) == (0, 4, 0, None)
    assert block.tolist() == np.arange(12).reshape(4, 3).tolist()
    with says(InputError, "pass 2", "a generator is read once", "function"):
        next(epochs)
    # So are its first examples.
    stream = Stream(batch for (batch,) in batches())
    np.testing.assert_array_equal(stream.first(5), np.arange(5))
    with says(InputError, "pass 1", "a generator is read once"):
        stream.first(5)


def test_a_source_that_ends_early_is_told_by_its_length():
    """A last batch may be smaller, and be missing."""

    class Short(Sized):
        def __iter__(self):
            self.begun += 1
            return iter(self.batches[: 3 if self.begun < 3 else 1])

    options = {"passes": True, "done": 0, "total": 2}
    source = Short([np.arange(4), np.arange(4), np.arange(1)])
    with says(InputError, "got 2 batches of 2", "the numbers", "pass 2", "at least 4"):
        taken(Stream(source, name="the numbers"), 2, 6, **options)
    # Steps that go on from pass to pass need no whole one.
    assert len(taken(Stream(source), 2, 3, **{**options, "passes": False})) == 2


@pytest.mark.parametrize(
    ("sizes", "batch_size", "words"),
    [
        # Estimates by length, first and last: 15, 15 and 31 examples of 21, 18 and 13.
        ((3, 9, 9), 2, ("more than 7 batches of 2", "no more")),
        ((3, 6, 9), 3, ("more than 5 batches of 3",)),
        ((10, 1, 1, 1), 3, ("got 4 batches of 3", "at least 10")),
    ],
)
def test_unequal_batches_are_told_where_an_epoch_is_a_pass(sizes, batch_size, words):
    source = [np.arange(size) for size in sizes]
    stream = Stream(source, name="the numbers")
    steps = stream.most // batch_size
    with says(InputError, "the numbers", "pass 1", "by its length", "steps_per_epoch", *words):
        taken(stream, batch_size, steps, passes=True, done=0, total=1)
    epochs = taken(stream, batch_size, 3, passes=False, done=0, total=1)
    assert epochs == by_hand(lambda number: np.concatenate(source), batch_size, 3, False, 1)
    # The number of examples may be said.
    stream = Stream(source, examples=sum(sizes))
    whole = sum(sizes) // batch_size
    epochs = taken(stream, batch_size, whole, passes=True, done=0, total=2)
    assert epochs == by_hand(lambda number: np.concatenate(source), batch_size, whole, True, 2)


def test_one_iterator_is_not_read_by_two_passes_at_once():
    """As that of a torch loader with persistent workers, which begins anew."""

    class Workers:
        def __iter__(self):
            return self

        def __next__(self):
            return next(self.batches)

    class Loader:
        workers = Workers()

        def __iter__(self):
            self.workers.batches = iter(BATCHES)
            return self.workers

    stream = Stream(Loader())
    for _ in range(2):
        np.testing.assert_array_equal(stream.first()[1], Y)
    first = stream.blocks(2)
    next(first)
    with says(InputError, "one iterator for two passes", "at once", "persistent_workers"):
        next(stream.blocks(2))
    first.close()
    np.testing.assert_array_equal(stream.first()[1], Y)


def test_a_function_of_one_iterator_is_read_once():
    generator = iter(BATCHES)
    stream = Stream(lambda: generator)
    np.testing.assert_array_equal(stream.first()[1], Y)
    with says(InputError, "a generator is read once"):
        stream.first()


def test_a_source_is_read_in_the_precision_of_its_reader():
    """A thread of its own would have that of the process."""
    with jax.enable_x64(True):
        stream = Stream(lambda: iter([jnp.asarray([0.1, 0.2])] * 2))
        assert stream.first().dtype == np.float64


def test_no_more_is_allocated_than_there_is(monkeypatch):
    held = Held()
    monkeypatch.setattr(blocks, "np", held)
    for source, most in ((BATCHES, 11), (lambda: iter(BATCHES), 4096)):
        assert len(Stream(source).first(10**9)[1]) == 11
        assert max(held.lengths) == most
        held.lengths.clear()


def test_a_pass_needs_a_whole_batch():
    for passes in (True, False):
        with says(InputError, "got 0 batches of 5", "pass 1", "a smaller batch_size"):
            taken(Stream(lambda: iter([np.arange(4)])), 5, 1, passes=passes, done=0, total=1)
    later = Stream(lambda number: iter([np.arange(4)] * (number < 2)))
    with says(InputError, "no example", "pass 3"):
        taken(later, 2, 2, passes=True, done=0, total=3)
    with says(InputError, "no example", "pass 1"):
        list(Stream(EmptyLater()).blocks(3))


class EmptyLater(Again):
    """One batch when it is looked at, and nothing but empty ones later."""

    def __init__(self):
        super().__init__([np.arange(3)])

    def __iter__(self):
        self.begun += 1
        return iter(self.batches if self.begun == 1 else [np.arange(0)] * 2)


def test_an_error_of_the_source_is_its_own_and_comes_in_turn():
    def source(number):
        yield np.arange(4)
        if number:
            raise OSError("the disk is gone")

    epochs = Stream(source).epochs(2, 2, passes=True, done=0, total=3)
    assert [given is None for given in islice(epochs, 2)] == [False, True]
    with pytest.raises(OSError, match="the disk is gone"):
        list(epochs)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"x": X, "y": Y}, ("{x: float64[11, 2], y: int64[11]}", "(float64[n, 2], int64[n])")),
        ([X, Y], ("[float64[11, 2], int64[11]]",)),
        (X, ("got float64[11, 2]",)),
        ((np.zeros((4, 3)), np.zeros(4, int)), ("float64[4, 3]", "float64[n, 2]")),
        ((np.float32(X), Y), ("got (float32[11, 2]", "expected", "(float64[n, 2]")),
        ((X, Y[:3]), ("float64[11, 2], int64[3]",)),
        ((X, np.array(["a"] * 11)), ("(float64[11, 2], str",)),
        ((X, None), ("(float64[11, 2], None)",)),
    ],
)
def test_batches_unlike_the_first_are_named(second, words):
    stream = Stream(lambda: iter([(X, Y), second]), name="the numbers")
    with says(InputError, "batch 2 of pass 3", "the numbers", *words):
        list(stream.blocks(4, number=2))


def test_the_last_batch_of_an_indexed_source_is_looked_at():
    with says(InputError, "(float64[11, 2], int64[3])", "the last batch", "the numbers"):
        Stream([(X, Y), (X, Y[:3])], name="the numbers")


def test_examples_unlike_the_first_are_named():
    with says(InputError, "batch 2 of pass 1", "(float64[3], int64[])", "expected", "(float64[2], int64[])"):
        list(Stream([(X[0], Y[0]), (np.zeros(3), Y[1])]).blocks(4))


class Tensor:
    """An array of another library, with dtypes of its own."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, f"torch.{values.dtype.name}"

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_arrays_of_other_libraries_are_taken_and_named():
    batches = [(Tensor(x), Tensor(y)) for x, y in BATCHES]
    np.testing.assert_array_equal(Stream(batches).first()[0], X)
    with says(InputError, "torch.float64[4, 2]", "torch.int64[3]"):
        Stream([(Tensor(X[:4]), Tensor(Y[:3]))])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], ("yield nothing",)),
        (lambda: iter(()), ("yield nothing",)),
        ([np.zeros((0, 3))], ("no example in the first batch",)),
        ([()], ("got () as the first batch",)),
        (["cat"], ("got str as the first batch",)),
        ([np.array(["2020-01-01"], "M8[D]")], ("datetime64[D][1]",)),
        ([np.zeros(3, [("a", "f4")])], ("void32[3]",)),
        ([(X, Y[:4])], ("(float64[11, 2], int64[4])", "(n, ...)")),
        (5, ("got a int", "an iterable")),
        (lambda: 5, ("got a int", "a function of one")),
    ],
)
def test_sources_of_anything_else_are_refused(source, words):
    with says(InputError, "the pictures", *words):
        Stream(source, name="the pictures")


def test_the_number_of_examples_may_be_said():
    for source in (lambda: iter(BATCHES), Again(BATCHES), Endless(BATCHES), Sized(BATCHES)):
        stream = Stream(source, examples=11)
        assert (stream.most, stream.least, stream.endless) == (11, 11, False)
    assert (Stream(Sized(BATCHES)).least, Stream(Indexed(BATCHES)).least, Stream(Again(BATCHES)).least) == (9, 11, 1)
    for examples in (0, 2.5):
        with says(InputError, f"examples={examples}"):
            Stream(BATCHES, examples=examples)
    with says(InputError, "got 5 batches of 2", "at least 6", "examples=n"):
        taken(Stream(BATCHES, examples=12), 2, 6, passes=True, done=0, total=1)


def test_memory_is_a_number_of_bytes():
    for memory in (0, -1, 1e9, None):
        with says(InputError, f"memory={memory!r}", "bytes"):
            Stream(BATCHES, memory=memory)


def test_what_yields_batches_is_told_from_arrays():
    for batches in (Again(BATCHES), Indexed(EXAMPLES), lambda: iter(BATCHES), iter(BATCHES)):
        found = as_examples("test", batches)
        assert isinstance(found, Stream)
        assert "the test batches" in repr(found)
    for kept in (None, (X, Y), [X, Y], {"x": X}, X, Stream(BATCHES)):
        assert as_examples("test", kept) is kept
    for wrong in (5, "text", [1, 2], (X, Y[:3])):
        with says(InputError, "test examples"):
            as_examples("test", wrong)


# Several processes.


def test_a_pass_is_over_for_all_processes_when_one_has_no_further_batch():
    """The other process has three batches a pass, where this one has five, in blocks of two."""
    theirs = iter([2] + [2, 1] * 3)  # the batches of a block, and those of each block
    stream = Stream(lambda number: iter([np.arange(10) + 10 * number]), memory=2 * 4 * 4 * 2 * 2)
    processes = Processes(2, lambda ours: min(ours, next(theirs)))
    epochs = taken(stream, 2, 5, passes=True, done=0, total=3, processes=processes)
    assert epochs == [[[10 * i + 2 * j, 10 * i + 2 * j + 1] for j in range(3)] for i in range(3)]


def test_a_process_that_fails_says_so_before_it_raises():
    def source(number):
        yield np.arange(4)
        if number:
            raise OSError("the disk is gone")

    given = []
    processes = Processes(2, lambda number: given.append(number) or number)
    with pytest.raises(OSError, match="disk"):
        taken(Stream(source), 2, 2, passes=True, done=0, total=2, processes=processes)
    assert given == [2, 2, 0, 2, -1]
    given.clear()
    with says(InputError, "got 0 batches"):
        taken(Stream(lambda: iter([np.arange(4)])), 5, 1, passes=True, done=0, total=1, processes=processes)
    assert given == [1, -1]
