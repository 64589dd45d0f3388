"""Models of the user's own Flax modules, named on the command line as `package.module:Class`."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from mcjax.errors import InputError, unknown_name
from mcjax.models import Model, from_flax


@cache
def own_model(path: str, num_classes: int, input_shape: tuple[int, ...]) -> Model:
    """The Model of a Flax module by name. The same arguments return the same object.

    Args:
        path: `package.module:name` of a Linen or NNX class, a Linen module, or a function that returns one. The
            package must be installed, or in the working folder. NNX classes and functions must take `rngs`.
        num_classes: The number of classes, for a class or function with this argument.
        input_shape: (height, width, channels) of images.

    Returns:
        The model.

    Raises:
        InputError: There is no such module, it needs other arguments, or it fails on images of this shape.
    """
    module = _module(path, num_classes)
    images = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    try:
        return from_flax(module, images, name=path.rpartition(":")[2])
    except InputError:
        raise
    except Exception as error:  # anything that the user's code raises
        raise InputError(
            f"{path} failed on images of shape {input_shape}: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _module(path: str, num_classes: int) -> Any:
    found = _import(path)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise InputError(
            f"{path} is a {type(found).__name__}, expected a Flax module, its class, or a function that returns one."
        )
    # The signature of a class is that of __init__: the metaclass of NNX modules accepts anything.
    maker: Any = found
    try:
        signature = inspect.signature(maker.__init__ if isinstance(found, type) else maker)
    except ValueError as error:
        raise InputError(
            f"{path} has no signature, expected a Flax module, its class, or a function that returns one."
        ) from error
    accepted = {name: parameter for name, parameter in signature.parameters.items() if name != "self"}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    classes = "num_classes" in accepted or (anything and not isinstance(found, type))
    make: Callable[..., Any] = partial(found, num_classes=num_classes) if classes else found
    needed = [
        name
        for name, parameter in accepted.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in ("num_classes", "rngs")
    ]
    if needed:
        raise InputError(
            f"{path} needs {', '.join(needed)}: expected nothing but num_classes (and rngs, for NNX). Give a function "
            "that makes the module with these arguments."
        )
    if "rngs" in accepted or (isinstance(found, type) and issubclass(found, nnx.Module)):
        return lambda rngs: make(rngs=rngs)
    try:
        made = make()
    except Exception as error:  # anything that the user's code raises
        raise InputError(f"{path} failed when it was called: {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{path} returns a {type(made).__name__}, expected a Flax Linen module. A function that "
            "returns an NNX module takes rngs."
        )
    return made


def _import(path: str) -> Any:
    name, _, attribute = path.partition(":")
    if not name or not attribute.isidentifier() or name.endswith(".py"):
        raise InputError(f"got --module {path}, expected package.module:Class, as in my_package.nets:Net.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, unlike an installed command
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # anything that the user's code raises
        raise InputError(
            f"cannot import {name}, for --module {path}: {type(error).__name__}: {_first_line(error)}. Expected a "
            f"module that is installed, or one in {os.getcwd()}."
        ) from error
    if not hasattr(module, attribute):
        names = [each for each, value in vars(module).items() if callable(value) or isinstance(value, nn.Module)]
        raise unknown_name(f"name in {name}", attribute, [each for each in names if not each.startswith("_")])
    return getattr(module, attribute)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
