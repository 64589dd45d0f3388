"""Recurrent networks and transformers without a declared spec."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Recurrent(nn.Module):
    """Two recurrent layers over the rows of an image, the last state to the classes."""

    cell: type = nn.LSTMCell
    reverse: bool = False

    @nn.compact
    def __call__(self, x):
        x = x.reshape(*x.shape[:2], -1)
        x = nn.RNN(self.cell(5, param_dtype=x.dtype), reverse=self.reverse, keep_order=True)(x)
        x = nn.RNN(self.cell(4, param_dtype=x.dtype))(x)
        return nn.Dense(3)(x[:, -1])


class FusedCell(nn.Module):
    """An LSTM written by hand: one matrix for all four gates, cut from a reshaped product."""

    units: int = 5

    @nn.compact
    def __call__(self, x):
        x = x.reshape(*x.shape[:2], -1)
        first = self.param("input", nn.initializers.lecun_normal(), (x.shape[-1], 4 * self.units))
        again = self.param("hidden", nn.initializers.lecun_normal(), (self.units, 4 * self.units))
        bias = self.param("bias", nn.initializers.zeros, (4 * self.units,))

        def step(carry, row):
            h, c = carry
            i, f, g, o = jnp.moveaxis((row @ first + h @ again + bias[None]).reshape(-1, 4, self.units), 1, 0)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
            return (nn.sigmoid(o) * nn.tanh(c), c), None

        zero = jnp.zeros((x.shape[0], self.units), x.dtype)
        return nn.Dense(3)(jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))[0][0])


class Transformer(nn.Module):
    """A causal language model: tied embeddings, positions that are learnt, pre-norm blocks."""

    layers: int = 2
    width: int = 12
    heads: int = 3
    vocabulary: int = 11
    hidden: int = 10

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.width)
        positions = self.param("positions", nn.initializers.normal(0.1), (tokens.shape[1], self.width))
        x = embed(tokens) + positions[None]
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


class FusedAttention(nn.Module):
    """GPT's attention: one dense layer for queries, keys and values of all heads, cut and reshaped."""

    interleaved: bool = False

    @nn.compact
    def __call__(self, tokens):
        heads, width = 3, 12
        x = nn.Embed(11, width)(tokens)
        b, t = tokens.shape
        qkv = nn.Dense(3 * width)(nn.LayerNorm()(x))
        if self.interleaved:
            q, k, v = jnp.split(qkv.reshape(b, t, heads, -1), 3, -1)
        else:
            q, k, v = (part.reshape(b, t, heads, -1) for part in jnp.split(qkv, 3, -1))
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / 2
        scores = jnp.where(np.tril(np.ones((t, t), bool)), scores, -1e9)
        mixed = jnp.einsum("bhts,bshd->bthd", nn.softmax(scores), v)
        x = x + nn.Dense(width)(mixed.reshape(b, t, width))
        x = x + nn.Dense(width)(nn.gelu(nn.Dense(9)(nn.LayerNorm()(x))))
        return nn.Dense(11)(x)


class ViT(nn.Module):
    """A vision transformer with a class token and a table of positions."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), (4, 4))(x)
        x = x.reshape(x.shape[0], -1, 8)
        token = self.param("token", nn.initializers.normal(0.1), (1, 1, 8))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(0.1), (1, *x.shape[1:]))
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(9)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


class Rotary(nn.Module):
    """Rotary positions in the queries and keys, which pair the units of a head; shifted windows of tokens."""

    @nn.compact
    def __call__(self, tokens):
        t = tokens.shape[1]
        x = nn.Embed(11, 8)(tokens)
        angle = np.arange(t)[:, None] * 0.5 ** np.arange(2)
        cos, sin = (f(angle)[None, :, None].astype(np.float32) for f in (np.cos, np.sin))

        def rotated(x):
            even, odd = x[..., ::2], x[..., 1::2]
            return jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], -1)

        q, k, v = (nn.DenseGeneral((2, 4))(x) for _ in range(3))
        weights = nn.softmax(jnp.einsum("bthd,bshd->bhts", rotated(q), rotated(k)))
        x = x + nn.DenseGeneral(8, axis=(-2, -1))(jnp.einsum("bhts,bshd->bthd", weights, v))
        return nn.Dense(3)(jnp.roll(x, 2, 1)[:, 0])
