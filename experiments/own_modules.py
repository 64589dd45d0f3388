"""Flax modules as a user would write them, without mcjax, whose specs are inferred.

On MNIST:

    mcjax train --data mnist --module experiments.own_modules:LSTM --epochs 8 --learning-rate 0.05 --out runs/lstm
    mcjax connect runs/lstm/0 runs/lstm/1 --curve line --align
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class LSTM(nn.Module):
    """An LSTM of 64 units over the rows of an image."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        states = jnp.asarray(nn.RNN(nn.LSTMCell(64))(x.reshape(*x.shape[:2], -1)))
        return nn.Dense(self.num_classes)(states[:, -1])


class Encoder(nn.Module):
    """A pre-norm block of attention and two dense layers."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(x.shape[-1], name="out")(nn.gelu(nn.Dense(self.hidden, name="hidden")(nn.LayerNorm()(x))))


class ViT(nn.Module):
    """A vision transformer of two blocks: 7x7 patches, 32 channels, 4 heads."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(32, (7, 7), (7, 7))(x)
        x = x.reshape(x.shape[0], -1, 32)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(2):
            x = Encoder(4, 64)(x)
        return nn.Dense(self.num_classes)(nn.LayerNorm()(x).mean(1))


class Transformer(nn.Module):
    """A causal language model with tied embeddings and learned positions, of GPT-2's sizes.

    Attributes:
        layers: blocks of attention and dense layers.
        width: units of the residual stream.
        heads: heads of every attention.
        hidden: hidden units of every block.
        vocabulary: tokens.
    """

    layers: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    vocabulary: int = 50257

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(self.vocabulary, self.width, name="embed")
        positions = self.param("positions", nn.initializers.normal(0.1), (tokens.shape[1], self.width))
        x, mask = embed(tokens) + positions[None], nn.make_causal_mask(tokens)
        for i in range(self.layers):
            x = Encoder(self.heads, self.hidden, name=f"block_{i}")(x, mask)
        return embed.attend(nn.LayerNorm()(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a skip connection, which is projected where the width changes."""

    features: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, features: int, size: int, stride: int = 1) -> jax.Array:
            x = nn.Conv(features, (size, size), (stride, stride), use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True)(x)

        y = nn.relu(layer(x, self.features, 1))
        y = layer(nn.relu(layer(y, self.features, 3, self.stride)), 4 * self.features, 1)
        return nn.relu(y + (layer(x, 4 * self.features, 1, self.stride) if self.project else x))


class ResNet50(nn.Module):
    """The bottleneck ResNet50 (He et al., 2016), 64 channels wide for ImageNet."""

    width: int = 64
    stages: tuple[int, ...] = (3, 4, 6, 3)
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (7, 7), (2, 2), padding=3, use_bias=False)(x)
        x = nn.max_pool(nn.relu(nn.BatchNorm(use_running_average=True)(x)), (3, 3), (2, 2), "SAME")
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                name = f"stage_{i}_block_{j}"
                x = Bottleneck(self.width * 2**i, 2 if i and j == 0 else 1, j == 0, name=name)(x)
        return nn.Dense(self.num_classes)(jnp.mean(x, (1, 2)))
