"""Quadratic losses of planted spectra."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

THETA = {"u": np.zeros((4, 2), np.float32), "v": np.zeros(4, np.float32)}
"""A tree of twelve parameters."""


def planted(values, seed=0):
    """A symmetric matrix of these eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return (q * values) @ q.T


def quadratic(a, theta):
    x, _ = ravel_pytree(theta)
    return x @ a @ x / 2


def form(a):
    """The loss x^T a x / 2 of a tree, in float32."""
    return jax.tree_util.Partial(quadratic, jnp.asarray(a, jnp.float32))
