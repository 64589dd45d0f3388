"""A user's own Flax module by name, `package.module:Class`, as the model that a command works on."""

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
    """The Model of the Flax module at `path`, for images of `input_shape` (height, width, channels).

    `path` names a Linen or NNX class, a Linen module, or a function that returns one; a class or a
    function that takes `num_classes` is given it, and an NNX one is called with `rngs`. Modules in
    the folder that the command runs in are found. The same arguments give the same object. Raises InputError if
    there is no such module, if it needs other arguments, or if it does not take such images.
    """
    module = _module(path, num_classes)
    images = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    try:
        return from_flax(module, images, name=path.rpartition(":")[2])
    except InputError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise InputError(
            f"{path} failed on images of shape {input_shape}: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _module(path: str, num_classes: int) -> Any:
    found = _import(path)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise InputError(f"{path} is a {type(found).__name__}, expected a Flax module, its class, or what makes one.")
    # What makes a class's instances, its metaclass apart: that of NNX takes anything.
    made_by: Any = found
    try:
        signature = inspect.signature(made_by.__init__ if isinstance(found, type) else made_by)
    except ValueError as error:
        raise InputError(f"{path} does not say what it takes, expected a Flax module or what makes one.") from error
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
            "that makes the module, with these filled in."
        )
    if "rngs" in accepted or (isinstance(found, type) and issubclass(found, nnx.Module)):
        return lambda rngs: make(rngs=rngs)
    try:
        made = make()
    except Exception as error:  # whatever the user's own code raises
        raise InputError(f"{path} failed when it was called: {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{path} makes a {type(made).__name__}, expected a Flax Linen module; what makes an NNX module takes rngs."
        )
    return made


def _import(path: str) -> Any:
    name, _, attribute = path.partition(":")
    if not name or not attribute.isidentifier() or name.endswith(".py"):
        raise InputError(f"got --module {path}, expected package.module:Class, as in my_package.nets:Net.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, and an installed command does not
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise InputError(
            f"cannot import {name}, for --module {path}: {type(error).__name__}: {_first_line(error)}. Expected a "
            f"module that is installed, or one in {os.getcwd()}."
        ) from error
    if not hasattr(module, attribute):
        there = [each for each, value in vars(module).items() if callable(value) or isinstance(value, nn.Module)]
        raise unknown_name(f"name in {name}", attribute, [each for each in there if not each.startswith("_")])
    return getattr(module, attribute)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
