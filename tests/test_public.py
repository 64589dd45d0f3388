"""The public names: all there, and documented."""

import inspect

import pytest

import mcjax


@pytest.mark.parametrize("name", mcjax.__all__)
def test_every_public_name_is_there_and_documented(name):
    thing = getattr(mcjax, name)
    assert inspect.getdoc(thing)


@pytest.mark.parametrize("name", [n for n in mcjax.__all__ if inspect.isclass(getattr(mcjax, n))])
def test_every_public_method_is_documented(name):
    for attribute, member in vars(getattr(mcjax, name)).items():
        if inspect.isfunction(member) and not attribute.startswith("_"):
            assert inspect.getdoc(member), f"{name}.{attribute}"
