"""The options that studies share: where the data are, presets and what the command line changes of them, checks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from mcjax import Dataset, data, trees
from mcjax.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Size = TypeVar("Size", bound="DataclassInstance")


@dataclass(frozen=True)
class Sources:
    """The data sets on disk."""

    mnist: str = "mnist"
    """MNIST: a TFDS name or the path of an .npz."""
    cifar10: str = "cifar10"
    """CIFAR-10: a TFDS name or the path of an .npz."""
    data_dir: str | None = None
    """Folder of the TFDS data sets (None: TFDS's own default)."""

    def load(self, name: str) -> Dataset:
        """The data set `mnist` or `cifar10`."""
        return data.load(getattr(self, name), self.data_dir)


def changes_of(size: type[Size], **values: Any) -> Size:
    """Changes of a preset: the frozen dataclass `size` with every field None (the preset's value) that is not given."""
    optional = []
    for name, hint in get_type_hints(size, include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        plain = (hint.__origin__ if marks else hint) | None
        optional.append((name, Annotated[plain, *marks] if marks else plain, None))
    return make_dataclass(size.__name__, optional, bases=(size,), namespace={"__doc__": size.__doc__}, frozen=True)(
        **values
    )


def filled(preset: Size, changes: Size) -> Size:
    """A preset with the changes that were given. Both are dataclasses of the same fields."""
    own = {field.name: getattr(changes, field.name) for field in fields(preset)}
    return replace(preset, **{name: value for name, value in own.items() if value is not None})


def capped(size: Size, images: Dataset, train: Sequence[str], test: Sequence[str] = ()) -> Size:
    """A size whose numbers of images are at most those of a data set; None is all of them.

    Args:
        size: a dataclass of numbers.
        images: the data set.
        train: the names of the fields that count training images.
        test: the names of the fields that count test images.
    """
    there = dict.fromkeys(train, len(images.train_labels)) | dict.fromkeys(test, len(images.test_labels))
    least = {name: min(getattr(size, name) or count, count) for name, count in there.items()}
    return replace(size, **least)


def fingerprint(images: Dataset) -> str:
    """A hash of the arrays that the results of a study depend on."""
    return trees.fingerprint([images.train_images, images.train_labels, images.test_images])


def check_choices(name: str, got: Sequence[str], choices: Collection[str]) -> None:
    """Raise InputError unless `got` holds some of the choices, each once."""
    if not got or len(set(got)) < len(got) or not set(got) <= set(choices):
        raise InputError(f"got {name} {', '.join(got) or 'none'}, expected some of {', '.join(choices)}, each once.")


def check_all_positive(options: Any, zero: str | None = None) -> None:
    """Raise InputError if a number of a dataclass is not positive, also in tuples; the field `zero` may be zero."""
    for field in fields(options):
        values = getattr(options, field.name)
        for value in values if isinstance(values, tuple) else (values,):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and not value > 0 and not (field.name == zero and value == 0):
                raise InputError(f"got {field.name}={value}, expected a positive number.")


def check_least(options: Any, **least: int) -> None:
    """Raise InputError if a number of a dataclass is less than it may be; None is not checked."""
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"got {name}={value}, expected at least {low}.")


def check_increasing(options: Any, *names: str) -> None:
    """Raise InputError unless these tuples of a dataclass hold at least one number each, increasing."""
    for name in names:
        values = getattr(options, name)
        if not values or any(b <= a for a, b in pairwise(values)):
            raise InputError(f"got {name}={values}, expected at least one, increasing.")
