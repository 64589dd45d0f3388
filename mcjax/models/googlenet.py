"""GoogLeNet with batch normalisation (Szegedy et al. 2015), for small images as in the code of Neuron Alignment."""

from itertools import accumulate

import flax.linen as nn
import jax
import jax.numpy as jnp

from mcjax.models.base import Model, check_image_shape, make_model
from mcjax.models.layers import INITIALIZERS, BatchNorm, Conv, activation, scaled
from mcjax.symmetry import Axis, layer_specs

# Channels of the layers of each block, in the order of its layers. Blocks 0 and 2 begin a stage, by pooling.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    ),
)
SIZES = (1, 1, 3, 1, 3, 1)
"""Height and width of the kernels of a block."""
BRANCHES = (0, 2, 4, 5)
"""The layers whose outputs are concatenated."""


class Inception(nn.Module):
    """Four branches of convolutions, whose outputs are concatenated. Returns them, and the activations of each layer.

    The branches are a convolution of 1x1; two pairs of 1x1 and 3x3; and max pooling before 1x1.

    Attributes:
        features: Channels of the six convolutions.
        activation: Activation of the hidden layers.
    """

    features: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, list[jax.Array]]:
        made: list[jax.Array] = []
        pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME")
        for i, (features, size) in enumerate(zip(self.features, SIZES, strict=True)):
            inputs = pooled if i == 5 else made[i - 1] if size == 3 else x
            made.append(normed(inputs, features, size, i, self.activation, train))
        return jnp.concatenate([made[i] for i in BRANCHES], -1), made


def normed(x: jax.Array, features: int, size: int, number: int, act: str, train: bool) -> jax.Array:
    """A convolution without bias, batch norm and activation, in the module that calls it."""
    init = INITIALIZERS["kaiming"]
    x = Conv(features, size, 1, size // 2, use_bias=False, kernel_init=init, name=f"Conv_{number}")(x)
    return activation(act)(BatchNorm(1e-3, name=f"BatchNorm_{number}")(x, train))


class GoogLeNet(nn.Module):
    """A stem of three convolutions, nine inception blocks, global average pooling, dropout, and an output layer.

    Attributes:
        stem: Channels of the three convolutions before the blocks.
        stages: Channels of the blocks, as in `STAGES`.
        num_classes: Number of outputs.
        activation: Activation of the hidden layers.
    """

    stem: tuple[int, ...]
    stages: tuple[tuple[tuple[int, ...], ...], ...]
    num_classes: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, (channels, size) in enumerate(zip(self.stem, (7, 1, 3), strict=True)):
            x = normed(x, channels, size, i, self.activation, train)
            self.sow("activations", f"conv_{i}", x)
        block = 0
        for blocks in self.stages:
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
            for features in blocks:
                x, made = Inception(features, self.activation, name=f"Inception_{block}")(x, train)
                for i, each in enumerate(made):
                    self.sow("activations", f"inception_{block}_{i}", each)
                block += 1
        x = nn.Dropout(0.2, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(self.num_classes, name="Dense_0")(x)


def googlenet(num_classes: int, input_shape: tuple[int, ...], *, activation: str = "relu", width: float = 1.0) -> Model:
    """GoogLeNet with batch norm, for small images; 5,610,154 parameters with 10 classes.

    As in the code of Neuron Alignment (NeurIPS 2020) the stem has no strides, and of the four poolings those after the
    first convolution and before the last two blocks are left out: the last blocks see 8x8 positions of a 32x32 image.
    Its two auxiliary outputs, with which it has 10.24 million parameters, are not here: training has one loss, of the
    outputs. The arguments are those of `create`.
    """
    check_image_shape("googlenet", input_shape)
    stem = tuple(scaled(n, width) for n in (64, 64, 192))
    stages = tuple(tuple(tuple(scaled(n, width) for n in block) for block in blocks) for blocks in STAGES)
    parts: list[layer_specs.LayerSpec] = []
    trunk: layer_specs.Units = None

    def layer(path: str, number: int, inputs: layer_specs.Units, group: str) -> None:
        parts.append(layer_specs.conv(f"{path}Conv_{number}", inputs, group, bias=False))
        parts.append(layer_specs.norm(f"{path}BatchNorm_{number}", group))

    for i in range(3):
        layer("", i, trunk, f"conv_{i}")
        trunk = f"conv_{i}"
    for block, features in enumerate(features for blocks in stages for features in blocks):
        groups = [f"inception_{block}_{i}" for i in range(6)]
        for i, group in enumerate(groups):
            layer(f"Inception_{block}/", i, groups[i - 1] if SIZES[i] == 3 else trunk, group)
        stops = list(accumulate(features[i] for i in BRANCHES))
        trunk = tuple(
            Axis(groups[i], start=stop - features[i], stop=stop) for i, stop in zip(BRANCHES, stops, strict=True)
        )
    parts.append(layer_specs.dense("Dense_0", trunk, None))
    module = GoogLeNet(stem, stages, num_classes, activation)
    return make_model(module, layer_specs.join(*parts), "googlenet", input_shape, num_classes)
