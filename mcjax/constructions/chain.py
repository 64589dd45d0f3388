"""Feed-forward networks as chains of layers, whose units can be dropped, copied and rewritten one by one.

Weight matrices and hidden layers are counted from 1, as in the papers. Matrix i produces layer i, and matrix i + 1
reads it. The last matrix, the top, produces the outputs.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import Model, check_model, has_leading_axis
from mcjax.symmetry.axis import Axis, axes_of

Leaves = dict[str, np.ndarray]
"""The variables of one network on the host, by name."""


class UnitAxis(NamedTuple):
    """The axis of one leaf along which the units of a group lie.

    Attributes:
        name: The name of the leaf.
        position: The position of the axis in the leaf.
        axis: The declaration of the axis in the spec.
    """

    name: str
    position: int
    axis: Axis

    def rows(self, leaf: Any) -> np.ndarray:
        """The indices along the axis that belong to each unit: int (n, k)."""
        return self.axis.positions(leaf.shape[self.position])

    def take(self, leaf: np.ndarray, units: np.ndarray) -> np.ndarray:
        """The entries of `units`, in their order, with the unit axis first."""
        return np.moveaxis(leaf, self.position, 0)[self.rows(leaf)[units].ravel()]

    def put(self, leaf: np.ndarray, units: np.ndarray, value: Any) -> np.ndarray:
        """A copy of the leaf with new entries of `units`; `value` is as `take` returns it, or a number."""
        new = np.array(leaf)
        np.moveaxis(new, self.position, 0)[self.rows(leaf)[units].ravel()] = value
        return new


class Layer(NamedTuple):
    """One weight matrix with the units that it reads and produces.

    Attributes:
        kernel: The name of the weight matrix.
        inputs: The axis of the kernel that reads the layer below; None for the first layer.
        group: The group of units that it produces; None for the top.
        incoming: The unit axes of all leaves that produce these units: the kernel, biases, scales and shifts of norms,
            batch statistics.
    """

    kernel: str
    inputs: UnitAxis | None
    group: str | None
    incoming: tuple[UnitAxis, ...]


class Chain(NamedTuple):
    """The layers of a feed-forward network, from the first to the top.

    Attributes:
        layers: The layers.
        output_biases: The floating-point leaves without hidden units, other than the top's kernel.
        sizes: The number of units of each hidden layer.
    """

    layers: tuple[Layer, ...]
    output_biases: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the hidden layers from the first on: groups[i - 1] is the papers' layer i."""
        return tuple(layer.group for layer in self.layers if layer.group is not None)

    @property
    def top(self) -> Layer:
        """The last weight matrix."""
        return self.layers[-1]

    def outgoing(self, group: str) -> UnitAxis:
        """The axis of the next layer's kernel that reads a group."""
        unit_axis = self.layers[self.groups.index(group) + 1].inputs
        assert unit_axis is not None
        return unit_axis


def chain_of(model: Model) -> Chain:
    """The chain of layers of a feed-forward model, which may have batch norm.

    Raises:
        InputError: If units of a group cannot be dropped one by one: those of a residual trunk, of a recurrent layer,
            of a layer that is read twice, or of a layer under a norm over units. Also if the outputs are not affine in
            the top.
    """
    check_model(model)
    # The checks compute on concrete arrays even if the caller is traced.
    with jax.ensure_compile_time_eval():
        return _chain(model)


@lru_cache(maxsize=64)
def _chain(model: Model) -> Chain:
    theta = jax.eval_shape(model.init, jax.random.key(0))
    shapes, spec = trees.shapes(theta), model.spec
    sizes = spec.group_sizes(theta)
    if not sizes:
        raise InputError(f"{model.name} has no hidden units that its spec names: expected a spec with groups.")
    found = {group: _layer(model, group, shapes) for group in sizes}
    above = {layer.inputs.axis.group if layer.inputs else None: layer for layer in found.values()}
    if len(above) < len(found):
        raise InputError(f"{model.name} branches: expected every hidden layer to be read by one layer alone.")
    # From the inputs upwards: the next layer is the one that reads the previous.
    layers: list[Layer] = []
    below: str | None = None
    while below in above:
        layers.append(above.pop(below))
        below = layers[-1].group
    if above or below is None:
        raise InputError(
            f"{model.name} is not a chain of layers: {', '.join(map(str, above))} cannot be reached from its inputs."
        )
    top = _only_reader(model, below)
    if any(axes_of(entry) for i, entry in enumerate(spec.axes[top.name]) if i != top.position):
        raise InputError(
            f"{model.name}: {top.name} reads {below!r} and produces hidden units, expected the last layer to produce "
            "none."
        )
    layers.append(Layer(top.name, top, None, ()))
    numbers = trees.flatten(trees.floating(theta))
    biases = tuple(leaf for leaf in numbers if leaf != top.name and not any(map(axes_of, spec.axes[leaf])))
    chain = Chain(tuple(layers), biases, tuple(sizes[layer.group] for layer in layers[:-1] if layer.group))
    with jax.enable_x64(True):
        _check_by_trial(model, chain)
    return chain


def _layer(model: Model, group: str, shapes: Mapping[str, tuple[int, ...]]) -> Layer:
    """The layer that produces a group."""
    incoming = tuple(UnitAxis(*each) for each in model.spec.places(group) if not each[2].consumes)
    kernels = [unit_axis.name for unit_axis in incoming if len(shapes[unit_axis.name]) > 1]
    if len(kernels) != 1 or len({unit_axis.name for unit_axis in incoming}) < len(incoming):
        raise InputError(
            f"{model.name}: {group!r} is produced by {', '.join(kernels) or 'no kernel'}, and its units cannot "
            "be dropped one by one (a residual trunk adds to them, a recurrent layer reads them again). Expected a "
            "feed-forward chain, each hidden layer produced by one kernel."
        )
    for name, _, axis in incoming:
        if axis.start or axis.stop is not None or (name != kernels[0] and len(axes_of(model.spec.axes[name][0])) > 1):
            raise InputError(
                f"{model.name}: {group!r} is only a part of {name} (a concatenation, a norm over some of the units), "
                "expected a feed-forward chain of whole layers."
            )
    _only_reader(model, group)
    name = kernels[0]
    entries = enumerate(model.spec.axes[name])
    read = [UnitAxis(name, i, axis) for i, entry in entries for axis in axes_of(entry) if axis.consumes]
    if len(read) > 1 or any(unit_axis.axis.group == group for unit_axis in read):
        raise InputError(f"{model.name}: {name} reads several groups, or its own: expected the layer below alone.")
    return Layer(name, read[0] if read else None, group, incoming)


def _only_reader(model: Model, group: str) -> UnitAxis:
    readers = [UnitAxis(*each) for each in model.spec.places(group) if each[2].consumes]
    if len(readers) != 1 or readers[0].axis.start or readers[0].axis.stop is not None:
        names = ", ".join(unit_axis.name for unit_axis in readers) or "no layer"
        raise InputError(
            f"{model.name}: {group!r} is read by {names}, and its units cannot be dropped one by one (a residual "
            "trunk, a recurrent or a joined layer). Expected a feed-forward chain, each hidden layer read by one "
            "kernel."
        )
    return readers[0]


def layer_of(model: Model, group: str) -> tuple[Layer, UnitAxis]:
    """The layer that produces a group, and the axis of the only kernel that reads it.

    Raises:
        SpecError: If there is no such group.
        InputError: If its units are those of a residual trunk, of a recurrent layer, or of a layer that is read twice
            or in part.
    """
    model.spec.places(group)
    theta = jax.eval_shape(model.init, jax.random.key(0))
    return _layer(model, group, trees.shapes(theta)), _only_reader(model, group)


def random_variables(model: Model, rng: np.random.Generator) -> Leaves:
    """Random variables for trials, float64: parameters of both signs, and positive statistics, as for variances.

    Leaves that are not floating-point are those of a network as it is initialised.
    """
    theta = jax.eval_shape(model.init, jax.random.key(0))
    shapes = trees.shapes(trees.floating(theta))
    found = {name: 0.1 + np.abs(rng.normal(size=shape)) / max(shape[-1:] or (1,)) for name, shape in shapes.items()}
    drawn = {
        name: leaf if name.startswith("batch_stats/") else leaf * rng.choice((-1, 1), leaf.shape)
        for name, leaf in found.items()
    }
    return drawn if len(drawn) == len(trees.flatten(theta)) else {**on_host(model.init(jax.random.key(0))), **drawn}


def random_inputs(model: Model, rng: np.random.Generator, count: int = 3) -> np.ndarray:
    """Random inputs for trials: float64, or tokens."""
    shape = (count, *model.input_shape)
    return rng.integers(0, 2, shape) if model.input_dtype.startswith("int") else rng.normal(size=shape)


def outputs_agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether outputs in float64 are equal up to rounding."""
    return bool(np.allclose(a, b, rtol=0, atol=1e-6 * max(float(np.abs(b).max(initial=0)), 1e-30)))


def computes(model: Model, function: Callable[[Leaves, np.ndarray], np.ndarray]) -> bool:
    """Whether a model computes this function (variables, flat inputs) -> outputs, by a trial in float64."""
    rng = np.random.default_rng(0)
    leaves, x = random_variables(model, rng), random_inputs(model, rng, 8)
    with jax.enable_x64(True):
        outputs = np.asarray(model.apply(trees.nest(leaves), jnp.asarray(x)))
    return outputs_agree(outputs, function(leaves, x.reshape(len(x), -1)))


def _check_by_trial(model: Model, chain: Chain) -> None:
    """Check that units without outgoing weights have no effect, and that the outputs are affine in the top."""
    rng = np.random.default_rng(0)
    theta, other = random_variables(model, rng), random_variables(model, rng)
    unread = {group: np.arange(0, size, 2) for group, size in zip(chain.groups, chain.sizes, strict=True)}
    x = random_inputs(model, rng)
    apply = jax.jit(lambda leaves: model.apply(trees.nest(leaves), jnp.asarray(x)))
    start = {**theta}
    for group, units in unread.items():
        unit_axis = chain.outgoing(group)
        start[unit_axis.name] = unit_axis.put(start[unit_axis.name], units, 0.0)
    before = np.asarray(apply(start))
    # Layer by layer, so that the error can name the layer.
    for layer in chain.layers[:-1]:
        changed, units = {**start}, unread[str(layer.group)]
        for unit_axis in layer.incoming:
            changed[unit_axis.name] = unit_axis.put(
                changed[unit_axis.name], units, unit_axis.take(other[unit_axis.name], units)
            )
        if not outputs_agree(np.asarray(apply(changed)), before):
            raise InputError(
                f"{model.name}: units of {layer.group!r} have an effect although no layer reads them, so they "
                "cannot be dropped alone (a norm over units, a skip connection). Expected a feed-forward chain."
            )
    top = (chain.top.kernel, *chain.output_biases)
    ends = [{**theta, **{name: source[name] for name in top}} for source in (theta, other)]
    middle = {**theta, **{name: (theta[name] + other[name]) / 2 for name in top}}
    if not outputs_agree(np.asarray(apply(middle)), (np.asarray(apply(ends[0])) + np.asarray(apply(ends[1]))) / 2):
        raise InputError(
            f"{model.name}: its outputs are not affine in {', '.join(top)}, so that the loss is not convex in "
            "them. Expected a linear last layer, and no other leaves without hidden units."
        )


def check_network(model: Model, theta: trees.Tree, what: str = "theta") -> None:
    """Raise SpecError if `theta` is of another model, InputError if it is several networks or not finite."""
    if theta is None and what == "point":
        raise InputError("point: got None, expected a network. A path that ended early has no point: see `stopped`.")
    if has_leading_axis(theta, model):
        raise InputError(
            f"{what}: got several networks along a leading axis, expected one network: call the function for each."
        )
    for name, leaf in on_host(trees.floating(theta)).items():
        if not np.isfinite(leaf).all():
            raise InputError(f"{what}: {name} holds values that are not finite, expected a network that was trained.")


def scale_outputs(chain: Chain, theta: trees.Tree, factors: Mapping[str, Any]) -> trees.Tree:
    """Multiply the output of each unit by its factor, float (n,) per group; zero drops the unit. Pure.

    The factors multiply the kernel that reads the units; incoming weights do not change.
    """
    leaves = trees.flatten(theta)
    for group, factor in factors.items():
        kernel, position, axis = chain.outgoing(group)
        along = jnp.tile(jnp.repeat(jnp.asarray(factor), axis.inner), axis.outer)
        shape = [1] * leaves[kernel].ndim
        shape[position] = -1
        leaves[kernel] = leaves[kernel] * along.reshape(shape).astype(leaves[kernel].dtype)
    return trees.map_with_name(lambda name, _: leaves[name], theta)


def on_host(theta: trees.Tree) -> Leaves:
    """The variables of one network by name, as numpy arrays, but for typed keys."""
    return trees.on_host(trees.flatten(theta))
