"""Attacks on images: perturbations within a ball that raise the loss of a network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mcjax.errors import InputError, check_fields, check_positive, check_whole


@dataclass(frozen=True)
class PgdAttack:
    """Projected gradient descent in the maximum norm, on pixels in [0, 1].

    Every step adds `step_size` times the sign of the gradient of the loss, and projects back onto the ball and [0, 1].
    The defaults are those of Tatro et al., NeurIPS 2020, "Optimizing Mode Connectivity via Neuron Alignment", on CIFAR.
    On Tiny ImageNet they have epsilon = 4 / 255 and steps of 1 / 255.
    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".

    Attributes:
        epsilon: Radius of the ball.
        step_size: Change of a pixel in one step.
        steps: Number of steps; each costs a forward and a backward pass.
        random_start: Whether the first point is drawn uniformly from the ball, rather than the image itself.
    """

    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 5
    random_start: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        check_whole("steps", self.steps)
        for name in ("epsilon", "step_size"):
            value = getattr(self, name)
            check_positive(name, value)
            if value > 1:
                raise InputError(f"got {name}={value}, expected at most 1: pixels are in [0, 1].")

    def __call__(
        self, key: jax.Array, x: jax.Array, loss: Callable[[jax.Array], jax.Array], mean: Any, std: Any
    ) -> jax.Array:
        """The attacked images; they are constants of derivatives. Pure.

        Args:
            key: Typed key of the random start.
            x: Normalised images, float (n, h, w, c).
            loss: The loss of normalised images, a scalar.
            mean: The mean of pixels by which images are normalised, (c,).
            std: Their standard deviation, (c,).

        Returns:
            Normalised images, in the shape and dtype of x.
        """
        shape = (1,) * (x.ndim - 1) + (-1,)
        mean, std = (jnp.asarray(each, x.dtype).reshape(shape) for each in (mean, std))
        radius, step = self.epsilon / std, self.step_size / std
        low, high = jnp.maximum(x - radius, -mean / std), jnp.minimum(x + radius, (1 - mean) / std)
        start = x
        if self.random_start:
            start = jnp.clip(x + radius * jax.random.uniform(key, x.shape, x.dtype, -1, 1), low, high)

        def ascend(_: int, at: jax.Array) -> jax.Array:
            return jnp.clip(at + step * jnp.sign(jax.grad(loss)(at)), low, high)

        return jax.lax.stop_gradient(jax.lax.fori_loop(0, self.steps, ascend, start))
