"""Segments whose loss has a known profile: bumps, spikes, stairs."""

import jax
import jax.numpy as jnp
import numpy as np
from landscapes import at, landscape

from mcjax.strings.scan import Scan
from mcjax.training import Criterion


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


TASK = landscape(profile, 2)


def scan(chunk=None, points=21, tolerance=0.01):
    return Scan(TASK, Criterion(), points, tolerance, 0.0, chunk)


def segments(name, *ends):
    """Starts and ends of segments of a profile, from pairs of x."""
    return tuple([at(end[side], NAMES.index(name)) for end in ends or [(0, 1)]] for side in (0, 1))


def exact(name, start=0.0, end=1.0, points=200_001):
    ts = np.linspace(0, 1, points)
    values = np.asarray(jax.vmap(PROFILES[name])(start + (end - start) * ts))
    return float(values.max()), ts[int(values.argmax())]
