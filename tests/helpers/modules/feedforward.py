"""Feedforward modules without a declared spec: common ones, and some that are hard for the inference."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Residual(nn.Module):
    """Pre-activation residual blocks (He et al., 2016b) with a projection where the width changes."""

    widths: tuple = (4, 6)

    @nn.compact
    def __call__(self, x):
        def norm(x):
            return nn.relu(nn.BatchNorm(use_running_average=True)(x))

        x = nn.Conv(self.widths[0], (3, 3), use_bias=False)(x)
        for i, width in enumerate(self.widths):
            for j in range(2):
                stride = 2 if i and j == 0 else 1
                y = norm(x)
                skip = nn.Conv(width, (1, 1), (stride, stride))(y) if i and j == 0 else x
                y = nn.Conv(width + 1, (3, 3), (stride, stride))(y)
                x = skip + nn.Conv(width, (3, 3))(norm(y))
        return nn.Dense(3)(norm(x).mean((1, 2)))


class Bottleneck(nn.Module):
    features: int
    stride: int
    project: bool
    expansion: int

    @nn.compact
    def __call__(self, x):
        def norm(x):
            return nn.BatchNorm(use_running_average=True)(x)

        out = self.features * self.expansion
        y = nn.relu(norm(nn.Conv(self.features, (1, 1), use_bias=False)(x)))
        y = nn.relu(norm(nn.Conv(self.features, (3, 3), (self.stride, self.stride), use_bias=False)(y)))
        y = norm(nn.Conv(out, (1, 1), use_bias=False)(y))
        if self.project:
            x = norm(nn.Conv(out, (1, 1), (self.stride, self.stride), use_bias=False)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """The bottleneck ResNet50, of 64 channels for ImageNet."""

    width: int = 64
    stages: tuple = (3, 4, 6, 3)
    classes: int = 1000
    expansion: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (7, 7), (2, 2), padding=3, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                stride = 2 if i and j == 0 else 1
                x = Bottleneck(self.width * 2**i, stride, j == 0, self.expansion)(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class PaddedShortcut(nn.Module):
    """A shortcut that subsamples and pads channels with zeros (He et al., 2016, option A)."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        y = nn.relu(nn.Conv(5, (3, 3), (2, 2))(x))
        skip = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 4)))
        x = nn.relu(skip + nn.Conv(10, (3, 3))(y))
        return nn.Dense(3)(x.mean((1, 2)))


class DenseNet(nn.Module):
    """Two dense blocks with a transition between them."""

    flatten: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        for block in range(2):
            for _ in range(3):
                y = nn.relu(nn.BatchNorm(use_running_average=True)(x))
                x = jnp.concatenate([x, nn.Conv(3, (3, 3), use_bias=False)(y)], -1)
            if block == 0:
                x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
                x = nn.avg_pool(nn.Conv(5, (1, 1))(x), (2, 2), (2, 2))
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1) if self.flatten else x.mean((1, 2)))


class Grouped(nn.Module):
    """A ResNeXt block: a grouped convolution between two that are not, around a skip."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        y = nn.relu(nn.Conv(8, (1, 1))(x))
        y = nn.relu(nn.Conv(12, (3, 3), feature_group_count=4)(y))
        x = nn.relu(x + nn.Conv(6, (1, 1))(y))
        return nn.Dense(3)(x.mean((1, 2)))


class Depthwise(nn.Module):
    """Inverted residuals: expand, convolve every channel by itself, squeeze and excite, project."""

    @nn.compact
    def __call__(self, x):
        x = nn.hard_swish(nn.Conv(4, (3, 3), (2, 2))(x))
        for multiplier in (1, 2):
            y = nn.silu(nn.Conv(6, (1, 1), use_bias=False)(x))
            y = nn.Conv(6 * multiplier, (3, 3), feature_group_count=6)(y)
            y = nn.silu(nn.BatchNorm(use_running_average=True)(y))
            s = nn.relu(nn.Dense(3)(y.mean((1, 2))))
            y = y * nn.sigmoid(nn.Dense(6 * multiplier)(s))[:, None, None]
            x = x + nn.Conv(4, (1, 1))(y)
        return nn.Dense(3)(x.mean((1, 2)))


class Normed(nn.Module):
    """Group, layer, instance and root-mean-square norms between convolutions and dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(2)(nn.Conv(6, (3, 3))(x)))
        x = nn.relu(nn.InstanceNorm()(nn.Conv(5, (3, 3))(x)))
        x = nn.softplus(nn.LayerNorm()(nn.Conv(4, (3, 3))(x)))
        x = nn.gelu(nn.RMSNorm()(nn.Dense(7)(x.mean((1, 2)))))
        return nn.Dense(3)(x)


class Flattened(nn.Module):
    """Convolution, both poolings, flattening, dense; PReLU, whose slope is a scalar parameter."""

    @nn.compact
    def __call__(self, x):
        x = nn.PReLU()(nn.Conv(4, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.avg_pool(nn.silu(nn.Conv(5, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.gelu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.log_softmax(nn.Dense(3)(x))


class Decoder(nn.Module):
    """A U-shaped network: flattened code, reshaped maps, transposed convolutions, a skip by concatenation."""

    @nn.compact
    def __call__(self, x):
        skip = nn.relu(nn.Conv(4, (3, 3))(x))
        y = nn.relu(nn.Conv(5, (3, 3), (2, 2))(skip))
        z = nn.relu(nn.Dense(6)(y.reshape(y.shape[0], -1)))
        y = nn.relu(nn.Dense(4 * 4 * 7)(z)).reshape(-1, 4, 4, 7)
        y = nn.relu(nn.ConvTranspose(5, (3, 3), (2, 2))(y))
        return nn.Conv(2, (3, 3))(jnp.concatenate([skip, y], -1))


class Gated(nn.Module):
    """Gates: two halves of one layer, two layers, and gates that are the rows of a reshaped layer."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        a, b = jnp.split(nn.Dense(10)(x), 2, -1)
        x = nn.gelu(a) * b
        x = nn.silu(nn.Dense(6)(x)) * nn.Dense(6)(x)
        gates = nn.Dense(3 * 4)(x).reshape(-1, 3, 4)
        x = nn.sigmoid(gates[:, 0]) * gates[:, 1] + nn.tanh(gates[:, 2])
        return nn.Dense(3)(nn.Dense(8)(x).reshape(-1, 4, 2).max(-1))


class Mixer(nn.Module):
    """An MLP-Mixer of two blocks."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (4, 4), (4, 4))(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(2):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + nn.Dense(x.shape[1])(nn.gelu(nn.Dense(5)(y))).swapaxes(1, 2)
            x = x + nn.Dense(6)(nn.gelu(nn.Dense(7)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x).mean(1))


class Shared(nn.Module):
    """One layer used three times, between others."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(5)(x.reshape(x.shape[0], -1)))
        again = nn.Dense(5)
        return nn.Dense(3)(again(nn.relu(again(nn.relu(again(x))))))


class Odd(nn.Module):
    """Leaves that are not read, one in two roles, scalars, and integers: an order, a mask and a count."""

    @nn.compact
    def __call__(self, x):
        normal = nn.initializers.normal(1.0)
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        self.param("unused", normal, (6, 6))
        both = self.param("both", normal, (6, 6))
        x = nn.tanh(x @ both) + x @ both.T
        order = self.param("order", lambda _: jnp.array([2, 0, 1, 2], "int32"))
        picked = nn.Dense(3)(x)[:, order]
        keep = self.param("keep", lambda _: jnp.array([True, False, True, True]))
        count = self.param("count", lambda _: jnp.array(3, "int32"))
        x = nn.relu(nn.Dense(4)(picked * jnp.where(keep, 1.0, 0.5)[None]) * count)
        return nn.Dense(3)(x) * self.param("scale", normal, ())


class Layered(nn.Module):
    """Blocks whose parameters are stacked and run through by a scan, with remat."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x.reshape(x.shape[0], -1))

        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.Dense(6)(nn.gelu(nn.Dense(5)(nn.LayerNorm()(x)))), None

        blocks = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(blocks()(x, None)[0])


class Ensemble(nn.Module):
    """Members under vmap, averaged: the members are units too."""

    @nn.compact
    def __call__(self, x):
        class Member(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(3)(nn.tanh(nn.Dense(5)(x)))

        members = nn.vmap(Member, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=4)
        return members()(x.reshape(x.shape[0], -1)).mean(0)


class Adapted(nn.Module):
    """A low-rank update of a kernel, and a kernel normalised by its columns."""

    @nn.compact
    def __call__(self, x):
        normal = nn.initializers.normal(1.0)
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        kernel = self.param("kernel", normal, (6, 7))
        down, up = self.param("down", normal, (6, 3)), self.param("up", normal, (3, 7))
        x = nn.relu(x @ (kernel + down @ up))
        return nn.WeightNorm(nn.Dense(3))(nn.tanh(nn.WeightNorm(nn.Dense(5))(x)))


class Branching(nn.Module):
    """A condition on the data, and a loop that runs until the state is small."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x.reshape(x.shape[0], -1))
        one, other = nn.Dense(6), nn.Dense(6)
        a, b = one(x), other(x)
        x = jax.lax.cond(x.sum() > 0, lambda a, b: nn.relu(a) + b, lambda a, b: a * jnp.ones_like(b), a, b)
        kernel = self.param("loop", nn.initializers.normal(0.1), (6, 6))
        x = jax.lax.while_loop(lambda s: jnp.abs(s).max() > 0.1, lambda s: 0.5 * jnp.sin(s @ nn.softmax(kernel)), x)
        return nn.Dense(3)(x)


class Positional(nn.Module):
    """Operations that tell units apart: a fixed mask, a sorted sum, a running sum, the largest unit's number."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        x = nn.relu(nn.Dense(5)(x) * np.linspace(0, 1, 5, dtype=np.float32)[None])
        x = jnp.sort(nn.Dense(4)(x), -1)
        x = jnp.cumsum(nn.Dense(4)(x), -1)
        x = nn.Dense(7)(x)
        x = x * nn.one_hot(x.argmax(-1), 7)
        return nn.Dense(3)(jnp.fft.rfft(nn.relu(nn.Dense(6)(x))).real)
