"""Assertion of a refusal: the kind of error, and the names and values in its message."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def says(error: type[Exception], *words: str) -> Iterator[pytest.ExceptionInfo]:
    """Assert that the block raises `error` with all of these words in its message."""
    with pytest.raises(error) as caught:
        yield caught
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
