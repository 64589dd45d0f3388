"""Losses of known shape: planted spectra, models whose parameters are a point, and profiles along segments."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from mcjax import data, models
from mcjax.strings import StringConfig
from mcjax.strings.scan import Scan
from mcjax.training import Criterion, TrainConfig, supervised

# Few steps an epoch, so that a bead stops as soon as it is low enough.
TRAINING = {"epochs": 200, "batch_size": 1, "steps_per_epoch": 5, "weight_decay": 0.0}
# One object for each rate, so that fits share programs.
adam = cache(optax.adam)


def landscape(residuals, size):
    """A task whose networks have `size` parameters, with the mean of the squares of `residuals(point)` as the loss."""
    count = jax.eval_shape(residuals, jax.ShapeDtypeStruct((size,), jnp.float32)).shape[0]

    def init(key):
        return {"point": jax.random.normal(key, (size,))}

    def apply(theta, x):
        return jnp.broadcast_to(residuals(theta["point"])[None], (len(x), count))

    model = models.from_function(init, apply, jax.ShapeDtypeStruct((1, 1), jnp.float32))
    zero = np.zeros((1, 1))
    return supervised(model, data.regression(zero, np.zeros((1, count)), zero, np.zeros((1, count)), "landscape"))


def at(*point):
    """The network at this point."""
    return {"point": np.array(point, np.float32)}


def config(learning_rate=0.01, **changes):
    """The settings of strings in these tests; changes may be of them, of their training and of their criterion."""

    def of(kind):
        return {name: changes.pop(name) for name in tuple(changes) if name in kind.__dataclass_fields__}

    training = TrainConfig(**{**TRAINING, "optimizer": adam(learning_rate), **of(TrainConfig)})
    return StringConfig(**{"training": training, "criterion": Criterion(**of(Criterion)), **changes})


def heights(loss, string, points=2001):
    """The highest value on a grid over every segment of a string; the loss takes numpy points along the last axis."""
    knots, ts = np.asarray(string.knots["point"], np.float64), np.linspace(0, 1, points)[:, None, None]
    return loss((1 - ts) * knots[:-1] + ts * knots[1:]).max(0)


def ring(points):
    """The loss of `RING`, in numpy."""
    return np.square(np.square(points).sum(-1) - 1)


BOWL = landscape(lambda point: point, 2)
# Zero on the unit circle.
RING = landscape(lambda point: (jnp.sum(point**2) - 1)[None], 2)
# Zero at (-1, 0) and (1, 0); every way between them passes x = 0, where the mean of squares is at least 1/2.
WELLS = landscape(lambda point: jnp.array([point[0] ** 2 - 1, point[1]]), 2)


def bump(x, center, width, height=1.0):
    return height * jnp.exp(-(((x - center) / width) ** 2))


PROFILES = {
    "smooth": lambda x: bump(x, 0.37, 0.3),
    "narrow": lambda x: bump(x, 0.513, 0.02),  # less wide than the first grid's spacing
    "two, the narrow one higher": lambda x: bump(x, 0.2, 0.2) + bump(x, 0.77, 0.015, 1.3),
    "slope": lambda x: 0.1 + x,
    "cusp": lambda x: 1 / (1 + 10 * jnp.abs(x - 0.6123)),
    "waves": lambda x: 1.1 + jnp.sin(25 * x) * x,
    "spike": lambda x: bump(x, 0.525, 0.012),
    "end": lambda x: 0.01 + x**8,
    "flat": lambda x: 0.5 + 0 * x,
    "stairs": lambda x: jnp.round(50 * bump(x, 0.4, 0.3)) / 50,  # shares of 50 images
    "infinite": lambda x: jnp.where(jnp.abs(x - 0.5) < 0.1, jnp.inf, x),
}
NAMES = list(PROFILES)


def profile(point):
    """The loss at (x, k) is the k-th profile at x, as the square of what is returned: one task for all of them."""
    number = jnp.round(point[1]).astype(jnp.int32)
    return jnp.sqrt(jax.lax.switch(number, list(PROFILES.values()), point[0]))[None]


PROFILE_TASK = landscape(profile, 2)


def scan(chunk=None, points=21, tolerance=0.01):
    return Scan(PROFILE_TASK, Criterion(), points, tolerance, 0.0, chunk)


def segments(name, *ends):
    """Starts and ends of segments of a profile, from pairs of x."""
    return tuple([at(end[side], NAMES.index(name)) for end in ends or [(0, 1)]] for side in (0, 1))


def exact(name, start=0.0, end=1.0, points=200_001):
    ts = np.linspace(0, 1, points)
    values = np.asarray(jax.vmap(PROFILES[name])(start + (end - start) * ts))
    return float(values.max()), ts[int(values.argmax())]


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
