"""Word-level language models: an embedding, LSTM layers, and one logit for every word of the vocabulary."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mcjax.errors import InputError
from mcjax.models.base import Model, make_model
from mcjax.models.layers import scaled
from mcjax.symmetry import Axis, PermutationSpec

INITIAL = 0.1
"""Parameters are drawn uniformly from [-INITIAL, INITIAL] (Zaremba, Sutskever and Vinyals 2014)."""


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -INITIAL, INITIAL)


class LSTMLayer(nn.Module):
    """One LSTM layer over sequences (n, length, inputs) -> (n, length, units), starting from a zero state.

    The parameters are kernel (inputs, 4 * units), recurrent (units, 4 * units) and bias (4 * units); their last axis
    holds the input, forget, cell and output gates, in this order.
    """

    units: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _uniform, (x.shape[-1], 4 * self.units))
        recurrent = self.param("recurrent", _uniform, (self.units, 4 * self.units))
        bias = self.param("bias", nn.initializers.zeros, (4 * self.units,))
        # The contribution of the inputs to the gates, for all steps in one product.
        inputs = x @ kernel + bias[None, None]

        def step(state: tuple[jax.Array, jax.Array], now: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            output, cell = state
            gates = (now + output @ recurrent).reshape(-1, 4, self.units)
            # c' = f * c + i * g, and h' = o * tanh(c').
            cell = nn.sigmoid(gates[:, 1]) * cell + nn.sigmoid(gates[:, 0]) * jnp.tanh(gates[:, 2])
            output = nn.sigmoid(gates[:, 3]) * jnp.tanh(cell)
            return (output, cell), output

        start = jnp.zeros((len(x), self.units), inputs.dtype)
        outputs = jax.lax.scan(step, (start, start), inputs.swapaxes(0, 1))[1]
        return outputs.swapaxes(0, 1)


class LSTM(nn.Module):
    """Tokens int32 (n, length) -> logits of the next word at every position, (n, length, vocabulary).

    Attributes:
        embedding: Units of the embedding.
        units: Units of each LSTM layer.
        vocabulary: Number of words.
    """

    embedding: int
    units: tuple[int, ...]
    vocabulary: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.param("embedding", _uniform, (self.vocabulary, self.embedding))[x]
        self.sow("activations", "embedding", x)
        for i, units in enumerate(self.units):
            x = LSTMLayer(units, name=f"LSTM_{i}")(x)
            self.sow("activations", f"lstm_{i}", x)
        return nn.Dense(self.vocabulary, kernel_init=_uniform, name="Dense_0")(x)


def lstm(num_classes: int, input_shape: tuple[int, ...], *, width: float = 1.0, layers: int = 2) -> Model:
    """An embedding of 200 units and `layers` LSTM layers of 200 units: 4,651,600 parameters with 10,000 words.

    Every sequence starts from a zero state. There is no dropout, and forget biases start at zero.
    Source: Zaremba, Sutskever and Vinyals 2014, Recurrent Neural Network Regularization, the small model.

    Args:
        num_classes: Size of the vocabulary.
        input_shape: (length,) of a sequence.
        width: Multiplier of all widths.
        layers: Number of LSTM layers.

    Returns:
        The model.

    Raises:
        InputError: If `input_shape` is not (length,), or `layers` is not positive.
    """
    if len(input_shape) != 1:
        raise InputError(f"lstm reads sequences of tokens: got input_shape={input_shape}, expected (length,).")
    if layers < 1:
        raise InputError(f"got layers={layers}, expected at least 1.")
    units = scaled(200, width)
    leaves: dict[str, tuple[Axis | str | None, ...]] = {"params/embedding": (None, "embedding")}
    inputs = "embedding"
    for i in range(layers):
        group = f"lstm_{i}"
        gates = Axis(group, outer=4)
        leaves |= {
            f"params/LSTM_{i}/kernel": (inputs, gates),
            f"params/LSTM_{i}/recurrent": (group, gates),
            f"params/LSTM_{i}/bias": (gates,),
        }
        inputs = group
    leaves |= {"params/Dense_0/kernel": (inputs, None), "params/Dense_0/bias": (None,)}
    module = LSTM(units, (units,) * layers, num_classes)
    return make_model(module, PermutationSpec(leaves), "lstm", input_shape, num_classes, "int32")
