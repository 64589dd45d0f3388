"""Small pieces of a spec, one a layer, to be joined beside the model that they describe.

Each names leaves as Flax does and returns the axes of one layer; `join` makes the spec of them all.

    join(
        conv("Conv_0", None, "conv_0"), norm("BatchNorm_0", "conv_0"),
        dense("Dense_0", "conv_0", None),
    )
"""

from mcjax.symmetry.axis import Axis, SpecError
from mcjax.symmetry.spec import PermutationSpec

Part = dict[str, tuple[Axis | str | None, ...]]


def dense(path: str, inputs: str | Axis | None, outputs: str | None, *, bias: bool = True) -> Part:
    """A dense layer: kernel (in, out) and bias (out). For flattened maps `inputs` is an `Axis` with `outer`."""
    part: Part = {f"params/{path}/kernel": (inputs, outputs)}
    return {**part, f"params/{path}/bias": (outputs,)} if bias else part


def conv(path: str, inputs: str | None, outputs: str | None, *, bias: bool = True, spatial: int = 2) -> Part:
    """A convolution: kernel (*spatial, in, out) and bias (out)."""
    part: Part = {f"params/{path}/kernel": (*(None,) * spatial, inputs, outputs)}
    return {**part, f"params/{path}/bias": (outputs,)} if bias else part


def norm(path: str, units: str | None, *, batch_stats: bool = True) -> Part:
    """A normalisation: scale and bias, and the running mean and variance if `batch_stats`."""
    part: Part = {f"params/{path}/scale": (units,), f"params/{path}/bias": (units,)}
    stats: Part = {f"batch_stats/{path}/mean": (units,), f"batch_stats/{path}/var": (units,)}
    return {**part, **stats} if batch_stats else part


def residual_block(path: str, inputs: str, inner: str, outputs: str, *, projection: bool) -> Part:
    """Two convolutions with norms around a skip connection, and its 1x1 projection if there is one.

    All convolutions are without bias. Without a projection the block adds onto its input, so both are
    one trunk: `inputs` must equal `outputs`. The layers are named `Conv_0`, `BatchNorm_0`, `Conv_1`,
    `BatchNorm_1`, and `Conv_2`, `BatchNorm_2` for the projection.
    """
    if not projection and inputs != outputs:
        raise SpecError(
            f"{path}: a block without projection adds onto its input; got groups {inputs!r} and "
            f"{outputs!r}, expected one group for both."
        )
    part = {
        **conv(f"{path}/Conv_0", inputs, inner, bias=False),
        **norm(f"{path}/BatchNorm_0", inner),
        **conv(f"{path}/Conv_1", inner, outputs, bias=False),
        **norm(f"{path}/BatchNorm_1", outputs),
    }
    if projection:
        part |= conv(f"{path}/Conv_2", inputs, outputs, bias=False) | norm(f"{path}/BatchNorm_2", outputs)
    return part


def join(*parts: Part) -> PermutationSpec:
    """One spec of many parts. Raises SpecError if two parts name the same leaf."""
    leaves: Part = {}
    for part in parts:
        if twice := leaves.keys() & part.keys():
            raise SpecError(f"declared twice: {', '.join(sorted(twice))}.")
        leaves |= part
    return PermutationSpec(leaves)
