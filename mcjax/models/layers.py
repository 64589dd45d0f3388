"""Activations and layers of the registered models."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mcjax.errors import InputError, unknown_name
from mcjax.models.estimation import estimating


def huberized_relu(x: jax.Array, delta: float = 0.1) -> jax.Array:
    """A ReLU with a continuous derivative: x^2 / (2 delta) on [0, delta], x - delta / 2 beyond.

    It is at most delta / 2 away from the ReLU. Theorem 3.1 of the source holds for it.
    Source: Tatro et al., submitted to ICLR 2020, Neuron Alignment, eq. 11.
    """
    inside = jnp.clip(x, 0, delta)
    return inside * inside / (2 * delta) + jnp.maximum(x - delta, 0)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "leaky_relu": nn.leaky_relu,
    "huberized_relu": huberized_relu,
    "linear": lambda x: x,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation function of this name; "huberized_relu(0.05)" is `huberized_relu` with delta=0.05.

    Raises:
        InputError: If there is no such activation, or delta is not positive.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    parametric = re.fullmatch(r"huberized_relu\(([^()]+)\)", name)
    if not parametric:
        raise unknown_name("activation", name, ACTIVATIONS)
    try:
        delta = float(parametric[1])
    except ValueError:
        delta = math.nan
    if not 0 < delta < math.inf:
        raise InputError(f"got delta={parametric[1]} for huberized_relu, expected a positive number.")
    return partial(huberized_relu, delta=delta)


INITIALIZERS = {
    "xavier": nn.initializers.xavier_normal(),
    "kaiming": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
}


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width multiplier, rounded, at least 1."""
    return max(1, round(channels * width))


def along_last(vector: jax.Array, ndim: int) -> jax.Array:
    """A vector (c,) reshaped to (1, ..., 1, c) with `ndim` axes, to broadcast along the last one."""
    return vector.reshape((1,) * (ndim - 1) + (-1,))


class Conv(nn.Module):
    """A square 2-D convolution: kernel (size, size, in, features) and, with `use_bias`, bias (features).

    Attributes:
        features: Number of output channels.
        size: Height and width of the kernel.
        stride: Stride of both axes.
        padding: Zeros added to each side.
        use_bias: Whether there is a bias.
        kernel_init: Initializer of the kernel.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Any] = nn.initializers.xavier_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        padding = ((self.padding, self.padding), (self.padding, self.padding))
        x = jax.lax.conv_general_dilated(
            x, kernel.astype(x.dtype), (self.stride, self.stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + along_last(bias.astype(x.dtype), x.ndim)
        return x


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    With `train`, it normalises by the mean and the biased variance of the batch, and writes these to `batch_stats`
    without averaging; running averages are up to the caller. Otherwise it normalises by `batch_stats`.

    Attributes:
        epsilon: Added to the variance.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        stored_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        stored_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if train:
            axes = tuple(range(x.ndim - 1))
            exact = x.astype(stored_mean.value.dtype)
            mean = exact.mean(axes)
            if estimating():
                var = jnp.square(exact - along_last(mean, x.ndim)).mean(axes)
            else:
                # The biased variance, E[x^2] - E[x]^2, in one pass.
                var = jnp.maximum(jnp.square(exact).mean(axes) - jnp.square(mean), 0)
            if not self.is_initializing():
                stored_mean.value, stored_var.value = mean, var
        else:
            mean, var = stored_mean.value, stored_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        shift = bias - mean * factor
        return x * along_last(factor.astype(x.dtype), x.ndim) + along_last(shift.astype(x.dtype), x.ndim)
