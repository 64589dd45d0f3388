"""Convolutional networks without batch norm: two from the TensorFlow tutorials, and one without biases."""

import flax.linen as nn
import jax

from mcjax.errors import InputError
from mcjax.models.base import Model, check_image_shape, make_model
from mcjax.models.convnets import feed_forward_spec
from mcjax.models.layers import Conv, activation, scaled


class PlainConvNet(nn.Module):
    """Convolutions, each with activation and max pooling of stride 2, hidden dense layers, and an output layer.

    Attributes:
        channels: Channels of the convolutions.
        hidden: Units of the hidden dense layers.
        num_classes: Number of outputs.
        activation: Activation of the hidden layers.
        window: Window of max pooling; 1: no pooling.
        dropout: Dropout rate before the output layer.
        size: Height and width of the kernels.
        bias: Whether convolutions and the output layer have biases.
    """

    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    num_classes: int
    activation: str
    window: int
    dropout: float
    size: int = 5
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        act = activation(self.activation)
        for i, features in enumerate(self.channels):
            init = nn.initializers.he_normal()
            x = act(Conv(features, self.size, 1, self.size // 2, self.bias, init, name=f"Conv_{i}")(x))
            self.sow("activations", f"conv_{i}", x)
            if self.window > 1:
                x = nn.max_pool(x, (self.window, self.window), (2, 2), "SAME")
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = act(nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"Dense_{i}")(x))
            self.sow("activations", f"dense_{i}", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, use_bias=self.bias, name=f"Dense_{len(self.hidden)}")(x)


def _plain(
    name: str,
    channels: tuple[int, ...],
    hidden: tuple[int, ...],
    window: int,
    num_classes: int,
    input_shape: tuple[int, ...],
    activation: str,
    width: float,
    dropout: float,
    size: int = 5,
    bias: bool = True,
) -> Model:
    check_image_shape(name, input_shape)
    if not 0 <= dropout < 1:
        raise InputError(f"got dropout={dropout}, expected it in [0, 1).")
    channels, hidden = (tuple(scaled(n, width) for n in each) for each in (channels, hidden))
    # Pixels of the last feature map: SAME pooling halves each side, rounded up.
    positions = 1
    for side in input_shape[:2]:
        for _ in channels if window > 1 else ():
            side = -(-side // 2)
        positions *= side
    spec = feed_forward_spec(len(channels), len(hidden), positions, norm=False, bias=bias)
    module = PlainConvNet(channels, hidden, num_classes, activation, window, dropout, size, bias)
    return make_model(module, spec, name, input_shape, num_classes)


def mnist_convnet(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    activation: str = "relu",
    width: float = 1.0,
    dropout: float = 0.5,
) -> Model:
    """Convolutions of 32 and 64 channels, and 1024 units with dropout: 3,274,634 parameters for 28x28 grey images.

    The arguments are those of `create`.
    """
    return _plain("mnist_convnet", (32, 64), (1024,), 2, num_classes, input_shape, activation, width, dropout)


def cifar_convnet(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    activation: str = "relu",
    width: float = 1.0,
    dropout: float = 0.0,
) -> Model:
    """Convolutions of 64 and 64 channels, then 384 and 192 units: 1,068,298 parameters for 24x24 colour images.

    It is Krizhevsky's network without local response normalisation, which couples neighbouring channels and so breaks
    the permutation symmetry. The arguments are those of `create`.
    """
    return _plain("cifar_convnet", (64, 64), (384, 192), 3, num_classes, input_shape, activation, width, dropout)


def filters_convnet(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    activation: str = "relu",
    width: float = 1.0,
) -> Model:
    """Three convolutions of 32 3x3 filters, no pooling, no biases: 269,600 parameters for 28x28 grey images.

    The arguments are those of `create`.
    Source: Kuditipudi et al. 2019, Explaining Landscape Connectivity of Low-cost Solutions, Figure 2.
    """
    return _plain("filters_convnet", (32,) * 3, (), 1, num_classes, input_shape, activation, width, 0.0, 3, False)
