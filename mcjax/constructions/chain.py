"""A network as a chain of layers whose units can be dropped, copied and written one by one.

Weight matrices and hidden layers are counted from 1, as the papers do: layer i is made by matrix i and read by
matrix i + 1, and the last matrix is the top, which makes the outputs.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import Model, has_leading_axis
from mcjax.symmetry.axis import Axis, axes_of

Leaves = dict[str, np.ndarray]
"""The variables of one network on the host, by name."""


class Layer(NamedTuple):
    """One weight matrix, what reads and makes units of it, and all else that comes with the units it makes.

    inputs: which axis of the kernel reads the units of the layer below (None for the first layer). group: the
    units that it makes (None for the top). makes: every (leaf, position, axis) that makes them: the kernel's own
    output axis, biases, norms and batch statistics.
    """

    kernel: str
    inputs: tuple[int, Axis] | None
    group: str | None
    makes: tuple[tuple[str, int, Axis], ...]


class Chain(NamedTuple):
    """The layers from the first to the top. beside: leaves of no group but the top's kernel: the outputs' bias."""

    layers: tuple[Layer, ...]
    beside: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The hidden layers from below: groups[i - 1] is the paper's layer i."""
        return tuple(layer.group for layer in self.layers if layer.group is not None)

    @property
    def top(self) -> Layer:
        """The last weight matrix."""
        return self.layers[-1]

    def reader(self, group: str) -> tuple[str, int, Axis]:
        """The kernel that reads a group: its name, the position of the axis, and the axis."""
        layer = self.layers[self.groups.index(group) + 1]
        assert layer.inputs is not None
        return layer.kernel, *layer.inputs


def chain(model: Model) -> Chain:
    """The chain of layers that a feed-forward model is.

    Raises InputError, naming the group, if its units cannot be dropped alone: those of a residual trunk, of a
    recurrent layer, of a layer that is read twice, of a layer under a norm over units; and if the outputs are not
    affine in the top. Batch norm is sound: a unit's statistics are its own.
    """
    # What is checked is computed at once, also where a caller is being traced.
    with jax.ensure_compile_time_eval():
        return _chain(model)


@lru_cache(maxsize=64)
def _chain(model: Model) -> Chain:
    shapes = trees.shapes(jax.eval_shape(model.init, jax.random.key(0)))
    spec = model.spec
    sizes = spec.group_sizes(jax.eval_shape(model.init, jax.random.key(0)))
    if not sizes:
        raise InputError(f"{model.name} has no hidden units that its spec names: expected a spec with groups.")
    found = {group: _layer(model, group, shapes) for group in sizes}
    above = {layer.inputs[1].group if layer.inputs else None: layer for layer in found.values()}
    if len(above) < len(found):
        raise InputError(f"{model.name} branches: expected every hidden layer to be read by one layer alone.")
    layers: list[Layer] = []
    below: str | None = None
    while below in above:
        layers.append(above.pop(below))
        below = layers[-1].group
    if above or below is None:
        raise InputError(
            f"{model.name} is not a chain of layers: {', '.join(map(str, above))} cannot be reached from its inputs."
        )
    name, position, axis = _only_reader(model, below)
    if any(axes_of(entry) for i, entry in enumerate(spec.axes[name]) if i != position):
        raise InputError(f"{model.name}: {name} reads {below!r} and makes units, expected the last layer to make none.")
    layers.append(Layer(name, (position, axis), None, ()))
    beside = tuple(leaf for leaf in shapes if leaf != name and not any(map(axes_of, spec.axes[leaf])))
    chained = Chain(tuple(layers), beside, tuple(sizes[layer.group] for layer in layers[:-1] if layer.group))
    _check(model, chained)
    return chained


def _layer(model: Model, group: str, shapes: Mapping[str, tuple[int, ...]]) -> Layer:
    """The layer that makes a group."""
    makes = tuple((name, i, axis) for name, i, axis in model.spec.places(group) if not axis.consumes)
    kernels = [name for name, _, _ in makes if len(shapes[name]) > 1]
    if len(kernels) != 1 or len({name for name, _, _ in makes}) < len(makes):
        raise InputError(
            f"{model.name}: {group!r} is made by {', '.join(kernels) or 'no kernel'}, and its units do not stand "
            "alone (a residual trunk adds to them, a recurrent layer reads them again). Expected a feed-forward chain, "
            "each hidden layer made by one kernel."
        )
    for name, _, axis in makes:
        if axis.start or axis.stop is not None or (name != kernels[0] and len(axes_of(model.spec.axes[name][0])) > 1):
            raise InputError(
                f"{model.name}: {group!r} is only a part of {name} (a concatenation, a norm over some of the units), "
                "expected a feed-forward chain of whole layers."
            )
    _only_reader(model, group)
    name = kernels[0]
    read = [(i, axis) for i, entry in enumerate(model.spec.axes[name]) for axis in axes_of(entry) if axis.consumes]
    if len(read) > 1 or any(axis.group == group for _, axis in read):
        raise InputError(f"{model.name}: {name} reads several groups, or its own: expected the layer below alone.")
    return Layer(name, read[0] if read else None, group, makes)


def _only_reader(model: Model, group: str) -> tuple[str, int, Axis]:
    readers = [(name, i, axis) for name, i, axis in model.spec.places(group) if axis.consumes]
    if len(readers) != 1 or readers[0][2].start or readers[0][2].stop is not None:
        said = ", ".join(name for name, _, _ in readers) or "no layer"
        raise InputError(
            f"{model.name}: {group!r} is read by {said}, and its units do not stand alone (a residual trunk, a "
            "recurrent or a joined layer). Expected a feed-forward chain, each hidden layer read by one kernel."
        )
    return readers[0]


def layer_of(model: Model, group: str) -> tuple[Layer, tuple[str, int, Axis]]:
    """The layer that makes a group, and the kernel that reads it: its name, the position of the axis, and the axis.

    Raises SpecError if there is no such group, InputError, naming it, if its units are those of a residual trunk, of a
    recurrent layer, of a layer that is read twice or in part.
    """
    model.spec.places(group)
    theta = jax.eval_shape(model.init, jax.random.key(0))
    return _layer(model, group, trees.shapes(theta)), _only_reader(model, group)


def drawn(model: Model, rng: np.random.Generator) -> Leaves:
    """Variables to try a model with, float64: parameters of both signs, statistics positive, as variances are."""
    shapes = trees.shapes(jax.eval_shape(model.init, jax.random.key(0)))
    found = {name: 0.1 + np.abs(rng.normal(size=shape)) / max(shape[-1:] or (1,)) for name, shape in shapes.items()}
    return {
        name: leaf if name.startswith("batch_stats/") else leaf * rng.choice((-1, 1), leaf.shape)
        for name, leaf in found.items()
    }


def inputs_for(model: Model, rng: np.random.Generator, count: int = 3) -> np.ndarray:
    """Inputs to try a model with: float64, or tokens."""
    shape = (count, *model.input_shape)
    return rng.integers(0, 2, shape) if model.input_dtype.startswith("int") else rng.normal(size=shape)


def _check(model: Model, chained: Chain) -> None:
    """That units which no layer reads have no effect, and that outputs are affine in the top: in float64."""
    rng = np.random.default_rng(0)
    theta, other = drawn(model, rng), drawn(model, rng)
    dead = {group: np.arange(0, size, 2) for group, size in zip(chained.groups, chained.sizes, strict=True)}
    with jax.enable_x64(True):
        x = inputs_for(model, rng)
        apply = jax.jit(lambda leaves: model.apply(trees.nest(leaves), jnp.asarray(x)))
        unread = {**theta}
        for group, units in dead.items():
            kernel, position, axis = chained.reader(group)
            unread[kernel] = put(unread[kernel], position, axis, units, 0.0)
        before = np.asarray(apply(unread))
        # One layer at a time, to name it.
        for layer in chained.layers[:-1]:
            changed = {**unread}
            for name, position, axis in layer.makes:
                units = dead[str(layer.group)]
                changed[name] = put(changed[name], position, axis, units, take(other[name], position, axis, units))
            if not near(np.asarray(apply(changed)), before):
                raise InputError(
                    f"{model.name}: units of {layer.group!r} have an effect although no layer reads them, so they "
                    "cannot be dropped alone (a norm over units, a skip connection). Expected a feed-forward chain."
                )
        moved = (chained.top.kernel, *chained.beside)
        ends = [{**theta, **{name: source[name] for name in moved}} for source in (theta, other)]
        middle = {**theta, **{name: (theta[name] + other[name]) / 2 for name in moved}}
        if not near(np.asarray(apply(middle)), (np.asarray(apply(ends[0])) + np.asarray(apply(ends[1]))) / 2):
            raise InputError(
                f"{model.name}: its outputs are not affine in {', '.join(moved)}, so that the loss is not convex in "
                "them. Expected a linear last layer, and no other leaves beside those of hidden layers."
            )


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether outputs in float64 are equal but for rounding."""
    return bool(np.allclose(a, b, rtol=0, atol=1e-6 * max(float(np.abs(b).max(initial=0)), 1e-30)))


def check_network(model: Model, theta: trees.Tree, what: str = "theta") -> None:
    """Raise SpecError if `theta` is of another model, InputError if it is several networks or not finite."""
    if theta is None and what == "point":
        raise InputError("point: got None, expected a network. A path that was stopped has no point: see its stopped.")
    if has_leading_axis(theta, model):
        raise InputError(f"{what}: got several networks along a leading axis, expected one: call this for each.")
    for name, leaf in on_host(theta).items():
        if not np.isfinite(leaf).all():
            raise InputError(f"{what}: {name} holds values that are not finite, expected a network that was trained.")


def take(leaf: np.ndarray, position: int, axis: Axis, units: np.ndarray) -> np.ndarray:
    """The entries of some units along one axis of a leaf, in the order of `units`; that axis comes first."""
    moved = np.moveaxis(np.asarray(leaf), position, 0)
    return moved[axis.positions(len(moved))[units].ravel()]


def put(leaf: np.ndarray, position: int, axis: Axis, units: np.ndarray, value: Any) -> np.ndarray:
    """A leaf with other entries of some units along one axis; `value` as `take` returns it, or a number."""
    new = np.array(leaf)
    moved = np.moveaxis(new, position, 0)
    moved[axis.positions(len(moved))[units].ravel()] = value
    return new


def scale_outputs(chained: Chain, theta: trees.Tree, factors: Mapping[str, Any]) -> trees.Tree:
    """`theta` with the outputs of every unit times its factor, float (n,) a group: in what reads them. Pure.

    Zero drops a unit; what makes it stays as it is.
    """
    leaves = trees.flatten(theta)
    for group, factor in factors.items():
        kernel, position, axis = chained.reader(group)
        along = jnp.tile(jnp.repeat(jnp.asarray(factor), axis.inner), axis.outer)
        shape = [1] * leaves[kernel].ndim
        shape[position] = -1
        leaves[kernel] = leaves[kernel] * along.reshape(shape).astype(leaves[kernel].dtype)
    return trees.map_with_name(lambda name, _: leaves[name], theta)


def on_host(theta: trees.Tree) -> Leaves:
    """The variables of one network by name, as numpy arrays."""
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(theta).items()}
