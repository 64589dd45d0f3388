"""Permutation symmetry: specs, permutations, and projections onto the doubly stochastic matrices.

Permuting the hidden units of a layer, along with all weights that produce or consume them, leaves the function of a
network unchanged. Two networks can be compared, averaged or joined by a low-loss path only once this symmetry between
them is removed (Neuron Alignment, Tatro et al., NeurIPS 2020; Git Re-Basin, Ainsworth et al. 2023). This package holds
the symmetry itself; `mcjax.matching` finds the permutations.

- A *group* is a set of axes, of one leaf or of many, that can only be permuted together. A `PermutationSpec` declares,
  leaf by leaf, the group of each `Axis`. Write one out, join one from `layer_specs`, or infer one from the computation
  of any function with `infer_spec` (`mcjax.symmetry.infer` explains how). `check_invariance` tests it numerically.
- A permutation `P` maps every group to int32[n] (hard) or to a doubly stochastic float[n, n] (soft). `permute(spec, P,
  theta)` applies it: unit `i` of the result is unit `P[group][i]` of `theta`. `compose(P, Q)` applies `Q` first.
  `identity_permutation` and `random_permutation` make permutations, `invert` and `to_matrix` convert them, and
  `save_permutation` and `load_permutation` write and read them.
- `project_birkhoff` and `sinkhorn` make soft permutations, `nearest_permutation` rounds them to hard ones, and
  `birkhoff_decomposition` writes them as mixtures of hard ones.
- `infer_activations` computes the activations of every group, which matching compares.

Errors about specs and permutations are `SpecError`s.

Example::

    import jax
    import jax.numpy as jnp
    from mcjax import models
    from mcjax.symmetry import PermutationSpec, check_invariance, infer_spec, permute, random_permutation

    def mlp(theta, x):
        return jax.nn.relu(x @ theta["w1"] + theta["b1"]) @ theta["w2"]

    # Declare the symmetry, or infer it from the computation.
    spec = PermutationSpec({"w1": (None, "w1"), "b1": ("w1",), "w2": ("w1", None)})
    x = jax.random.normal(jax.random.key(0), (4, 3))
    theta = {"w1": jnp.ones((3, 8)), "b1": jnp.arange(8.0), "w2": jnp.ones((8, 2))}
    assert infer_spec(mlp, theta, x) == spec
    print(spec)

    # Permute the hidden units: the function stays the same.
    P = random_permutation(jax.random.key(1), spec, theta)
    print(jnp.allclose(mlp(permute(spec, P, theta), x), mlp(theta, x)))

    # Every model has a spec. check_invariance raises an error if it is not a symmetry.
    model = models.create("mlp", 3, (4, 4, 1), widths=(8,))
    check_invariance(model, model.init(jax.random.key(2)), jnp.ones((2, 4, 4, 1)), jax.random.key(3))
"""

from mcjax.symmetry import layer_specs
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
    "layer_specs",
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
