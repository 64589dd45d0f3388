"""Feed-forward convolutional networks: TinySix, TinyTen, VGG11 and VGG16 with batch normalisation."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax

from mcjax.errors import InputError
from mcjax.models.base import Model, check_image_shape, make_model
from mcjax.models.layers import INITIALIZERS, BatchNorm, Conv, activation, scaled
from mcjax.symmetry import Axis, PermutationSpec, layer_specs


class Layer(NamedTuple):
    """One convolution with batch norm and activation.

    Attributes:
        features: Number of channels.
        size: Height and width of the kernel.
        stride: Stride of both axes.
        padding: Zeros added to each side.
        pool: Whether 2x2 max pooling follows.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    pool: bool = False


class ConvNet(nn.Module):
    """Convolutions with batch norm, global average pooling, hidden dense layers, and an output layer.

    Attributes:
        layers: The convolutions.
        hidden: Units of the hidden dense layers.
        num_classes: Number of outputs.
        activation: Activation of the hidden layers.
        kernel_init: A name in `INITIALIZERS`, for the convolutions.
        channel_dropout: Rate of every hidden layer, at which whole channels are dropped. If empty, the inputs of the
            hidden dense layers are dropped at rate 0.5.
    """

    layers: tuple[Layer, ...]
    hidden: tuple[int, ...]
    num_classes: int
    activation: str
    kernel_init: str
    channel_dropout: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        act, init = activation(self.activation), INITIALIZERS[self.kernel_init]
        for i, layer in enumerate(self.layers):
            x = Conv(layer.features, layer.size, layer.stride, layer.padding, kernel_init=init, name=f"Conv_{i}")(x)
            x = act(BatchNorm(name=f"BatchNorm_{i}")(x, train))
            self.sow("activations", f"conv_{i}", x)
            if self.channel_dropout:
                x = nn.Dropout(self.channel_dropout[i], (1, 2), deterministic=not train)(x)
            if layer.pool:
                x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.mean((1, 2))
        for i, width in enumerate(self.hidden):
            if not self.channel_dropout:
                x = nn.Dropout(0.5, deterministic=not train)(x)
            x = act(nn.Dense(width, name=f"Dense_{i}")(x))
            self.sow("activations", f"dense_{i}", x)
            if self.channel_dropout:
                x = nn.Dropout(self.channel_dropout[len(self.layers) + i], deterministic=not train)(x)
        return nn.Dense(self.num_classes, name=f"Dense_{len(self.hidden)}")(x)


def feed_forward_spec(
    convolutions: int, hidden: int, positions: int, *, norm: bool, bias: bool = True
) -> PermutationSpec:
    """The spec of layers `Conv_i` (with `BatchNorm_i` if `norm`), hidden layers `Dense_i`, and an output layer.

    Args:
        convolutions: Number of convolutions.
        hidden: Number of hidden dense layers.
        positions: Number of pixels of the last feature map, which is flattened; 1 if it is averaged.
        norm: Whether each convolution has batch norm.
        bias: Whether layers have biases.

    Returns:
        The spec.
    """
    groups = [f"conv_{i}" for i in range(convolutions)]
    parts: list[layer_specs.LayerSpec] = []
    for i, group in enumerate(groups):
        parts.append(layer_specs.conv(f"Conv_{i}", groups[i - 1] if i else None, group, bias=bias))
        if norm:
            parts.append(layer_specs.norm(f"BatchNorm_{i}", group))
    inputs: Axis | str = Axis(groups[-1], outer=positions)
    for i in range(hidden):
        parts.append(layer_specs.dense(f"Dense_{i}", inputs, f"dense_{i}", bias=bias))
        inputs = f"dense_{i}"
    parts.append(layer_specs.dense(f"Dense_{hidden}", inputs, None, bias=bias))
    return layer_specs.join(*parts)


def _convnet(
    name: str,
    layers: tuple[Layer, ...],
    hidden: tuple[int, ...],
    num_classes: int,
    input_shape: tuple[int, ...],
    activation: str,
    width: float,
    kernel_init: str,
    channel_dropout: Sequence[float] = (),
) -> Model:
    check_image_shape(name, input_shape)
    layers = tuple(layer._replace(features=scaled(layer.features, width)) for layer in layers)
    hidden = tuple(scaled(n, width) for n in hidden)
    rates = _rates(name, channel_dropout, len(layers) + len(hidden))
    _check_final_size(name, layers, input_shape)
    spec = feed_forward_spec(len(layers), len(hidden), 1, norm=True)
    module = ConvNet(layers, hidden, num_classes, activation, kernel_init, rates)
    return make_model(module, spec, name, input_shape, num_classes)


def _rates(name: str, rates: Sequence[float], layers: int) -> tuple[float, ...]:
    """The dropout rate of every hidden layer; the last rate given holds for all later layers."""
    if isinstance(rates, int | float) or len(rates) > layers or not all(0 <= rate < 1 for rate in rates):
        raise InputError(
            f"{name}: got channel_dropout={rates}, expected up to {layers} rates in [0, 1), one for each hidden layer, "
            "the last one for all later layers: (0.25, 0.25, 0.25, 0.5)."
        )
    return (*rates, *tuple(rates[-1:]) * (layers - len(rates)))


def _check_final_size(name: str, layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> None:
    """Refuse images of which no feature map is left."""
    height, width = input_shape[:2]
    for i, layer in enumerate(layers):
        height, width = ((n + 2 * layer.padding - layer.size) // layer.stride + 1 for n in (height, width))
        if layer.pool:
            height, width = height // 2, width // 2
        if min(height, width) < 1:
            raise InputError(
                f"{name} cannot take images of shape {input_shape}: they have shrunk to nothing after layer {i}. "
                "Give larger images or another model."
            )


TINYTEN = (
    Layer(16),
    Layer(16),
    Layer(32, stride=2),
    Layer(32),
    Layer(32),
    Layer(64, stride=2),
    Layer(64, padding=0),
    Layer(64, size=1, padding=0),
)
TINYSIX = (TINYTEN[0], TINYTEN[2], TINYTEN[5], TINYTEN[7])


def tinyten(num_classes: int, input_shape: tuple[int, ...], *, activation: str = "relu", width: float = 1.0) -> Model:
    """TinyTen: eight narrow convolutions and global average pooling; 86,778 parameters with 10 classes.

    The arguments are those of `create`.
    """
    return _convnet("tinyten", TINYTEN, (), num_classes, input_shape, activation, width, "xavier")


def tinysix(num_classes: int, input_shape: tuple[int, ...], *, activation: str = "relu", width: float = 1.0) -> Model:
    """TinySix: TinyTen without layers 2, 4, 5 and 7; 28,746 parameters with 10 classes, 34,596 with 100.

    The paper does not give the strides; here each layer has its stride in TinyTen: 1, 2, 2, 1. The arguments are those
    of `create`.
    """
    return _convnet("tinysix", TINYSIX, (), num_classes, input_shape, activation, width, "xavier")


def _vgg(
    name: str,
    stages: tuple[tuple[int, int], ...],
    num_classes: int,
    input_shape: tuple[int, ...],
    activation: str,
    width: float,
    channel_dropout: Sequence[float] = (),
) -> Model:
    layers = tuple(Layer(n, pool=i + 1 == repeat) for n, repeat in stages for i in range(repeat))
    return _convnet(name, layers, (512, 512), num_classes, input_shape, activation, width, "kaiming", channel_dropout)


def vgg11(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    activation: str = "relu",
    width: float = 1.0,
    channel_dropout: Sequence[float] = (),
) -> Model:
    """VGG11: eight convolutions with batch norm and max pooling, and two dense layers of 512 units with dropout.

    The last feature map is averaged: images of every size have as many parameters.

    Args:
        num_classes: Number of classes.
        input_shape: (height, width, channels).
        activation: Activation of the hidden layers.
        width: Multiplier of all widths.
        channel_dropout: Rates at which whole channels of the hidden layers are dropped in training, instead of the
            dropout of dense layers: one for each layer, the last one for all later layers.

    Returns:
        The model.
    """
    stages = ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2))
    return _vgg("vgg11", stages, num_classes, input_shape, activation, width, channel_dropout)


def vgg16(num_classes: int, input_shape: tuple[int, ...], *, activation: str = "relu", width: float = 1.0) -> Model:
    """VGG16: thirteen convolutions, otherwise like VGG11; 15,253,578 parameters with 10 classes.

    The arguments are those of `create`.
    """
    stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    return _vgg("vgg16", stages, num_classes, input_shape, activation, width)
