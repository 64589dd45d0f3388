"""The permutation symmetry of any traced function, read off its computation."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from mcjax import trees
from mcjax.symmetry.axis import Axis, SpecError
from mcjax.symmetry.infer.pieces import Piece
from mcjax.symmetry.infer.walk import Walk, walk
from mcjax.symmetry.spec import PermutationSpec


def infer_spec(fn: Callable[..., Any], theta: trees.Tree, x: Any, *, strict: bool = False) -> PermutationSpec:
    """The spec of all permutations of units that leave `fn(theta, x)` as it is, found by tracing it.

    theta and x: pytrees of arrays or of `jax.ShapeDtypeStruct`s, of which only shapes and dtypes are
    read. `fn` is traced to a jaxpr and each primitive says which axes are one and the same: the two
    sides of a contraction, what is added, what a scan carries. Reshapes split axes into factors and
    concatenations into segments, so heads, gates, flattened feature maps and dense blocks come out
    as `Axis` with outer, inner, start and stop. What touches inputs or outputs, or an operation that
    tells positions apart, stays in place, and `spec.pinned` says why. A group is named after the
    layer that makes it first, with dots for slashes; where a layer makes several, after the axis of its
    kernel too, `query:1`, and the factor on it, `Dense_0:1.0`. It is the symmetry of `fn` as it is called: give
    a network in testing mode, since dropout treats every unit by itself. For a Flax NNX module give
    its functional form:

        graphdef, state = nnx.split(module)
        spec = infer_spec(lambda state, x: nnx.merge(graphdef, state)(x), state, x)

    Raises SpecError with `strict` if a primitive has no rule; without, all that it touches stays in
    place and `spec.pinned` names it.

    Only permutations are found, and only those that hold whatever the variables are. Not found: the
    continuous symmetries (rotations of a linear layer's units or of a residual stream under RMSNorm,
    any invertible map between query and key), scalings (of a ReLU unit, before a norm) and sign flips
    (of a tanh unit), since no permutation expresses them, and the group that P ranges over would not
    be finite; what holds for special values alone (a unit that is zero, two that are equal); and
    permutations in which one axis moves differently for each index of another, such as the units of
    every attention head by themselves or the groups of a grouped convolution: there the same
    permutation serves all heads; nor those that reorder what is looked up or chosen (the entries of a
    codebook, the experts of a top-k gate), since indices tell positions apart.
    """
    found = walk(fn, theta, x)
    if strict and found.unknown:
        raise SpecError(
            "no rule for these primitives, so that what they touch cannot be permuted: "
            f"{', '.join(found.unknown)}. Without strict=True these axes stay in place."
        )
    names = _names(found)
    axes: dict[str, tuple] = {}
    pinned: dict[tuple[str, int], str] = {}
    origin = 0
    for leaf, products in found.leaves.items():
        entries = []
        for position, product in enumerate(products):
            consumes = _consumes(found, origin, len(products))
            length = found.factors.length(product)
            declared = tuple(as_axis(piece, names[piece.atom], length, consumes) for piece in found.pieces(product))
            entries.append(declared if len(declared) != 1 else declared[0])
            if length > 1 and not declared:
                pinned[leaf, position] = _reason(found.factors.why(product), leaf)
            origin += 1
        axes[leaf] = tuple(entry or None for entry in entries)
    return PermutationSpec(axes, pinned)


def as_axis(piece: Piece, group: str, length: int, consumes: bool | None = None) -> Axis:
    """The spec's entry for a piece of an axis of this length."""
    if piece.stop - piece.start == length:
        return Axis(group, piece.outer, piece.inner, consumes=consumes)
    return Axis(group, piece.outer, piece.inner, consumes, piece.start, piece.stop)


def _reason(why: str, leaf: str) -> str:
    # A reason found in the layer that the leaf is of need not name it again.
    what, _, where = why.rpartition(" in ")
    return what if where.partition("/")[2] == _layer(leaf) else why


def _consumes(found: Walk, origin: int, rank: int) -> bool:
    if origin in found.produced or origin in found.consumed:
        return origin not in found.produced
    return found.leaf_axes[origin][1] != rank - 1


def _names(found: Walk) -> dict[int, str]:
    """A name for every class of factors: the path of the layer that makes it first."""
    makers: dict[int, tuple[str, int, int]] = {}
    order = [*found.produced, *(i for i in range(len(found.leaf_axes)) if i not in found.produced)]
    for origin in order:
        leaf, position = found.leaf_axes[origin]
        for number, piece in enumerate(found.pieces(found.leaves[leaf][position])):
            makers.setdefault(piece.atom, (leaf, position, number))
    forms: list[Callable[[str, int, int], str]] = [
        lambda leaf, position, number: _layer(leaf),
        lambda leaf, position, number: f"{_layer(leaf)}:{position}",
        lambda leaf, position, number: f"{_layer(leaf)}:{position}.{number}",
        lambda leaf, position, number: f"{leaf}:{position}.{number}",
    ]
    names: dict[int, str] = {}
    for form in forms:
        # Dots, since a slash in the name of a leaf begins another level.
        found_names = {atom: form(*maker).replace("/", ".") for atom, maker in makers.items() if atom not in names}
        counts = Counter([*found_names.values(), *names.values()])
        names.update({atom: name for atom, name in found_names.items() if counts[name] == 1})
    return names


def _layer(leaf: str) -> str:
    """The layer of a leaf: its path without collection and last name."""
    path = leaf.split("/")
    if len(path) > 1 and path[0] in ("params", "batch_stats"):
        path = path[1:]
    elif len(path) > 1 and path[-1] == "value":  # as the state of an NNX module has it
        path = path[:-1]
    return "/".join(path[:-1] or path)
