"""The README's Python, and the examples of the namespaces: they run as they stand, and what they name is there."""

import ast
import inspect
import re
import textwrap
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization

import mcjax

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NAMESPACES = [getattr(mcjax, name) for name in mcjax.__all__ if isinstance(getattr(mcjax, name), types.ModuleType)]
EXAMPLES = {
    module.__name__: textwrap.dedent(module.__doc__.split("\nExample::\n")[1])
    for module in (mcjax, *NAMESPACES)
    if "\nExample::\n" in (module.__doc__ or "")
}


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = mcjax.models.create("mlp", 10, (8, 8, 1), widths=(32, 32))
    for seed, name in enumerate(("a", "b")):
        theta = model.init(jax.random.key(seed))
        Path(f"{name}.msgpack").write_bytes(serialization.msgpack_serialize(jax.device_get(theta)))
    scope = {}
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        with jax.numpy_rank_promotion("allow"):
            exec(compile(block, "README.md", "exec"), scope)
    assert scope["along"].train_loss.shape == (61,)
    after, before = scope["match"].info["after"], scope["match"].info["before"]
    assert after["dense_0"] > before["dense_0"]
    assert scope["model"].spec.groups == ("Conv_0", "Dense_0")
    assert (np.diff(scope["pam"].objective) <= 0).all()
    assert (scope["ends"].history["loss"][:, -1] < scope["ends"].history["loss"][:, 0]).all()
    own = mcjax.evaluate_path(scope["task"], scope["path"], ts=9).train_loss
    line = mcjax.linear(scope["curve"].spec).bind(scope["theta_1"], scope["theta_2"], P=scope["pam"].P)
    assert own.max() < mcjax.evaluate_path(scope["task"], line, ts=9).train_loss.max()


def test_every_namespace_in_the_readme_has_a_page_with_an_example():
    named = set(re.findall(r"^\| `(mcjax\.\w+)` \|", README, re.MULTILINE))
    assert len(named) > 10
    assert named <= EXAMPLES.keys()


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_of_namespaces_run(module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):  # as users have it, whose modules are Flax's own
        exec(compile(EXAMPLES[module], f"help({module})", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) < 40


def named(node):
    """`a.b.c` of a chain of attributes, or None."""
    if isinstance(node, ast.Attribute) and (of := named(node.value)):
        return f"{of}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def found(name):
    """The object that `mcjax.a.b` names."""
    what = mcjax
    for part in name.split(".")[1:]:
        what = getattr(what, part)
    return what


def test_names_and_arguments_of_all_code_are_those_of_the_library():
    cells = re.findall(r"^\|.*\| `(mcjax\..*)` \|$", README, re.MULTILINE)
    calls = 0
    for node in (node for block in (*BLOCKS, *cells, *EXAMPLES.values()) for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.Attribute) and (name := named(node) or "").startswith("mcjax."):
            found(name)
        if isinstance(node, ast.Call) and (name := named(node.func) or "").startswith("mcjax."):
            arguments = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(found(name)).bind(*node.args, **arguments)
            calls += 1
    assert calls > 40


def test_names_in_prose_are_those_of_the_library():
    for name in re.findall(r"`(mcjax(?:\.\w+)+)", README):
        found(name)


def test_pictures_and_files_that_it_names_exist():
    paths = re.findall(r"\]\(([\w/.-]+)\)", README)
    assert paths
    for path in paths:
        assert (Path(__file__).parents[1] / path).exists(), path
