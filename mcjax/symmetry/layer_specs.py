"""Specs of single layers, with Flax's names of leaves, and their union as the spec of a network.

Example::

    from mcjax.symmetry import layer_specs

    spec = layer_specs.join(
        layer_specs.conv("Conv_0", None, "conv_0"),
        layer_specs.norm("BatchNorm_0", "conv_0"),
        layer_specs.dense("Dense_0", "conv_0", None),
    )
    print(spec)
"""

from mcjax.symmetry.axis import Axis, SpecError
from mcjax.symmetry.spec import PermutationSpec

Units = str | Axis | tuple[Axis, ...] | None
"""The units on one axis: those of a group, by its name or an `Axis`; of several, that are concatenated; or None."""
LayerSpec = dict[str, tuple[Units, ...]]
"""The axes of a layer's leaves, by name, as `PermutationSpec` takes them."""


def dense(path: str, inputs: Units, outputs: str | None, *, bias: bool = True) -> LayerSpec:
    """A dense layer: kernel (in, out) and bias (out).

    Args:
        path: Path of the layer in the module, such as `Block_0/Dense_0`.
        inputs: Group of the input units; an `Axis` with `outer` for flattened feature maps, and several of them, with
            their segments, for concatenated ones. None: never permuted.
        outputs: Group of the output units. None: never permuted.
        bias: Whether the layer has a bias.

    Returns:
        The axes of its leaves.
    """
    kernel: LayerSpec = {f"params/{path}/kernel": (inputs, outputs)}
    return {**kernel, f"params/{path}/bias": (outputs,)} if bias else kernel


def conv(path: str, inputs: Units, outputs: str | None, *, bias: bool = True, spatial: int = 2) -> LayerSpec:
    """A convolution: kernel (*spatial, in, out) and bias (out).

    Args:
        path: Path of the layer in the module.
        inputs: Group of the input channels, or those of its segments. None: never permuted.
        outputs: Group of the output channels. None: never permuted.
        bias: Whether the layer has a bias.
        spatial: Number of spatial axes.

    Returns:
        The axes of its leaves.
    """
    kernel: LayerSpec = {f"params/{path}/kernel": (*(None,) * spatial, inputs, outputs)}
    return {**kernel, f"params/{path}/bias": (outputs,)} if bias else kernel


def norm(path: str, units: str | None, *, batch_stats: bool = True) -> LayerSpec:
    """A normalisation layer: scale and bias, and the running mean and variance if `batch_stats`."""
    params: LayerSpec = {f"params/{path}/scale": (units,), f"params/{path}/bias": (units,)}
    stats: LayerSpec = {f"batch_stats/{path}/mean": (units,), f"batch_stats/{path}/var": (units,)}
    return {**params, **stats} if batch_stats else params


def residual_block(path: str, inputs: str, inner: str, outputs: str, *, projection: bool) -> LayerSpec:
    """A residual block: two convolutions with norms, a skip connection, and optionally its 1x1 projection.

    The convolutions have no biases. The layers are named `Conv_0`, `BatchNorm_0`, `Conv_1`, `BatchNorm_1`, and for the
    projection `Conv_2`, `BatchNorm_2`.

    Args:
        path: Path of the block in the module.
        inputs: Group of the block's input channels.
        inner: Group of the channels between the two convolutions.
        outputs: Group of the block's output channels.
        projection: Whether the skip connection has a projection. Without one, `inputs` and `outputs` must be the same
            group, because the block adds its result to its input.

    Returns:
        The axes of its leaves.

    Raises:
        SpecError: If there is no projection and the groups differ.
    """
    if not projection and inputs != outputs:
        raise SpecError(
            f"{path}: a block without projection adds onto its input; got groups {inputs!r} and "
            f"{outputs!r}, expected one group for both."
        )
    block = {
        **conv(f"{path}/Conv_0", inputs, inner, bias=False),
        **norm(f"{path}/BatchNorm_0", inner),
        **conv(f"{path}/Conv_1", inner, outputs, bias=False),
        **norm(f"{path}/BatchNorm_1", outputs),
    }
    if projection:
        block |= conv(f"{path}/Conv_2", inputs, outputs, bias=False) | norm(f"{path}/BatchNorm_2", outputs)
    return block


def join(*layers: LayerSpec) -> PermutationSpec:
    """The spec of a network with these layers. Raises SpecError if two of them name the same leaf."""
    leaves: LayerSpec = {}
    for layer in layers:
        if repeated := leaves.keys() & layer.keys():
            raise SpecError(f"declared twice: {', '.join(sorted(repeated))}. Expected one layer for each path.")
        leaves |= layer
    return PermutationSpec(leaves)
