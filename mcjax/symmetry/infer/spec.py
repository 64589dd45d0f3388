"""The permutation symmetry of any traced function, inferred from its computation."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from mcjax import trees
from mcjax.errors import check_function
from mcjax.symmetry.axis import Axis, SpecError
from mcjax.symmetry.infer.occurrences import Occurrence
from mcjax.symmetry.infer.propagation import Propagation, propagate
from mcjax.symmetry.spec import PermutationSpec


def infer_spec(fn: Callable[..., Any], theta: trees.Tree, x: Any, *, strict: bool = False) -> PermutationSpec:
    """The spec of all permutations of units that leave `fn(theta, x)` unchanged, found by tracing it.

    `fn` is traced to a jaxpr, and the rule of each primitive decides which axes must be permuted together: the two
    sides of a contraction, the operands of an addition, the carry of a scan. Reshapes split axes into factors and
    concatenations into segments, so heads, gates, flattened feature maps and dense blocks become `Axis` entries with
    outer, inner, start and stop. Axes of inputs and outputs, and axes whose positions matter to an operation, are never
    permuted; `spec.pinned` gives the reasons. `mcjax.symmetry.infer` explains the algorithm.

    A group is named after the first layer that produces it, with dots for slashes. If a layer produces several groups,
    the axis of its kernel is appended, as in `query:1`, and then the factor on that axis, as in `Dense_0:1.0`.

    `fn` should call the network in evaluation mode, since dropout masks are not permuted. A Flax NNX module is given in
    its functional form::

        graphdef, state = nnx.split(module)
        spec = infer_spec(lambda state, x: nnx.merge(graphdef, state)(x), state, x)

    Only permutations are found, and only those that hold for all values of the variables. Not found are:

    - continuous symmetries (rotations of a linear layer's units or of a residual stream under RMSNorm, any invertible
      map between query and key), scalings (of a ReLU unit, before a norm) and sign flips (of a tanh unit): no
      permutation expresses them;
    - symmetries of special values alone (a unit that is zero, two units that are equal);
    - permutations of one axis that differ for each index of another, such as those of the units within every attention
      head or within every group of a grouped convolution: one permutation serves all heads;
    - reorderings of entries that are selected by index (the entries of a codebook, the experts of a top-k gate), since
      positions matter to indices.

    Args:
        fn: The function of variables and inputs; it returns a pytree of arrays.
        theta: Variables, a pytree of arrays or of `jax.ShapeDtypeStruct`s; only shapes and dtypes are used.
        x: Inputs, likewise.
        strict: Whether a primitive without a rule raises an error. By default it pins all its axes, and `spec.pinned`
            names it.

    Returns:
        The spec of `theta`.

    Raises:
        InputError: If `fn` does not take these two arguments.
        SpecError: If `strict` and a primitive has no rule, or if two leaves have the same name.
    """
    check_function("fn(theta, x) -> outputs", fn)
    found = propagate(fn, theta, x)
    if strict and found.without_rule:
        raise SpecError(
            "no rule for these primitives, so that their axes cannot be permuted: "
            f"{', '.join(found.without_rule)}. Without strict=True these axes stay in place."
        )
    names = _group_names(found)
    axes: dict[str, tuple] = {}
    pinned: dict[tuple[str, int], str] = {}
    origin = 0
    for leaf, products in found.leaves.items():
        entries = []
        for position, product in enumerate(products):
            consumes = _consumes(found, origin, len(products))
            length = found.factors.length(product)
            # Every free factor on the axis is an entry; an axis without one is pinned.
            declared = tuple(as_axis(each, names[each.atom], length, consumes) for each in found.occurrences(product))
            entries.append(declared if len(declared) != 1 else declared[0])
            if length > 1 and not declared:
                pinned[leaf, position] = _shorten(found.factors.reason(product), leaf)
            origin += 1
        axes[leaf] = tuple(entry or None for entry in entries)
    return PermutationSpec(axes, pinned)


def as_axis(occurrence: Occurrence, group: str, length: int, consumes: bool | None = None) -> Axis:
    """The spec's entry for a factor's occurrence on an axis.

    Args:
        occurrence: The occurrence.
        group: Name of the group that permutes the factor.
        length: Length of the axis.
        consumes: Whether the axis consumes the units. None: left open.

    Returns:
        The axis.
    """
    if occurrence.stop - occurrence.start == length:
        return Axis(group, occurrence.outer, occurrence.inner, consumes=consumes)
    return Axis(group, occurrence.outer, occurrence.inner, consumes, occurrence.start, occurrence.stop)


def _shorten(reason: str, leaf: str) -> str:
    """The reason, without its module if that is the layer of the leaf."""
    what, _, where = reason.rpartition(" in ")
    return what if what and where.partition("/")[2] == _layer(leaf) else reason


def _consumes(found: Propagation, origin: int, rank: int) -> bool:
    """Whether a leaf's axis consumes units: as recorded; without a record, every axis but the last does."""
    if origin in found.produced or origin in found.consumed:
        return origin not in found.produced
    return found.leaf_axes[origin][1] != rank - 1


def _group_names(found: Propagation) -> dict[int, str]:
    """A name for every class of free factors: the path of the first layer that produces it."""
    # The first axis that produces each class: leaf, position, and number of the occurrence on that axis.
    makers: dict[int, tuple[str, int, int]] = {}
    order = [*found.produced, *(i for i in range(len(found.leaf_axes)) if i not in found.produced)]
    for origin in order:
        leaf, position = found.leaf_axes[origin]
        for number, occurrence in enumerate(found.occurrences(found.leaves[leaf][position])):
            makers.setdefault(occurrence.atom, (leaf, position, number))
    # Each class gets the shortest of these forms that is unique.
    forms: list[Callable[[str, int, int], str]] = [
        lambda leaf, position, number: _layer(leaf),
        lambda leaf, position, number: f"{_layer(leaf)}:{position}",
        lambda leaf, position, number: f"{_layer(leaf)}:{position}.{number}",
        lambda leaf, position, number: f"{leaf}:{position}.{number}",
    ]
    names: dict[int, str] = {}
    for form in forms:
        # Dots, since a slash in the name of a leaf begins another level.
        candidates = {atom: form(*maker).replace("/", ".") for atom, maker in makers.items() if atom not in names}
        counts = Counter([*candidates.values(), *names.values()])
        names.update({atom: name for atom, name in candidates.items() if counts[name] == 1})
    return names


def _layer(leaf: str) -> str:
    """The layer of a leaf: its path without the collection and the last name."""
    path = leaf.split("/")
    if len(path) > 1 and path[0] in ("params", "batch_stats"):
        path = path[1:]
    elif len(path) > 1 and path[-1] == "value":  # the state of an NNX module
        path = path[:-1]
    return "/".join(path[:-1] or path)


__all__ = ["as_axis", "infer_spec"]
