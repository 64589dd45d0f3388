"""Where a traced function applies its kernels: what each reads, and what the next nonlinearity reads of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax.symmetry.axis import SpecError
from mcjax.symmetry.infer.preactivations import Reader
from mcjax.symmetry.infer.program import Program, bind

AFFINE = {"add", "sub", "mul", "div", "neg", "convert_element_type", "copy", "reshape", "squeeze", "expand_dims"}
"""Steps with one operand that depends on the data, in which they are affine, element by element."""


class LinearMap(NamedTuple):
    """Slots of a program: what a kernel reads, its product with that, and the product after biases and norms.

    step: the number of the product's step. kernel: the slot of its other operand. The last of the three, the
    preactivation, is the last value that is affine in the product, element by element, and read by one step alone.
    """

    step: int
    kernel: int
    reads: int
    product: int
    preactivation: int


def linear_maps(program: Program, leaves: Sequence[str], kernels: Sequence[str]) -> list[LinearMap]:
    """Where each of these kernels is applied; `leaves` are the names of the program's first inputs.

    Raises SpecError for a kernel that is not used just once, in a product or a convolution with the data.
    """
    reader = Reader(program, list(leaves))
    at = {reader.leaves[made.kernel]: slot for slot, made in reader.made.items() if reader.uses[made.kernel] == 1}
    if missing := [name for name in kernels if name not in at]:
        raise SpecError(f"{', '.join(missing)}: expected a kernel that is used once, in a product with the data.")
    by_output = {slot: number for number, step in enumerate(program.steps) for slot in step.outputs}
    found = []
    for name in kernels:
        number = by_output[at[name]]
        inputs = program.steps[number].inputs
        data = next(i for i in inputs if i in reader.data)
        kernel = next(i for i in inputs if i not in reader.data)
        found.append(LinearMap(number, kernel, data, at[name], _affine_end(program, reader, at[name])))
    return found


def _affine_end(program: Program, reader: Reader, slot: int) -> int:
    while True:
        readers = [step for step in program.steps if slot in step.inputs]
        if len(readers) != 1 or slot in program.outputs:
            return slot
        (step,) = readers
        alone = sum(i in reader.data for i in step.inputs) == 1
        if step.name not in AFFINE or not alone or (step.name == "div" and step.inputs[1] == slot):
            return slot
        slot = step.outputs[0]


def linear_part(program: Program, found: LinearMap, inputs: Sequence[Any], product: jax.Array) -> jax.Array:
    """What of the preactivation comes from the product: without biases, scaled as norms scale it."""

    def at(value: jax.Array) -> jax.Array:
        place = (found.preactivation,)
        return program.values(inputs, [place], {found.product: value})[place]

    if found.preactivation == found.product:
        return product
    return at(product) - at(jnp.zeros_like(product))


def frobenius_norm(program: Program, found: LinearMap, inputs: Sequence[Any]) -> jax.Array:
    """The Frobenius norm of the linear map from what a kernel reads to the preactivation, as a matrix: float scalar.

    Its squared entries add up to the product of the squared kernel with ones: exact for convolutions too, whatever
    their strides and borders.
    """
    step = program.steps[found.step]
    kernel = program.values(inputs, [(found.kernel,)])[(found.kernel,)]
    ones = jnp.ones(program.shapes[found.reads], kernel.dtype)
    squares = bind(step, [kernel * kernel if slot == found.kernel else ones for slot in step.inputs])[0]
    slopes = linear_part(program, found, inputs, jnp.ones_like(squares))
    return jnp.sqrt((squares.reshape(slopes.shape) * slopes * slopes).sum())
