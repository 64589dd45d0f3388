"""Permutation symmetry inferred from a computation: the spec of any function, its activations and preactivations.

The units of a layer lie on the output axis of its kernel, on its bias, and on the input axis of every kernel that
consumes them. The computation alone determines which axes must be permuted together, so they can be inferred from the
jaxpr, much as a compiler propagates shardings. The algorithm:

1. *Trace.* `program` makes a jaxpr of `fn(theta, x)`, inlines all calls, and removes dead code. The result is a list of
   equations between slots; loops and branches are equations whose bodies are programs.

2. *Give every axis factors.* Each axis of each leaf of `theta` starts as one free factor, an atom, marked with the leaf
   axis that it comes from (its origin). An axis of any value is a product of factors, slowest first, as a result of
   reshapes (heads times units), or a sum of segments, as a result of concatenations (the inputs of a dense block). It
   is None if the value is constant along it. Axes of `x`, and axes along which constant arrays vary, are pinned: they
   are never permuted (`factors`). Only the two axes of an identity matrix may be permuted, both alike.

3. *Unify by rules.* `propagation` goes through the equations in order and hands each one, as an `Operation`, to the
   rule of its primitive (`elementwise`, `layout`, `contractions`). The rule returns the axes of the results, unifies
   axes that must be permuted together (the operands of an addition, the two sides of a contraction), and pins axes
   whose positions matter to the primitive (a cumulative sum, the pixels of a convolution). A primitive without a rule
   pins all its axes. Unifying 3136 with 7 * 7 * 64 refines the first atom into three, everywhere that it occurs; two
   axes whose factors cannot be aligned are pinned. The carries before and after a step of a loop are unified, and so
   are the results of the branches of a conditional. Finally the axes of all outputs are pinned.

4. *Record roles and contractions.* A value is *on data* if it depends on `x`. Step 3 also records the leaf axes that a
   product with a value on data sums over, which consume units; all other leaf axes that are combined with values on
   data, which produce units; and the address of every value on data that is summed over.

5. *Name the groups.* `occurrences` finds the positions of the free factors of an axis. Each class of unified free
   factors is a group, named after the first layer that produces it, and each of its occurrences on a leaf is an `Axis`
   with outer, inner, start and stop (`spec`). An axis without free factors is pinned, with the first reason.

6. *Compute the activations.* The activations of a group are the values recorded in step 4 that are summed over its
   units, computed by the same program, with the units on the last axis (`activations`). `preactivations` and
   `linear_maps` need no factors: they follow kernels through the program to their products with values on data.

Every rule is sound by itself: if the operands are permuted according to their factors, so are the results. Hence any
product of permutations of the groups leaves the function unchanged; a missing or too cautious rule loses groups, but
not correctness. Unchanged means up to rounding, since sums have another order. The cost is linear in the number of
equations.

Read the files in this order: `program`, `factors`, `operation`, `elementwise`, `layout`, `contractions`, `propagation`,
`occurrences`, `spec`, `activations`, `preactivations`, `linear_maps`.

Example::

    import jax.numpy as jnp
    from mcjax.symmetry.infer import infer_spec

    def attention(theta, x):
        q, k, v = ((x @ theta[name]).reshape(len(x), 2, 4) for name in "qkv")
        weights = jnp.exp(jnp.einsum("nhu,mhu->hnm", q, k))
        return jnp.einsum("hnm,mhu->nhu", weights, v).reshape(len(x), 8) @ theta["out"]

    theta = {"q": jnp.ones((3, 8)), "k": jnp.ones((3, 8)), "v": jnp.ones((3, 8)), "out": jnp.ones((8, 3))}
    print(infer_spec(attention, theta, jnp.ones((5, 3))))
"""

from mcjax.symmetry.infer.activations import infer_activations
from mcjax.symmetry.infer.preactivations import infer_preactivations
from mcjax.symmetry.infer.spec import infer_spec

__all__ = ["infer_activations", "infer_preactivations", "infer_spec"]
