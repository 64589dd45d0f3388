"""Models: pure functions of one architecture, with the spec of its permutation symmetry."""

from mcjax.models.base import Model
from mcjax.models.modules import from_flax, from_function
from mcjax.models.registry import REGISTRY, create, options_of

__all__ = ["REGISTRY", "Model", "create", "from_flax", "from_function", "options_of"]
