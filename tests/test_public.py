"""The public names: all there, and documented."""

import inspect

import mcjax


def test_every_public_name_is_there_and_documented():
    assert len(mcjax.__all__) == len(set(mcjax.__all__)) > 100
    assert not [name for name in mcjax.__all__ if not hasattr(mcjax, name) or not inspect.getdoc(getattr(mcjax, name))]


def test_every_public_method_is_documented():
    methods = {
        f"{name}.{attribute}": member
        for name in mcjax.__all__
        if inspect.isclass(getattr(mcjax, name))
        for attribute, member in vars(getattr(mcjax, name)).items()
        if inspect.isfunction(member) and not attribute.startswith("_")
    }
    assert len(methods) > 20
    assert not [name for name, member in methods.items() if not inspect.getdoc(member)]
