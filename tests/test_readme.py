"""The README's Python runs as it stands, and what it names is there."""

import ast
import inspect
import re
from pathlib import Path

import jax
import pytest
from flax import serialization

import mcjax

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = mcjax.models.create("mlp", 10, (8, 8, 1), widths=(32, 32))
    for seed, name in enumerate(("a", "b")):
        theta = model.init(jax.random.key(seed))
        Path(f"{name}.msgpack").write_bytes(serialization.msgpack_serialize(jax.device_get(theta)))
    scope = {}
    assert len(BLOCKS) == 7
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["metrics"].train_loss.shape == (61,)
    assert scope["match"].info["after"]["dense_0"] > scope["match"].info["before"]["dense_0"]
    assert (scope["learned"].objective[1:] <= scope["learned"].objective[:-1]).all()
    assert scope["repaired"]["params"].keys() == theta["params"].keys()
    assert scope["string"].connected
    assert scope["shorter"].path(1.0)["params"].keys() == theta["params"].keys()
    bound = max(each.loss + each.epsilon for each in (scope["one"], scope["two"]))
    assert scope["along"].train_loss.max() <= bound + 1e-5
    assert scope["noise"].epsilon() > 0
    assert scope["grid"].test_loss.shape == (21, 21)
    assert (tmp_path / "plane.png").stat().st_size > 10_000
    assert (scope["signature"].matched >= scope["signature"].curve - 1e-6).all()
    assert scope["model"].spec.groups == ("Conv_0", "Dense_0")


def named(node):
    """`a.b.c` of a chain of attributes, or None."""
    if isinstance(node, ast.Attribute) and (of := named(node.value)):
        return f"{of}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def found(name):
    """What `mcjax.a.b` is."""
    what = mcjax
    for part in name.split(".")[1:]:
        what = getattr(what, part)
    return what


def test_names_and_arguments_of_every_block_are_those_of_the_library():
    calls = 0
    for node in (node for block in BLOCKS for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.Attribute) and (name := named(node) or "").startswith("mcjax."):
            found(name)
        if isinstance(node, ast.Call) and (name := named(node.func) or "").startswith("mcjax."):
            arguments = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(found(name)).bind(*node.args, **arguments)
            calls += 1
    assert calls > 30


def test_pictures_and_files_that_it_names_exist():
    paths = re.findall(r"\]\(([\w/.-]+)\)", README)
    assert paths
    for path in paths:
        assert (Path(__file__).parents[1] / path).exists(), path
