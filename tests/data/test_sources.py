"""Loaders of other libraries, and sources that are no loaders: a `Stream` has their examples, pass by pass."""

import multiprocessing
from contextlib import closing

import numpy as np
import pytest
from refusals import says

from mcjax import InputError, Task, evaluate
from mcjax.data import Stream

N = 23
X = np.arange(2 * N, dtype=np.uint8).reshape(N, 2)
Y = np.arange(N, dtype=np.int32)
FORKS = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore:.*use of fork:DeprecationWarning")


class Examples:
    """Examples by number, as the sources of grain, torch and TFDS are."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        if not 0 <= i < N:
            raise IndexError(i)
        return X[i], Y[i]


def numbers(batches):
    """The numbers of the examples of batches, or of single examples, whose parts belong together."""
    pairs = [(np.asarray(x).reshape(-1, 2), np.asarray(y).reshape(-1)) for x, y in batches]
    assert all((x == X[y]).all() for x, y in pairs)
    return np.concatenate([y for _, y in pairs])


def streamed(source, steps=None):
    """The numbers of the examples of two epochs of batches of four, as a fit reads them: passes, or so many steps."""
    epochs = [[], []]
    with closing(Stream(source).epochs(4, steps or 9, passes=steps is None, done=0, total=2)) as cuts:
        for epoch in epochs:
            for cut in iter(lambda: next(cuts), None):
                epoch.append([leaf[cut.first : cut.first + cut.steps] for leaf in cut.block])
    return [numbers(epoch) for epoch in epochs]


def check(loader, again):
    """The examples of a loader in both passes, and those of one that is made anew for the first."""
    order = numbers(again)
    for each in streamed(loader):
        np.testing.assert_array_equal(each, order[: len(order) // 4 * 4])
    np.testing.assert_array_equal(numbers([Stream(loader).first()]), order)


def check_passes(of_pass):
    """The examples of a function of the number of a pass, whose orders differ."""
    passes = streamed(of_pass)
    for number, each in enumerate(passes):
        np.testing.assert_array_equal(each, numbers(of_pass(number))[:20])
    assert (passes[0] != passes[1]).any()


def test_loaders_of_grain():
    grain = pytest.importorskip("grain")
    examples = grain.MapDataset.source(Examples())
    shuffled = examples.seed(0).shuffle()
    for loader in (examples, shuffled.batch(5), shuffled.batch(5, drop_remainder=True).to_iter_dataset()):
        check(loader, loader)
    sampler = grain.samplers.IndexSampler(N, shuffle=True, num_epochs=1, seed=0)
    operations = [grain.transforms.Batch(5)]
    loader = grain.DataLoader(data_source=Examples(), sampler=sampler, operations=operations, worker_count=0)
    check(loader, loader)
    check_passes(lambda number: examples.seed(number).shuffle().batch(5))


def test_a_loader_of_grain_that_never_ends():
    grain = pytest.importorskip("grain")
    endless = grain.MapDataset.source(Examples()).repeat().batch(5)
    np.testing.assert_array_equal(np.concatenate(streamed(endless, 7)), np.arange(56) % N)
    task = Task(lambda theta, batch, key: theta.sum() * batch[0].mean(), train=endless)
    with says(InputError, "train"):
        evaluate(task, np.zeros(2))


@FORKS
def test_loaders_of_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

    class Numbered(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return torch.from_numpy(X[i]), int(Y[i])

    class Unknown(IterableDataset):
        def __iter__(self):
            return map(Numbered().__getitem__, range(N))

    tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    for data in (tensors, Numbered(), Unknown()):
        check(data, Unknown())
        check(DataLoader(data, 5), DataLoader(data, 5))
    check(DataLoader(tensors, 5, drop_last=True), DataLoader(tensors, 5, drop_last=True))
    check(DataLoader(tensors, 5, num_workers=2), DataLoader(tensors, 5))

    def shuffled(number):
        return DataLoader(tensors, 5, shuffle=True, generator=torch.Generator().manual_seed(number))

    check_passes(shuffled)
    with says(InputError, "Tensor"):
        Task(lambda theta, batch, key: theta.sum(), train=(torch.from_numpy(X), Y))


@FORKS
def test_processes_that_a_source_forks_end_well():
    """Those of a loader's workers: a pool's thread, in which they would be forked, fails in them when they end."""
    codes = []

    def forking():
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        process.join()
        codes.append(process.exitcode)
        yield X, Y

    streamed(forking)
    assert codes == [0] * 3


def test_sources_without_a_library(tmp_path):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    check(Examples(), zip(X, Y, strict=True))
    check(lambda: zip(x, Y, strict=True), zip(X, Y, strict=True))
    check(lambda of=5: ((x[at : at + of], Y[at : at + of]) for at in range(0, N, of)), zip(X, Y, strict=True))

    def shuffled(number):
        order = np.random.default_rng(number).permutation(N)
        return ((x[order[at : at + 5]], Y[order[at : at + 5]]) for at in range(0, N, 5))

    check_passes(shuffled)
