"""Examples from the host, in tests: arrays cut into batches, in order or in that of the epochs on arrays."""

import weakref

import jax
import numpy as np

from mcjax.data import Stream
from mcjax.training.loop import _epoch_order


def rows_of(arrays, rows):
    """Rows of every leaf, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], arrays)


class Source:
    """The examples of arrays in order, in batches of `size`, as a function of the number of the pass.

    Attributes:
        begun: The numbers of the passes that were begun, in order.
        asked: Number of batches that were asked for.
    """

    def __init__(self, arrays, size):
        self.arrays, self.size = arrays, size
        self.begun, self.asked = [], 0

    def order(self, number):
        return np.arange(len(jax.tree.leaves(self.arrays)[0]))

    def __call__(self, number):
        self.begun.append(number)
        order = self.order(number)
        for at in range(0, len(order), self.size):
            self.asked += 1
            yield rows_of(self.arrays, order[at : at + self.size])

    def stream(self, batches_per_block=None, batch_size=None):
        """A stream whose blocks are so many batches of this size, with the reads from here on counted."""
        memory = 1 << 28
        if batches_per_block is not None:
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.arrays)]
            example = sum(leaf[0].size * jax.dtypes.canonicalize_dtype(leaf.dtype).itemsize for leaf in leaves)
            memory = 4 * example * batch_size * batches_per_block
        found = Stream(self, memory=memory, name="the numbers")
        self.begun, self.asked = [], 0
        return found


class Epochs(Source):
    """The batches of the epochs on arrays, of a fit with this key, one pass an epoch."""

    def __init__(self, arrays, size, plan, key):
        super().__init__(arrays, size)
        self.plan, self.key = plan, key

    def order(self, number):
        n = len(jax.tree.leaves(self.arrays)[0])
        return np.asarray(_epoch_order(self.plan, n, jax.random.fold_in(self.key, number))[0]).ravel()


class Watched(Source):
    """A source that notes, at each batch, how many blocks are held on the host, and how many are on the device.

    Attributes:
        held: The blocks on the host, a `Held`.
        most: Number of blocks held, at each batch.
        on_device: Number of arrays of a block's shape on the device, at each batch.
    """

    def __init__(self, arrays, size, block):
        super().__init__(arrays, size)
        self.block, self.held, self.most, self.on_device = block, Held(), [], []

    def __call__(self, number):
        for batch in super().__call__(number):
            self.most.append(self.held.now())
            self.on_device.append(sum(leaf.shape == self.block for leaf in jax.live_arrays()))
            yield batch


class Held:
    """numpy, in place of that of `mcjax.data.blocks`, with an `empty` that notes what is made and held of it."""

    def __init__(self):
        self.made, self.lengths = [], []

    def empty(self, shape, dtype):
        """As that of numpy."""
        found = np.empty(shape, dtype)
        self.lengths.append(len(found))
        self.made.append(weakref.ref(found))
        return found

    def now(self):
        """The number of arrays that somebody holds."""
        return sum(each() is not None for each in self.made)

    def __getattr__(self, name):
        return getattr(np, name)


def from_host(task, *splits, size=17):
    """The task with these splits from the host, in batches of `size`, and the sources by split."""
    sources = {name: Source(task.split(name), size) for name in splits}
    return task.with_examples(**{name: source.stream() for name, source in sources.items()}), sources
