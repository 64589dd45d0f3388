"""The house: a file imports only from floors below its own, or from its own package."""

import ast
from pathlib import Path

import pytest

import mcjax

ROOT = Path(mcjax.__file__).parent
# errors.py is the ground that floor 1 stands on too: every floor says in its words what went wrong.
FLOORS = {
    "errors": 0,
    **dict.fromkeys(("trees", "compiling", "processes", "data", "plotting"), 1),
    **dict.fromkeys(("symmetry", "checkpoint", "report"), 2),
    "models": 3,
    "training": 4,
    **dict.fromkeys(("matching", "paths"), 5),
    "landscape": 6,
    "commands": 7,
    "cli": 8,
}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def violations(room, source):
    wrong = []
    for name in imported(source):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top == "mcjax" and other != room and FLOORS.get(other, 9) >= FLOORS[room]:
            wrong.append(name)
        if not top:
            wrong.append(f"{name} (relative)")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_from_below(path):
    room = path.with_suffix("").parts[0]
    assert room in FLOORS, f"{path} stands on no floor"
    assert not violations(room, (ROOT / path).read_text())


def test_plotting_takes_numpy():
    files = sorted((ROOT / "plotting").glob("*.py"))
    assert len(files) > 1
    for path in files:
        names = set(imported(path.read_text()))
        tops = {name.split(".")[0] for name in names}
        assert "numpy" in tops or path.name == "__init__.py", path
        assert not tops & {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}, path
        assert all(name.startswith("mcjax.plotting.") for name in names if name.startswith("mcjax")), path


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("data", "from mcjax import models", ["mcjax.models"]),
        ("data", "def f():\n    import mcjax.cli", ["mcjax.cli"]),
        ("data", "from mcjax import InputError", ["mcjax.InputError"]),
        ("data", "import mcjax", ["mcjax"]),
        ("trees", "from mcjax.data import load", ["mcjax.data.load"]),
        ("paths", "from mcjax.matching.activations import Match", ["mcjax.matching.activations.Match"]),
        ("paths", "from . import curves", ["..curves (relative)"]),
        ("paths", "from mcjax.paths.fit import f\nfrom mcjax import trees\nimport jax", []),
    ],
)
def test_the_walk_sees_what_is_wrong(room, source, wrong):
    assert violations(room, source) == wrong
