"""Models: the pure functions of an architecture, with the spec of its permutation symmetry.

A `Model` is a NamedTuple of pure functions (`init`, `apply`, `apply_train`, `activations`) and a `PermutationSpec`,
which declares the axes of parameters that can only be permuted together. All of mcjax works on models. There are three
ways to get one:

- `create(name, ...)` makes a registered architecture: MLPs, small convolutional networks, VGG, ResNets, GoogLeNet,
  an LSTM.
- `from_flax(module, x)` takes any Flax module, Linen or NNX, and infers the spec from its computation.
- `from_function(init, apply, x)` does the same for two pure functions.

`theta`, the variables of one network, is `{"params": ..., "batch_stats": ...}`, or any pytree for `from_function`.

Example::

    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import mcjax

    model = mcjax.models.create("mlp", num_classes=10, input_shape=(8, 8, 1), widths=(16, 16))
    theta = model.init(jax.random.key(0))
    print(model.apply(theta, jnp.zeros((5, 8, 8, 1))).shape)  # (5, 10)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
            x = x + nn.Conv(4, (3, 3))(x)
            return nn.Dense(10)(x.reshape(len(x), -1))

    net = mcjax.models.from_flax(Net(), jnp.zeros((1, 8, 8, 1)))
    print(net.spec)  # one group, the residual trunk, flattened before Dense_0
    theta = net.init(jax.random.key(1))
    P = mcjax.random_permutation(jax.random.key(2), net.spec, theta)
    x = jax.random.normal(jax.random.key(3), (5, 8, 8, 1))
    print(abs(net.apply(theta, x) - net.apply(mcjax.permute(net.spec, P, theta), x)).max())  # zero, up to rounding
"""

from mcjax.models.base import Model
from mcjax.models.modules import from_flax, from_function
from mcjax.models.registry import REGISTRY, create, options_of

__all__ = ["REGISTRY", "Model", "create", "from_flax", "from_function", "options_of"]
