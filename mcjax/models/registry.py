"""Registered models, by name."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.models.base import Model
from mcjax.models.convnets import tinysix, tinyten, vgg11, vgg16
from mcjax.models.googlenet import googlenet
from mcjax.models.layers import activation
from mcjax.models.lstm import lstm
from mcjax.models.mlp import mlp
from mcjax.models.plain_convnets import cifar_convnet, filters_convnet, mnist_convnet
from mcjax.models.resnet import resnet20, resnet32

REGISTRY: dict[str, Callable[..., Model]] = {
    "mlp": mlp,
    "tinysix": tinysix,
    "tinyten": tinyten,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "googlenet": googlenet,
    "mnist_convnet": mnist_convnet,
    "cifar_convnet": cifar_convnet,
    "filters_convnet": filters_convnet,
    "lstm": lstm,
}


def create(name: str, num_classes: int = 10, input_shape: Sequence[int] = (32, 32, 3), **options: Any) -> Model:
    """Create a registered model.

    The same arguments return the same object, so that programs compiled for it are reused.

    Args:
        name: A name in `REGISTRY`.
        num_classes: Number of classes; for the LSTM, size of the vocabulary.
        input_shape: (height, width, channels) of an image; for the LSTM, (length,) of a sequence.
        **options: `width` (multiplier of all widths) for every model; `activation` for all but the LSTM; `widths`,
            `output` and `bias` for the MLP; `dropout` for `mnist_convnet` and `cifar_convnet`; `channel_dropout` for
            VGG11; `layers` for the LSTM.

    Returns:
        The model.

    Raises:
        InputError: If the name or an option is unknown, or the model cannot take such inputs.

    Example::

        model = create("mlp", 10, (28, 28, 1), widths=(64, 64), activation="tanh")
    """
    accepted = options_of(name)
    for option in options:
        if option not in accepted:
            raise unknown_name(f"option of {name}", option, accepted)
    check_whole("num_classes", num_classes)
    if not isinstance(input_shape, Sequence) or isinstance(input_shape, str):
        raise InputError(f"got input_shape={input_shape!r}, expected the lengths of an input: (32, 32, 3).")
    for length in input_shape:
        check_whole("a length of input_shape", length)
    for option in {"activation", "output"} & options.keys():
        activation(options[option])
    width = options.get("width", 1.0)
    if not isinstance(width, Real) or not 0 < float(width) < math.inf:
        hint = ", or widths=(...)" * ("widths" in accepted)
        raise InputError(f"got width={width!r}, expected a positive, finite multiplier of all widths{hint}.")
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return _create(name, num_classes, tuple(input_shape), tuple(sorted(frozen.items())))


def options_of(name: str) -> list[str]:
    """The names of a registered model's options. Raises InputError for an unknown name."""
    if not isinstance(name, str) or name not in REGISTRY:
        raise unknown_name("model", name, REGISTRY)
    return list(inspect.signature(REGISTRY[name]).parameters)[2:]


@lru_cache(maxsize=64)
def _create(name: str, num_classes: int, input_shape: tuple[int, ...], options: tuple) -> Model:
    return REGISTRY[name](num_classes, input_shape, **dict(options))
