"""Residual networks for small images, with 1x1 projection shortcuts (He et al. 2016)."""

import flax.linen as nn
import jax

from mcjax.models.base import Model, check_image_shape, make_model
from mcjax.models.layers import INITIALIZERS, BatchNorm, Conv, activation, scaled
from mcjax.runtime.convolution import materialize
from mcjax.symmetry import layer_specs


class Block(nn.Module):
    """Two convolutions with a skip connection. Returns the new trunk and the inner activations.

    Attributes:
        features: Number of channels.
        stride: Stride of the first convolution, and of the projection.
        projection: Whether the skip connection has a 1x1 convolution.
        activation: Activation of the hidden layers.
    """

    features: int
    stride: int
    projection: bool
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        act, init = activation(self.activation), INITIALIZERS["kaiming"]
        inner = Conv(self.features, 3, self.stride, use_bias=False, kernel_init=init, name="Conv_0")(x)
        inner = act(BatchNorm(name="BatchNorm_0")(inner, train))
        out = Conv(self.features, 3, use_bias=False, kernel_init=init, name="Conv_1")(inner)
        out = BatchNorm(name="BatchNorm_1")(out, train)
        if self.projection:
            x = Conv(self.features, 1, self.stride, 0, use_bias=False, kernel_init=init, name="Conv_2")(x)
            x = BatchNorm(name="BatchNorm_2")(x, train)
        return materialize(act(x + out)), inner


class ResNet(nn.Module):
    """A stem, stages of basic blocks, global average pooling, and an output layer.

    Attributes:
        widths: Channels of each stage.
        blocks: Blocks in each stage.
        num_classes: Number of outputs.
        activation: Activation of the hidden layers.
    """

    widths: tuple[int, ...]
    blocks: int
    num_classes: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(self.widths[0], use_bias=False, kernel_init=INITIALIZERS["kaiming"], name="Conv_0")(x)
        x = activation(self.activation)(BatchNorm(name="BatchNorm_0")(x, train))
        self.sow("activations", "trunk_0", x)
        for stage, width in enumerate(self.widths):
            for i in range(self.blocks):
                first = i == 0 and stage > 0
                number = stage * self.blocks + i
                block = Block(width, 2 if first else 1, first, self.activation, name=f"Block_{number}")
                x, inner = block(x, train)
                self.sow("activations", f"block_{number}", inner)
                self.sow("activations", f"trunk_{stage}", x)
        return nn.Dense(self.num_classes, name="Dense_0")(x.mean((1, 2)))


def _resnet(
    name: str, blocks: int, num_classes: int, input_shape: tuple[int, ...], activation: str, width: float
) -> Model:
    check_image_shape(name, input_shape)
    widths = tuple(scaled(n, width) for n in (16, 32, 64))
    parts = [layer_specs.conv("Conv_0", None, "trunk_0", bias=False), layer_specs.norm("BatchNorm_0", "trunk_0")]
    for stage in range(len(widths)):
        for i in range(blocks):
            first, number = i == 0 and stage > 0, stage * blocks + i
            inputs = f"trunk_{stage - 1 if first else stage}"
            inner, outputs = f"block_{number}", f"trunk_{stage}"
            parts.append(layer_specs.residual_block(f"Block_{number}", inputs, inner, outputs, projection=first))
    parts.append(layer_specs.dense("Dense_0", f"trunk_{len(widths) - 1}", None))
    module = ResNet(widths, blocks, num_classes, activation)
    return make_model(module, layer_specs.join(*parts), name, input_shape, num_classes)


def resnet20(num_classes: int, input_shape: tuple[int, ...], *, activation: str = "relu", width: float = 1.0) -> Model:
    """ResNet20: three stages of three blocks.

    The arguments are those of `create`.
    """
    return _resnet("resnet20", 3, num_classes, input_shape, activation, width)


def resnet32(num_classes: int, input_shape: tuple[int, ...], *, activation: str = "relu", width: float = 1.0) -> Model:
    """ResNet32: three stages of five blocks; 466,906 parameters with 10 classes.

    The arguments are those of `create`.
    """
    return _resnet("resnet32", 5, num_classes, input_shape, activation, width)
