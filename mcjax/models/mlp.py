"""Multilayer perceptrons of any widths and activation."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from mcjax.errors import InputError
from mcjax.models.base import Model, from_own
from mcjax.models.layers import activation, scaled
from mcjax.symmetry import declare


class MLP(nn.Module):
    """Dense layers of these widths, each followed by the activation, then a linear layer of classes."""

    widths: tuple[int, ...]
    num_classes: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = activation(self.activation)(nn.Dense(width, name=f"Dense_{i}")(x))
            self.sow("activations", f"dense_{i}", x)
        return nn.Dense(self.num_classes, name=f"Dense_{len(self.widths)}")(x)


def mlp(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    widths: Sequence[int] = (256, 256),
    activation: str = "relu",
    width: float = 1.0,
) -> Model:
    """Hidden layers of `widths` units, each times the multiplier `width`."""
    if isinstance(widths, int):
        raise InputError(f"got widths={widths}, expected one width a hidden layer: ({widths},).")
    if not widths or min(widths) < 1:
        raise InputError(f"got widths={tuple(widths)}, expected at least one hidden layer of at least one unit.")
    units = tuple(scaled(n, width) for n in widths)
    groups = [f"dense_{i}" for i in range(len(units))]
    spec = declare.join(
        *(
            declare.dense(f"Dense_{i}", inputs, outputs)
            for i, (inputs, outputs) in enumerate(zip([None, *groups], [*groups, None], strict=True))
        )
    )
    return from_own(MLP(units, num_classes, activation), spec, "mlp", input_shape, num_classes, "none")
