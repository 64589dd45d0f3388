"""Permutations of the units of all groups: their action on variables, their algebra, and their files.

Unit `i` of `permute(spec, P, theta)` is unit `P[group][i]` of `theta`. As a matrix, `M[i, P[i]] = 1`, and the axis is
contracted with `M`'s second index.
"""

import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.symmetry.axis import Axis, Entry, SpecError, axes_of
from mcjax.symmetry.birkhoff import nearest_permutation_on_device
from mcjax.symmetry.spec import PermutationSpec, check_spec

Permutation = dict[str, Any]
"""One permutation per group: int32[n] (hard) or float[n, n], doubly stochastic (soft)."""


def is_hard(p: Any) -> bool:
    """Whether one group's permutation is an index vector rather than a matrix."""
    return bool(jnp.issubdtype(jnp.asarray(p).dtype, jnp.integer))


def permute(spec: PermutationSpec, P: Permutation, theta: trees.Tree) -> trees.Tree:
    """The permuted variables `P theta` (Neuron Alignment, eq. 4): all axes of a group are permuted together.

    A soft P mixes the units of floating-point leaves, in float32 at least. The units of other leaves, such as masks and
    counters, are never mixed: a soft P moves them by its nearest permutation. Leaves whose axes have no group stay as
    they are. Works under jit and vmap.

    Args:
        spec: The spec of `theta`.
        P: Hard (int32[n] per group) or soft (float[n, n] per group).
        theta: Any pytree that the spec describes.

    Returns:
        A pytree like `theta`; leaves keep their dtypes, rounded once.

    Raises:
        SpecError: If `P`, the spec and the variables do not match, a concrete hard `P` repeats an index, or a concrete
            soft `P` is not doubly stochastic.
    """
    check_spec(spec)
    check_permutation(spec, P, spec.group_sizes(theta))
    return _permute(spec, P, theta)


@partial(jax.jit, static_argnums=0, inline=True)
def _permute(spec: PermutationSpec, P: Permutation, theta: trees.Tree) -> trees.Tree:
    return trees.map_with_name(lambda name, leaf: permute_leaf(spec.axes[name], P, leaf), theta)


def permute_leaf(entries: Sequence[Entry], P: Permutation, leaf: Any) -> Any:
    """One leaf, with every axis permuted according to its entry. Nothing is checked."""
    if not any(map(axes_of, entries)):
        return leaf
    leaf = jnp.asarray(leaf)
    floating, dtype = trees.is_floating(leaf), leaf.dtype
    for position, entry in enumerate(entries):
        for group, axes in segment_runs(axes_of(entry)):
            p = jnp.asarray(P[group])
            if floating and not is_hard(p):
                leaf = trees.widened(leaf)
            elif not is_hard(p):
                p = nearest_permutation_on_device(jax.lax.stop_gradient(p))
            leaf = _permute_axis(leaf, position, axes, p)
    return leaf.astype(dtype) if floating else leaf


def segment_runs(axes: tuple[Axis, ...]) -> list[tuple[str, list[Axis]]]:
    """The axes of an entry by group, in runs of successive segments, each of which one step permutes."""
    runs: list[tuple[str, list[Axis]]] = []
    for axis in axes:
        last = next((run for group, run in reversed(runs) if group == axis.group), None)
        if last and last[-1].stop is not None and axis.start >= last[-1].stop:
            last.append(axis)
        else:
            runs.append((axis.group, [axis]))
    return runs


def _permute_axis(leaf: jax.Array, position: int, axes: list[Axis], p: jax.Array) -> jax.Array:
    """Permute an axis by reshaping it to (outer, n, inner)."""
    shape, axis = leaf.shape, axes[0]
    if len(axes) > 1 or axis.start or axis.stop is not None:
        return _permute_segments(leaf, position, axes, p)
    factored = leaf.reshape((*shape[:position], axis.outer, -1, axis.inner, *shape[position + 1 :]))
    if is_hard(p):
        moved = jnp.take(factored, p, axis=position + 1, unique_indices=True, mode="clip")
    else:
        contracted = jnp.tensordot(p.astype(leaf.dtype), factored, axes=(1, position + 1), precision="highest")
        moved = jnp.moveaxis(contracted, 0, position + 1)
    return moved.reshape(shape)


def _permute_segments(leaf: jax.Array, position: int, axes: list[Axis], p: jax.Array) -> jax.Array:
    """Permute the units on segments of an axis. All positions outside the segments stay."""
    length = leaf.shape[position]
    # The positions of every unit, (n, copies).
    at = np.concatenate([axis.positions(length) for axis in axes], 1)
    if is_hard(p):
        index = jnp.arange(length).at[at].set(jnp.asarray(at)[p])
        return jnp.take(leaf, index, axis=position, unique_indices=True, mode="clip")
    moved = jnp.moveaxis(leaf, position, 0)
    mixed = jnp.tensordot(p.astype(leaf.dtype), moved[at], axes=1, precision="highest")
    return jnp.moveaxis(moved.at[at].set(mixed), 0, position)


def check_mapping(P: Any) -> None:
    """Raise SpecError unless P is a dict, and no network."""
    if not isinstance(P, Mapping) or any(isinstance(p, Mapping) for p in P.values()):
        raise SpecError(
            f"got {type(P).__name__} for P, expected a dict of one permutation for each group: of a match or a fit, "
            "its .P."
        )


def check_permutation(spec: PermutationSpec, P: Permutation, sizes: dict[str, int]) -> None:
    """Raise SpecError, naming every group, if `P` is not a permutation for groups of these sizes."""
    check_mapping(P)
    if P.keys() != sizes.keys():
        raise SpecError(
            f"P is for another spec: got groups {sorted(P)}, expected {sorted(sizes)}. "
            "Match these two networks again, or give the spec that P was made with."
        )
    problems = []
    for group, n in sizes.items():
        p = P[group]
        if is_hard(p):
            if jnp.shape(p) != (n,):
                problems.append(f"{group}: got shape {jnp.shape(p)}, expected ({n},)")
            elif not isinstance(p, jax.core.Tracer) and (np.sort(np.asarray(p)) != np.arange(n)).any():
                values, counts = np.unique(np.asarray(p), return_counts=True)
                outside = values[(values < 0) | (values >= n)].tolist()
                wrong = f"outside {outside}" if outside else f"repeated {values[counts > 1].tolist()}"
                problems.append(f"{group}: not a permutation of 0..{n - 1}; {wrong}")
        elif jnp.shape(p) != (n, n):
            problems.append(f"{group}: got shape {jnp.shape(p)}, expected ({n}, {n}) or int32 ({n},)")
    if problems:
        raise SpecError("P cannot be applied:\n  " + "\n  ".join(problems))
    check_doubly_stochastic(P)


def check_doubly_stochastic(P: Permutation) -> None:
    """Raise SpecError if a concrete soft group of P ([pairs,] n, n) is not doubly stochastic.

    Sums may be off by 1e-3 and entries as low as -0.1, since alternating projection leaves small negative entries.
    """
    problems = []
    for group, p in P.items():
        if is_hard(p) or isinstance(p, jax.core.Tracer):
            continue
        matrix = np.asarray(p, np.float64)
        off = max(np.abs(matrix.sum(axis) - 1).max(initial=0) for axis in (-1, -2))
        least = matrix.min(initial=np.inf)
        if not off <= 1e-3 or least < -0.1:
            problems.append(f"{group}: sums off by {off:.2g}, least entry {least:.2g}")
    if problems:
        raise SpecError(
            "P is not doubly stochastic:\n  " + "\n  ".join(problems) + "\nExpected rows and columns that sum to 1 "
            "and no negative entries: mcjax.symmetry.project_birkhoff makes them so."
        )


def identity_permutation(spec: PermutationSpec, theta: trees.Tree) -> Permutation:
    """The hard permutation that moves no unit: {group: int32[n]}."""
    check_spec(spec)
    return {group: jnp.asarray(np.arange(n, dtype=np.int32)) for group, n in spec.group_sizes(theta).items()}


def random_permutation(key: jax.Array, spec: PermutationSpec, theta: trees.Tree) -> Permutation:
    """A hard permutation {group: int32[n]} drawn uniformly, independently for every group."""
    trees.check_keys(key, 0)
    check_spec(spec)
    sizes = spec.group_sizes(theta)
    keys = jax.random.split(key, max(len(sizes), 1))
    return {
        group: jax.random.permutation(k, n).astype(jnp.int32)
        for k, (group, n) in zip(keys, sizes.items(), strict=False)
    }


def to_matrix(p: Any) -> jax.Array:
    """One group's permutation as a float32 matrix (n, n); a matrix is returned in float32 at least."""
    return jax.nn.one_hot(p, jnp.shape(p)[-1], dtype=jnp.float32) if is_hard(p) else trees.at_least_float32(p)


def invert(P: Permutation) -> Permutation:
    """The inverse of a hard P; the transpose of a soft one."""
    check_mapping(P)
    return {
        group: jnp.argsort(p).astype(jnp.int32) if is_hard(p) else jnp.swapaxes(p, -1, -2) for group, p in P.items()
    }


def compose(P: Permutation, Q: Permutation) -> Permutation:
    """The permutation that applies Q, then P.

    `permute(spec, compose(P, Q), theta) == permute(spec, P, permute(spec, Q, theta))`. Two hard permutations of a group
    give a hard one; if either is soft, the result is soft. Both may have a leading pair axis. Raises SpecError if the
    groups differ.
    """
    check_mapping(P)
    check_mapping(Q)
    if P.keys() != Q.keys():
        raise SpecError(f"cannot compose: got groups {sorted(P)} and {sorted(Q)}, expected the same ones.")
    return {
        group: jnp.take_along_axis(jnp.asarray(Q[group]), jnp.asarray(p), axis=-1)
        if is_hard(p) and is_hard(Q[group])
        else jnp.matmul(to_matrix(p), to_matrix(Q[group]), precision="highest")
        for group, p in P.items()
    }


def save_permutation(path: str | Path | BinaryIO, P: Permutation) -> None:
    """Write P as an `.npz` with one array per group, to a path or an open file."""
    arrays: dict[str, Any] = {group: np.asarray(p) for group, p in P.items()}
    with open(path, "wb") if isinstance(path, str | Path) else nullcontext(path) as file:
        np.savez(file, **arrays)


def load_permutation(path: str | Path) -> Permutation:
    """Read the permutation that `save_permutation` wrote, without pickle. Raises SpecError for any other file."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            P = {group: arrays[group] for group in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error) as error:
        raise SpecError(f"no permutation at {path}: {error}. Expected an .npz with one int32 array a group.") from error
    for group, p in P.items():
        if not (p.ndim == 1 and p.dtype.kind in "iu") and not (p.ndim == 2 and p.dtype.kind == "f"):
            raise SpecError(
                f"no permutation at {path}: {group!r} is {p.dtype} of shape {p.shape}. "
                "Expected int32 (n,) or float (n, n) for every group."
            )
    return {group: jnp.asarray(p) for group, p in P.items()}
