"""Golden results: every case against its file, and what compares them."""

import numpy as np
import pytest

from golden.cases import CASES, SLOW
from golden.store import FOLDER, compare, entries, machine, path, read, write

NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]


# Networks that are not trained, whose statistics are of no data.
@pytest.mark.filterwarnings("ignore::mcjax.errors.InputWarning")
@pytest.mark.parametrize("name", NAMES)
def test_results_are_as_they_were(name):
    made_on, kept = read(name)
    lines = compare(entries(CASES[name]()), kept, exact=made_on == machine())
    assert not lines, "\n  ".join([f"{name} is another ({made_on}):", *lines])


def test_every_file_belongs_to_a_case_and_all_are_small():
    files = {file.stem: file.stat().st_size for file in FOLDER.glob("*.json")}
    assert files.keys() == CASES.keys()
    assert sum(files.values()) < 200_000


RESULTS = {
    "short": np.float32([0.1, 1 / 3, np.nan, np.inf, 1e-30]),
    "long": np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 20),
    "double": np.array([np.pi, -0.0]),
    "counts": (3, np.arange(40)),
    "words": np.array(["a", "b"]),
    "here": {"iterations": 7},
}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr("golden.store.FOLDER", tmp_path)
    write("some", entries(RESULTS))
    assert path("some").parent == tmp_path
    made_on, found = read("some")
    assert made_on == machine()
    return found


def changed(name, at, value):
    array = np.array(RESULTS[name])
    array.flat[at] = value
    return entries({**RESULTS, name: array})


def test_results_are_read_as_written_to_the_last_bit(kept):
    assert kept.keys() == {"short", "long", "double", "counts/0", "counts/1", "words", "here/iterations"}
    assert compare(entries(RESULTS), kept, exact=True) == []


@pytest.mark.parametrize(
    ("name", "at", "by", "elsewhere"),
    [
        ("short", 1, 1e-7, False), ("short", 4, 1e-7, False), ("short", 0, 1e-4, True), ("short", 2, np.nan, True),
        ("long", 30, 1e-7, False), ("long", 59, 1e-2, True), ("double", 0, 1e-15, False), ("double", 1, 1e-4, True),
    ],
)  # fmt: skip
def test_a_change_is_seen_and_elsewhere_if_it_is_large(kept, name, at, by, elsewhere):
    value = 1 if np.isnan(by) else RESULTS[name].flat[at] + by
    found = changed(name, at, value)
    (line,) = compare(found, kept, exact=True)
    assert line.startswith(f"{name}: 1 of") or name == "long"
    assert bool(compare(found, kept, exact=False)) is elsewhere


def test_discrete_results_are_the_same_everywhere(kept):
    reversed_, words = np.arange(40)[::-1], np.array(["a", "c"])
    for other in ({"counts": (4, np.arange(40))}, {"counts": (3, reversed_)}, {"words": words}):
        assert len(compare(entries({**RESULTS, **other}), kept, exact=False)) == 1
    iterations = entries({**RESULTS, "here": {"iterations": 8}})
    assert compare(iterations, kept, exact=False) == []
    assert len(compare(iterations, kept, exact=True)) == 1


def test_results_that_are_missing_new_or_of_another_shape_are_named(kept):
    other = {**RESULTS, "double": RESULTS["double"][None], "more": 1.0}
    del other["words"]
    lines = compare(entries(other), kept, exact=False)
    assert lines == ["double: float64 (1, 2) instead of float64 (2,)", "words: gone", "more: new"]
