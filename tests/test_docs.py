"""The examples in the docstrings of the namespaces run as they stand."""

import textwrap
import types

import pytest

import mcjax
from mcjax import plotting

NAMESPACES = [getattr(mcjax, name) for name in mcjax.__all__ if isinstance(getattr(mcjax, name), types.ModuleType)]
PAGES = [each for each in (mcjax, plotting, *NAMESPACES) if "\nExample::\n" in (each.__doc__ or "")]


def example(module):
    """The code after `Example::`, to the end of the docstring."""
    return textwrap.dedent(module.__doc__.split("\nExample::\n")[1])


def test_the_namespaces_have_pages():
    expected = {"constructions", "curves", "data", "hessian", "landscape", "matching", "models"}
    expected |= {"permutation_points", "runs", "strings", "symmetry", "training"}
    assert expected <= {module.__name__.removeprefix("mcjax.") for module in PAGES}


@pytest.mark.parametrize("module", PAGES, ids=lambda module: module.__name__)
def test_examples_run(module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(example(module), f"help({module.__name__})", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) < 40
