"""The linear maps of a traced function: for each kernel its input, its product and its preactivation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax.symmetry.axis import SpecError
from mcjax.symmetry.infer.preactivations import KernelProducts
from mcjax.symmetry.infer.program import Program, bind

AFFINE = {"add", "sub", "mul", "div", "neg", "convert_element_type", "copy", "reshape", "squeeze", "expand_dims"}
"""Primitives that are affine, entry by entry, in the one operand that depends on data."""


class LinearMap(NamedTuple):
    """The application of one kernel in a program, as slots.

    Attributes:
        equation: Number of the equation that computes the product.
        kernel: Slot of the kernel, as the product takes it.
        input: Slot of the value that the kernel is applied to.
        product: Slot of the product.
        preactivation: Slot of the value after biases and norms: the last value of a chain of affine equations from the
            product, each with one consumer.
    """

    equation: int
    kernel: int
    input: int
    product: int
    preactivation: int


def linear_maps(program: Program, leaves: Sequence[str], kernels: Sequence[str]) -> list[LinearMap]:
    """The linear map of each kernel.

    Args:
        program: The program of a function (theta, x) -> outputs.
        leaves: Names of the leaves of theta, which are the first inputs of the program.
        kernels: Names of the kernels.

    Returns:
        One map per kernel, in the order of `kernels`.

    Raises:
        SpecError: If a kernel is not used exactly once, in a product or a convolution with data.
    """
    products = KernelProducts(program, list(leaves))
    by_name = {
        products.leaves[product.kernel]: slot
        for slot, product in products.by_slot.items()
        if products.uses[product.kernel] == 1
    }
    if missing := [name for name in kernels if name not in by_name]:
        raise SpecError(f"{', '.join(missing)}: expected a kernel that is used once, in a product with the data.")
    number_of = {slot: number for number, equation in enumerate(program.equations) for slot in equation.outputs}
    found = []
    for name in kernels:
        product = by_name[name]
        number = number_of[product]
        operands = program.equations[number].inputs
        data = next(slot for slot in operands if slot in products.data)
        kernel = next(slot for slot in operands if slot not in products.data)
        found.append(LinearMap(number, kernel, data, product, _affine_end(program, products.data, product)))
    return found


def _affine_end(program: Program, data: set[int], slot: int) -> int:
    """The last slot of a chain of affine equations from this one, each the only consumer of the slot before."""
    while True:
        readers = [equation for equation in program.equations if slot in equation.inputs]
        if len(readers) != 1 or slot in program.outputs:
            return slot
        (equation,) = readers
        only_data = sum(i in data for i in equation.inputs) == 1
        divisor = equation.name == "div" and equation.inputs[1] == slot
        if equation.name not in AFFINE or not only_data or divisor:
            return slot
        slot = equation.outputs[0]


def linear_part(program: Program, linear_map: LinearMap, inputs: Sequence[Any], product: jax.Array) -> jax.Array:
    """The part of the preactivation that is linear in the product: with the scales of norms, without biases.

    Args:
        program: The program.
        linear_map: The linear map.
        inputs: The program's inputs.
        product: Value of the product.

    Returns:
        An array of the preactivation's shape.
    """

    def preactivation(value: jax.Array) -> jax.Array:
        address = (linear_map.preactivation,)
        return program.values(inputs, [address], {linear_map.product: value})[address]

    if linear_map.preactivation == linear_map.product:
        return product
    return preactivation(product) - preactivation(jnp.zeros_like(product))


def frobenius_norm(program: Program, linear_map: LinearMap, inputs: Sequence[Any]) -> jax.Array:
    """The Frobenius norm, a float scalar, of the matrix from a kernel's input to the preactivation.

    The sum of the squared entries equals that of the product of the squared kernel with ones. This is exact for
    convolutions too, for all strides and paddings.
    """
    equation = program.equations[linear_map.equation]
    kernel = program.values(inputs, [(linear_map.kernel,)])[(linear_map.kernel,)]
    ones = jnp.ones(program.shapes[linear_map.input], kernel.dtype)
    squares = bind(equation, [kernel * kernel if slot == linear_map.kernel else ones for slot in equation.inputs])[0]
    # Norms scale each row of the matrix by its own slope.
    slopes = linear_part(program, linear_map, inputs, jnp.ones_like(squares))
    return jnp.sqrt((squares.reshape(slopes.shape) * slopes * slopes).sum())


__all__ = ["LinearMap", "frobenius_norm", "linear_maps", "linear_part"]
