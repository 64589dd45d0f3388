"""Permutation symmetry inferred from a computation: the spec of any function, its activations and preactivations.

Networks are permuted along axes of their weights: the units of a layer lie on the output axis of its kernel, on its
bias, and on the input axis of every kernel that reads them. Which axes go together follows from the computation alone,
so it can be read off the jaxpr, much as a compiler propagates shardings. The algorithm:

1. *Trace.* `program` makes a jaxpr of `fn(theta, x)`, inlines all calls, and removes dead code. What is left is a list
   of equations between slots; loops and branches are equations whose bodies are programs again.

2. *Give every axis factors.* Each axis of each leaf of `theta` starts as one free factor, an atom, marked with the leaf
   axis that it comes from (its origin). An axis of any value is a product of factors, slowest first, as reshapes make
   it, or a sum of segments, as concatenations make it: heads times units, or the inputs of a dense block. It is None
   where the value is constant along it. Axes of `x`, and of constant arrays that vary, are pinned (`factors`).

3. *Unify by rules.* `propagation` goes through the equations in order and hands each one, as an `Operation`, to the
   rule of its primitive (`elementwise`, `layout`, `contractions`). The rule returns the axes of the results, unifies
   axes that must be permuted alike (the operands of an addition, the two sides of a contraction), and pins axes whose
   positions the primitive distinguishes (a cumulative sum, the pixels of a convolution). A primitive without a rule
   pins everything that it touches. Unifying 3136 with 7 * 7 * 64 refines the first atom into three, everywhere that it
   occurs; two axes whose cuts cannot be aligned are pinned. The carry of a loop goes in and comes out permuted alike;
   the branches of a conditional are unified. Finally the axes of all outputs are pinned.

4. *Record roles and contractions.* On the way, a leaf axis that a product with data sums over is recorded as one that
   reads units, any other leaf axis that meets data as one that makes them, and every value on data that is summed over
   is recorded with its address.

5. *Read off the groups.* `occurrences` finds where the free factors of an axis lie on it. Each class of unified free
   factors is a group, named after the layer that makes it first, and each of its occurrences on a leaf is an `Axis`
   with outer, inner, start and stop (`spec`). An axis without free factors is pinned, for the reason that was first.

6. *Read off the activations.* The activations of a group are the values recorded in step 4 that are summed over its
   units, computed by the same program and with the units brought onto the last axis (`activations`). `preactivations`
   and `linear_maps` need no factors: they follow kernels through the program to their products with data.

Every rule is sound by itself: if the operands are permuted as their factors say, so are the results. Hence any product
of permutations of the groups leaves the function unchanged; a missing or a too cautious rule loses groups, but not
correctness. The work grows linearly with the number of equations.

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
