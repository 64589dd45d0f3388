"""The permutation spec of any module, read off its computation."""

from mcjax.symmetry.infer.activations import infer_activations
from mcjax.symmetry.infer.spec import infer_spec

__all__ = ["infer_activations", "infer_spec"]
