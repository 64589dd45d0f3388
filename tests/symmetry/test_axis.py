"""Axes: where the units lie, against numpy's reshape, and what an entry of a spec may be."""

import json
import pickle
from itertools import product

import numpy as np
import pytest
from refusals import says

from mcjax import Axis, InputError, SpecError
from mcjax.symmetry.axis import as_entry, axes_of, entry_from_json, entry_to_json, overlap_in_part


def test_positions_are_those_of_a_reshape():
    layouts = [(1, 5, 1), (3, 2, 1), (1, 2, 3), (2, 3, 4), (2, 1, 2)]
    # `after` entries follow the segment; None for a segment up to the end.
    for (outer, n, inner), start, after in product(layouts, (0, 4), (None, 0, 3)):
        stop = start + outer * n * inner
        axis = Axis("g", outer, inner, start=start, stop=None if after is None else stop)
        length = stop + (after or 0)
        units = np.arange(length)[start:stop].reshape(outer, n, inner)
        assert axis.size(length) == n
        np.testing.assert_array_equal(axis.positions(length), units.swapaxes(0, 1).reshape(n, -1))


def test_size_is_0_if_units_do_not_fit():
    for axis, length, size in (
        (Axis("g"), 7, 7),
        (Axis("g"), 0, 0),
        (Axis("g", outer=2, inner=3), 24, 4),
        (Axis("g", outer=2, inner=3), 25, 0),
        (Axis("g", outer=2, inner=3), 3, 0),
        (Axis("g", start=3), 7, 4),
        (Axis("g", start=7), 7, 0),
        (Axis("g", start=9), 7, 0),
        (Axis("g", start=2, stop=7), 7, 5),
        (Axis("g", start=2, stop=8), 7, 0),
        (Axis("g", inner=2, start=1, stop=5), 9, 2),
        (Axis("g", inner=2, start=1, stop=4), 9, 0),
    ):
        assert axis.size(length) == size, (axis, length)


def test_segments_that_overlap_in_part():
    spans = {"front": (0, 4), "back": (4, None), "inside": (1, 3), "across": (2, 6), "all": (0, None), "start": (0, 2)}
    axes = {name: Axis("g", start=start, stop=stop) for name, (start, stop) in spans.items()}
    overlapping = {frozenset((a, b)) for a, b in product(axes, axes) if a != b and overlap_in_part(axes[a], axes[b], 8)}
    # By the positions themselves: some in common, and some of each alone.
    places = {name: set(range(8)[start:stop]) for name, (start, stop) in spans.items()}
    by_hand = {
        frozenset((a, b))
        for a, b in product(places, places)
        if places[a] & places[b] and places[a] - places[b] and places[b] - places[a]
    }
    assert len(by_hand) == 4
    assert overlapping == by_hand
    assert all(
        overlap_in_part(axes[a], axes[b], 8) == overlap_in_part(axes[b], axes[a], 8) for a, b in product(axes, axes)
    )


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"outer": 0}, "outer=0, inner=1"),
        ({"inner": -1}, "outer=1, inner=-1"),
        ({"start": -1}, "start=-1, stop=None"),
        ({"start": 3, "stop": 3}, "start=3, stop=3"),
        ({"start": 3, "stop": 2}, "start=3, stop=2"),
        ({"stop": 0}, "start=0, stop=0"),
        ({"outer": 1.5}, "'outer': 1.5"),
        ({"outer": True}, "'outer': True"),
        ({"inner": "2"}, "'inner': '2'"),
        ({"start": None}, "'start': None"),
        ({"stop": 2.0}, "'stop': 2.0"),
        ({"group": 3}, "'group': 3"),
        ({"group": None}, "'group': None"),
        ({"consumes": 1}, "consumes=1"),
    ],
    ids=str,
)
def test_an_axis_that_cannot_be_is_refused(wrong, named):
    with says(SpecError, named):
        Axis(**{"group": "g", **wrong})
    assert issubclass(SpecError, InputError)


def test_an_axis_in_words():
    for axis, said in (
        (Axis("g"), "g"),
        (Axis("g", consumes=False), "g"),
        (Axis("g", consumes=True), "g in"),
        (Axis("g", outer=4, inner=2), "4*g*2"),
        (Axis("g", start=3), "g[3:]"),
        (Axis("g", stop=5), "g[0:5]"),
        (Axis("g", outer=4, inner=2, consumes=True, start=3, stop=11), "4*g*2[3:11] in"),
    ):
        assert str(axis) == said


def test_an_axis_is_a_value():
    axis = Axis("g", 2, 3, True, 1, 7)
    assert axis == Axis("g", outer=2, inner=3, consumes=True, start=1, stop=7)
    assert axis != Axis("g", outer=2, inner=3, consumes=True, start=1)
    assert pickle.loads(pickle.dumps(axis)) == axis
    assert len({axis, Axis("g", 2, 3, True, 1, 7), Axis("g", 2, 3, False, 1, 7)}) == 2
    with pytest.raises(AttributeError):
        axis.outer = 3


HEADS, UNITS = Axis("heads", inner=4), Axis("units", outer=3, consumes=True)


def test_valid_entries():
    for declared, groups in (
        (None, []),
        ((), []),
        ((None, None), []),
        ("g", ["g"]),
        (["g"], ["g"]),
        (("g", None), ["g"]),
        (Axis("g"), ["g"]),
        ((HEADS, UNITS), ["heads", "units"]),
        ([HEADS, "g"], ["heads", "g"]),
        (("f", ("g", [HEADS])), ["f", "g", "heads"]),
    ):
        entry = as_entry(declared, last=False)
        assert [axis.group for axis in axes_of(entry)] == groups
        assert isinstance(entry, (type(None), Axis, tuple)[min(len(groups), 2)])
        assert as_entry(entry, last=True) == entry


def test_the_last_axis_makes_the_units_unless_it_says_otherwise():
    for last in (True, False):
        assert as_entry("g", last) == Axis("g", consumes=not last)
        assert as_entry((HEADS, UNITS), last) == (Axis("heads", inner=4, consumes=not last), UNITS)
        assert as_entry(Axis("g", consumes=last), last) == Axis("g", consumes=last)


@pytest.mark.parametrize("declared", [3, 1.5, True, len, {"g": 1}, {"g"}, ("g", 3), b"g"], ids=repr)
def test_bad_entries_are_refused(declared):
    # Of several, and of bytes, the one that is wrong is named.
    wrong = declared[-1] if isinstance(declared, tuple | bytes) else declared
    with says(SpecError, f"got {wrong!r}"):
        as_entry(declared, last=True)


def test_json_and_back():
    for entry, written in (
        (None, None),
        (Axis("g", consumes=True), {"group": "g", "outer": 1, "inner": 1, "consumes": True}),
        (
            Axis("g", 2, 3, False, 4, 16),
            {"group": "g", "outer": 2, "inner": 3, "consumes": False, "start": 4, "stop": 16},
        ),
        (
            (Axis("g", stop=3), Axis("h", start=3)),
            [
                {"group": "g", "outer": 1, "inner": 1, "consumes": None, "stop": 3},
                {"group": "h", "outer": 1, "inner": 1, "consumes": None, "start": 3},
            ],
        ),
    ):
        assert entry_to_json(entry) == written
        assert entry_from_json(json.loads(json.dumps(written))) == entry


@pytest.mark.parametrize("written", [3, "g", [3], ["g"], [[{"group": "g"}]], {}, {"group": "g", "units": 3}], ids=repr)
def test_json_that_is_no_entry_is_refused(written):
    with pytest.raises(TypeError):
        entry_from_json(written)
