"""A numerical check that a spec is a symmetry of a model: permute the variables and compare the function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.symmetry.axis import SpecError
from mcjax.symmetry.permutation import Permutation, identity_permutation, permute, random_permutation


def check_invariance(model: Any, theta: trees.Tree, x: Any, key: jax.Array, tolerance: float = 1e-6) -> None:
    """Check that permuting the groups of a model's spec leaves its function unchanged.

    Compares `model.apply` and `model.activations` before and after a random permutation of all groups, in float64. A
    module that requires float32 (a recurrent cell whose state has that dtype) is compared in float32, to a relative
    error of 1e-3. The variables are first perturbed, because at special values (a bias of zero, a scale of one) a spec
    that omits a leaf could pass.

    Args:
        model: The model, or any object with `spec`, `apply` and `activations`.
        theta: Variables of one network, which the spec describes.
        x: A batch of inputs of the model.
        key: Key of the random permutation and of the perturbation.
        tolerance: Largest difference allowed, relative to the largest output or activation.

    Raises:
        InputError: If the model or the key is none.
        SpecError: If the spec is not a symmetry. The message names the groups whose permutation changes the outputs or
            the order of activations.
    """
    if missing := [name for name in ("spec", "apply", "activations") if not hasattr(model, name)]:
        raise InputError(f"got {type(model).__name__} for model, expected a Model with {', '.join(missing)}.")
    trees.check_keys(key, 0)
    model.spec.validate(theta)
    # Step 1: perturb the variables, in numpy, so that float64 survives outside `enable_x64`.
    shift_key, permutation_key = jax.random.split(key)
    theta_64 = _generic_point(theta, np.random.default_rng(np.asarray(jax.random.bits(shift_key, (4,)))))
    inputs = np.asarray(x)
    # Step 2: draw a random permutation of every group. A drawn identity, common for few units, is replaced by a shift.
    drawn = {group: np.asarray(p) for group, p in random_permutation(permutation_key, model.spec, theta).items()}
    P: Permutation = {group: np.roll(p, 1) if (p == np.arange(len(p))).all() else p for group, p in drawn.items()}
    P_identity = identity_permutation(model.spec, theta)
    # Step 3: compare outputs and activations, in float64 if the module allows it.
    try:
        with jax.enable_x64(True):
            wide = inputs.astype(np.float64) if np.issubdtype(inputs.dtype, np.floating) else inputs
            wrong, alone = _compare(model, P, P_identity, theta_64, wide, tolerance)
    except TypeError:
        theta_32 = jax.tree.map(lambda leaf: np.float32(leaf) if leaf.dtype == np.float64 else leaf, theta_64)
        wrong, alone = _compare(model, P, P_identity, theta_32, inputs, tolerance)
    if not wrong:
        return
    named = {group: why for group, why in alone.items() if why} or {"all groups together": wrong}
    raise SpecError(
        "the spec is not a symmetry of the model:\n  "
        + "\n  ".join(f"permuting {group!r} {' and '.join(why)}" for group, why in named.items())
        + "\nDeclare every leaf that produces or consumes these units with their group."
    )


def _compare(
    model: Any, P: Permutation, P_identity: Permutation, theta: trees.Tree, x: np.ndarray, tolerance: float
) -> tuple[list[str], dict[str, list[str]]]:
    """The changes caused by permuting all groups; if there are any, also those caused by each group alone."""
    function = jax.jit(lambda variables: (model.apply(variables, x), model.activations(variables, x)))
    reference = function(theta)

    def changed(P: Permutation) -> list[str]:
        return _differences(model.spec, P, reference, function(permute(model.spec, P, theta)), tolerance)

    wrong = changed(P)
    groups = model.spec.groups if wrong else ()
    return wrong, {group: changed({**P_identity, group: P[group]}) for group in groups}


def _generic_point(theta: trees.Tree, rng: np.random.Generator) -> trees.Tree:
    """Floating-point leaves in float64, multiplied by log-normal noise, and zeros replaced by positive noise."""

    def moved(leaf: Any) -> np.ndarray:
        leaf = trees.on_host(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        leaf = leaf.astype(np.float64)
        noise = rng.normal(size=(2, *leaf.shape))
        # Signs are kept, so that variances stay positive.
        return leaf * np.exp(0.3 * noise[0]) + np.where(leaf == 0, 0.1 * np.abs(noise[1]), 0.0)

    return jax.tree.map(moved, theta)


def _differences(spec: Any, P: Permutation, before: Any, after: Any, tolerance: float) -> list[str]:
    """Descriptions of how (outputs, activations) after permuting by P differ from those of a symmetry."""

    def differ(a: Any, b: Any) -> bool:
        a, b = np.asarray(a), np.asarray(b)
        bound = tolerance if a.dtype == np.float64 else max(tolerance, 1e-3)
        return not np.allclose(a, b, rtol=0, atol=bound * max(np.abs(a).max(initial=0), 1e-30), equal_nan=True)

    (outputs, activations), (outputs_after, activations_after) = before, after
    wrong = []
    if any(map(differ, jax.tree.leaves(outputs), jax.tree.leaves(outputs_after))):
        wrong.append("changes the outputs")
    for group in spec.groups:
        widths = {np.shape(a)[-1] for a in activations.get(group, ())}
        if widths - {len(P[group])}:
            wrong.append(f"needs activations of {len(P[group])} units, and gets {sorted(widths)}")
            continue
        expected = [np.asarray(a)[..., np.asarray(P[group])] for a in activations.get(group, ())]
        if any(differ(a, b) for a, b in zip(expected, activations_after.get(group, ()), strict=True)):
            wrong.append(f"puts the activations of {group!r} in another order")
    return wrong
