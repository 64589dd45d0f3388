"""The house: a file imports only from floors below its own, or from its own package; tests stand beside what they test.

All violations are told at once.
"""

import ast
import re
from pathlib import Path

import mcjax

ROOT, TESTS = Path(mcjax.__file__).parent, Path(__file__).parent
# errors.py is the ground that floor 1 stands on too: every floor says in its words what went wrong.
FLOORS = {
    **dict.fromkeys(("errors", "trees"), 0),
    **dict.fromkeys(("data", "plotting", "runtime"), 1),
    **dict.fromkeys(("symmetry", "runs"), 2),
    "models": 3,
    "training": 4,
    **dict.fromkeys(("curves", "matching", "hessian"), 5),
    **dict.fromkeys(("strings", "constructions"), 6),
    "permutation_points": 7,
    "landscape": 8,
    "commands": 9,
    "cli": 10,
}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
# Studies, and what the numbers of all that is public were.
OTHER_TESTS = {"experiments", "golden", "helpers", "mutants"}


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


def test_files_import_only_from_below():
    rooms = {path: path.with_suffix("").parts[0] for path in FILES}
    assert len(FILES) > 100
    assert not [path for path, room in rooms.items() if room not in FLOORS]
    wrong = {str(path): violations(room, (ROOT / path).read_text()) for path, room in rooms.items()}
    assert not {path: names for path, names in wrong.items() if names}


def test_plotting_takes_numpy():
    wrong, files = [], sorted((ROOT / "plotting").glob("*.py"))
    assert len(files) > 1
    for path in files:
        names = set(imported(path.read_text()))
        tops = {name.split(".")[0] for name in names}
        if "numpy" not in tops and path.name != "__init__.py":
            wrong.append((path.name, "no numpy"))
        wrong += [(path.name, top) for top in tops & {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}]
        wrong += [(path.name, name) for name in names if name.startswith("mcjax") and name[:15] != "mcjax.plotting."]
    assert not wrong


def test_the_walk_sees_what_is_wrong():
    for room, source, wrong in (
        ("data", "from mcjax import models", ["mcjax.models"]),
        ("data", "def f():\n    import mcjax.cli", ["mcjax.cli"]),
        ("data", "from mcjax import InputError", ["mcjax.InputError"]),
        ("data", "import mcjax", ["mcjax"]),
        ("trees", "from mcjax.data import load", ["mcjax.data.load"]),
        ("curves", "from mcjax.matching.match import Match", ["mcjax.matching.match.Match"]),
        ("curves", "from . import fit", ["..fit (relative)"]),
        ("curves", "from mcjax.curves.fit import f\nfrom mcjax import trees\nimport jax", []),
    ):
        assert violations(room, source) == wrong


def test_tests_stand_beside_what_they_test():
    folders = {path.name for path in TESTS.iterdir() if any(path.glob("*.py"))}
    assert folders <= {path.parts[0] for path in FILES} | OTHER_TESTS
    # Every room has tests.
    assert {room for room in FLOORS if (ROOT / room).is_dir()} <= folders


def test_tests_measure_no_seconds_and_use_every_helper():
    sources = {path: path.read_text() for path in TESTS.rglob("*.py") if path.name != "test_house.py"}
    clocks = re.compile(r"perf_counter|process_time|timeit")
    assert not [path.name for path, text in sources.items() if path.stem[:5] == "test_" and clocks.search(text)]
    helpers = {path.stem for path in (TESTS / "helpers").glob("*.py")}
    used = re.findall(r"^\s*(?:from|import) (?:tests\.)?(\w+)", "\n".join(sources.values()), re.MULTILINE)
    assert len(helpers) > 10
    assert helpers <= set(used)
