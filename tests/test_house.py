"""Layout of the repository: imports go down, folders and files stay small, and every test file mirrors a source file.

A failing test lists all violations at once.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import mcjax

ROOT, TESTS = Path(mcjax.__file__).parent, Path(__file__).parent
# errors.py is the ground that floor 1 stands on too: every floor says in its words what went wrong.
FLOORS = {
    "errors": -1,
    "trees": 0,
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
EXPERIMENTS = ROOT.parent / "experiments"
OTHER_TESTS = {"experiments", "golden", "helpers", "mutants"}
"""Folders of tests that mirror no folder of mcjax."""
FILES_A_FOLDER, LINES_A_FILE = 14, 350
WITHOUT_MIRROR = {
    "commands/test_refused.py": "wrong input of every command, on one table",
    "symmetry/test_permutation_checks.py": "checks and files of permutation.py; test_permutation.py has the algebra",
    "symmetry/infer/test_factors_random.py": "factors.py after random operations; test_factors.py has chosen ones",
    "symmetry/infer/test_spec_random.py": "spec.py on random networks; test_spec.py has known ones",
    "training/test_moments.py": "moments of batches.py; test_batches.py has means and objectives",
}
"""Test files, below tests/, that are named after no source file, and why."""


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


def test_violations_are_found():
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


def test_folders_of_tests_mirror_those_of_mcjax():
    folders = {path.name for path in TESTS.iterdir() if any(path.glob("*.py"))}
    assert folders <= {path.parts[0] for path in FILES} | OTHER_TESTS
    # Every room has tests.
    assert {room for room in FLOORS if (ROOT / room).is_dir()} <= folders


def test_test_files_mirror_source_files():
    files = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    below_a_room = {path for path in files if len(path.parts) > 1 and path.parts[0] != "golden"}
    assert len(below_a_room) > 100
    without = set()
    for path in below_a_room:
        root = EXPERIMENTS.parent if path.parts[0] == "experiments" else ROOT
        if not (root / path.with_name(path.name.removeprefix("test_"))).is_file():
            without.add(path.as_posix())
    assert without == WITHOUT_MIRROR.keys()


def test_folders_and_files_stay_small():
    for root in (ROOT, EXPERIMENTS, TESTS):
        counts = Counter(path.parent for path in root.rglob("*.py"))
        assert counts
        assert not {str(folder): count for folder, count in counts.items() if count > FILES_A_FOLDER}
    for root in (ROOT, EXPERIMENTS):
        lines = {path: len(path.read_text().splitlines()) for path in root.rglob("*.py")}
        assert not {str(path): count for path, count in lines.items() if count > LINES_A_FILE}


def test_tests_measure_no_seconds():
    clocks = re.compile(r"perf_counter|process_time|timeit")
    files = [path for path in TESTS.rglob("test_*.py") if path.name != "test_house.py"]
    assert not [path.name for path in files if clocks.search(path.read_text())]


def test_every_helper_is_used():
    used = {name for path in TESTS.rglob("*.py") for name in imported(path.read_text())}
    folder = TESTS / "helpers"
    helpers = {".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")}
    assert len(helpers) > 10
    assert not {helper for helper in helpers if not any(f"{name}.".startswith(f"{helper}.") for name in used)}
