"""The public names: few at the top, all there, and documented."""

import inspect
import types

import mcjax

NAMESPACES = {
    name: getattr(mcjax, name) for name in mcjax.__all__ if isinstance(getattr(mcjax, name), types.ModuleType)
}
PUBLIC = {
    f"{namespace.__name__}.{name}": getattr(namespace, name)
    for namespace in (mcjax, *NAMESPACES.values())
    for name in getattr(namespace, "__all__", ())
}


def test_the_top_is_short_and_every_name_is_in_a_namespace_too():
    assert len(set(mcjax.__all__)) == len(mcjax.__all__)
    assert 30 < len(mcjax.__all__) - len(NAMESPACES) <= 46
    assert len(PUBLIC) > 150


def test_every_public_name_is_documented():
    assert not [
        name
        for name, member in PUBLIC.items()
        if inspect.isroutine(member) or inspect.isclass(member)
        if not inspect.getdoc(member)
    ]
    assert not [name for name, namespace in NAMESPACES.items() if not inspect.getdoc(namespace)]


def test_every_public_method_is_documented():
    methods = {
        f"{name}.{attribute}": member
        for name, each in PUBLIC.items()
        if inspect.isclass(each)
        for attribute, member in vars(each).items()
        if inspect.isfunction(member) and not attribute.startswith("_")
    }
    assert len(methods) > 20
    assert not [name for name, member in methods.items() if not inspect.getdoc(member)]
