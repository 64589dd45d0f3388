"""Permutation symmetry: specs, permutations and their projections."""

from mcjax.symmetry.axis import Axis, SpecError
from mcjax.symmetry.birkhoff import (
    birkhoff_decomposition,
    nearest_permutation,
    nearest_permutation_on_device,
    project_birkhoff,
    sinkhorn,
)
from mcjax.symmetry.infer.activations import infer_activations
from mcjax.symmetry.infer.spec import infer_spec
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

__all__ = [
    "Axis",
    "Permutation",
    "PermutationSpec",
    "SpecError",
    "birkhoff_decomposition",
    "check_invariance",
    "compose",
    "identity_permutation",
    "infer_activations",
    "infer_spec",
    "invert",
    "load_permutation",
    "nearest_permutation",
    "nearest_permutation_on_device",
    "permute",
    "project_birkhoff",
    "random_permutation",
    "save_permutation",
    "sinkhorn",
    "to_matrix",
]
