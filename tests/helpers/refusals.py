"""How tests assert what is refused: by the error and by the names and values in its message."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def says(error: type[Exception], *words: str) -> Iterator[None]:
    """What runs in here raises `error`, and its message holds all of the words."""
    with pytest.raises(error) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
