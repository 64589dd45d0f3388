"""Multilayer perceptrons of any widths and activation."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from mcjax.errors import InputError
from mcjax.models.base import Model, from_own
from mcjax.models.layers import activation, scaled
from mcjax.symmetry import layer_specs


class MLP(nn.Module):
    """Dense layers of these widths, each followed by the activation, then one of classes with the output's."""

    widths: tuple[int, ...]
    num_classes: int
    activation: str
    output: str = "linear"
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = activation(self.activation)(nn.Dense(width, use_bias=self.bias, name=f"Dense_{i}")(x))
            self.sow("activations", f"dense_{i}", x)
        x = nn.Dense(self.num_classes, use_bias=self.bias, name=f"Dense_{len(self.widths)}")(x)
        return activation(self.output)(x)


def mlp(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    widths: Sequence[int] = (256, 256),
    activation: str = "relu",
    width: float = 1.0,
    output: str = "linear",
    bias: bool = True,
) -> Model:
    """Hidden layers of `widths` units, each times the multiplier `width`; `output` is the activation of the last layer.

    For a regression, num_classes is how many numbers it returns.
    """
    if isinstance(widths, int):
        raise InputError(f"got widths={widths}, expected one width a hidden layer: ({widths},).")
    if not widths or min(widths) < 1:
        raise InputError(f"got widths={tuple(widths)}, expected at least one hidden layer of at least one unit.")
    units = tuple(scaled(n, width) for n in widths)
    groups = [f"dense_{i}" for i in range(len(units))]
    spec = layer_specs.join(
        *(
            layer_specs.dense(f"Dense_{i}", inputs, outputs, bias=bias)
            for i, (inputs, outputs) in enumerate(zip([None, *groups], [*groups, None], strict=True))
        )
    )
    module = MLP(units, num_classes, activation, output, bias)
    return from_own(module, spec, "mlp", input_shape, num_classes, "none")
