"""Multilayer perceptrons."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from mcjax.errors import InputError
from mcjax.models.base import Model, make_model
from mcjax.models.layers import activation, scaled
from mcjax.symmetry import layer_specs


class MLP(nn.Module):
    """Dense layers on the flattened input.

    Attributes:
        widths: Units of the hidden layers.
        num_classes: Number of outputs.
        activation: Activation of the hidden layers.
        output: Activation of the last layer.
        bias: Whether layers have biases.
    """

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
    """A multilayer perceptron.

    Args:
        num_classes: Number of outputs: classes, or numbers for a regression.
        input_shape: The shape of one input, which is flattened.
        widths: Units of each hidden layer.
        activation: Activation of the hidden layers.
        width: Multiplier of all widths.
        output: Activation of the last layer.
        bias: Whether layers have biases.

    Returns:
        The model.

    Raises:
        InputError: If `widths` is not a sequence of at least one positive width.
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
    return make_model(module, spec, "mlp", input_shape, num_classes)
