"""Permutation symmetry: specs, permutations and their projections."""

from mcjax.symmetry.axis import Axis, SpecError
from mcjax.symmetry.birkhoff import nearest_permutation, project_birkhoff
from mcjax.symmetry.infer import infer_spec
from mcjax.symmetry.invariance import check_invariance
from mcjax.symmetry.permutation import (
    Permutation,
    compose,
    identity_permutation,
    invert,
    load_permutation,
    permute,
    random_permutation,
    save_permutation,
    to_matrix,
)
from mcjax.symmetry.spec import PermutationSpec
from mcjax.symmetry.units import infer_activations

__all__ = [
    "Axis",
    "Permutation",
    "PermutationSpec",
    "SpecError",
    "check_invariance",
    "compose",
    "identity_permutation",
    "infer_activations",
    "infer_spec",
    "invert",
    "load_permutation",
    "nearest_permutation",
    "permute",
    "project_birkhoff",
    "random_permutation",
    "save_permutation",
    "to_matrix",
]
