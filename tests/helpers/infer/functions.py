"""Functions traced once, permutations that move every group, and how far outputs are apart."""

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun


def traced(fn, *args):
    """`fn` as it is for arguments of these shapes; tracing a module takes most of the time, so it is done once."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return lambda *args: jax.tree.unflatten(jax.tree.structure(shape), jaxpr_as_fun(closed)(*jax.tree.leaves(args)))


def moving(sizes, seed):
    """A random permutation of every group that is not the identity."""
    rng = np.random.default_rng(seed)
    P = {group: rng.permutation(n) for group, n in sizes.items()}
    return {group: np.roll(p, (p == np.arange(len(p))).all()) for group, p in P.items()}


def difference(before, after):
    """How far `after` is from `before`, relative to its largest value."""
    before, after = np.asarray(before), np.asarray(after)
    assert np.isfinite(before).all()
    return np.abs(before - after).max() / (np.abs(before).max() + 1e-6)
