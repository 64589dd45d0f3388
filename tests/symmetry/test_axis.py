"""Axes: where the units lie, against numpy's reshape, and what an entry of a spec may be."""

import json
import pickle

import numpy as np
import pytest

from mcjax import Axis, InputError, SpecError
from mcjax.symmetry.axis import axes_of, entry_from_json, entry_of, entry_to_json


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("after", [None, 0, 3])
@pytest.mark.parametrize(("outer", "n", "inner"), [(1, 5, 1), (3, 2, 1), (1, 2, 3), (2, 3, 4), (2, 1, 2)])
def test_positions_are_those_of_a_reshape(outer, n, inner, start, after):
    # `after` entries follow the segment; None for a segment up to the end.
    stop = start + outer * n * inner
    axis = Axis("g", outer, inner, start=start, stop=None if after is None else stop)
    length = stop + (after or 0)
    units = np.arange(length)[start:stop].reshape(outer, n, inner)
    positions = axis.positions(length)
    assert axis.size(length) == n
    assert positions.shape == (n, outer * inner)
    for unit in range(n):
        np.testing.assert_array_equal(positions[unit], units[:, unit].ravel())


@pytest.mark.parametrize(
    ("axis", "length", "size"),
    [
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
    ],
    ids=str,
)
def test_size_is_0_if_units_do_not_fit(axis, length, size):
    assert axis.size(length) == size


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outer": 0}, r"got outer=0, inner=1, expected both to be at least 1"),
        ({"inner": -1}, r"got outer=1, inner=-1, expected both to be at least 1"),
        ({"start": -1}, r"got start=-1, stop=None, expected 0 <= start < stop"),
        ({"start": 3, "stop": 3}, r"got start=3, stop=3, expected 0 <= start < stop"),
        ({"start": 3, "stop": 2}, r"got start=3, stop=2"),
        ({"stop": 0}, r"got start=0, stop=0"),
        ({"outer": 1.5}, r"expected group to be a name and the others whole numbers"),
        ({"inner": "2"}, r"whole numbers"),
        ({"start": None}, r"whole numbers"),
        ({"stop": 2.0}, r"whole numbers"),
        ({"group": 3}, r"expected group to be a name"),
        ({"group": None}, r"expected group to be a name"),
    ],
    ids=str,
)
def test_an_axis_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        Axis(**{"group": "g", **wrong})
    assert issubclass(SpecError, InputError)


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        (Axis("g"), "g"),
        (Axis("g", consumes=False), "g"),
        (Axis("g", consumes=True), "g in"),
        (Axis("g", outer=4, inner=2), "4*g*2"),
        (Axis("g", start=3), "g[3:]"),
        (Axis("g", stop=5), "g[0:5]"),
        (Axis("g", outer=4, inner=2, consumes=True, start=3, stop=11), "4*g*2[3:11] in"),
    ],
)
def test_an_axis_in_words(axis, said):
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


@pytest.mark.parametrize(
    ("declared", "groups"),
    [
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
    ],
)
def test_what_an_entry_may_be(declared, groups):
    entry = entry_of(declared, last=False)
    assert [axis.group for axis in axes_of(entry)] == groups
    assert isinstance(entry, (type(None), Axis, tuple)[min(len(groups), 2)])
    assert entry_of(entry, last=True) == entry


@pytest.mark.parametrize("last", [True, False])
def test_the_last_axis_makes_the_units_unless_it_says_otherwise(last):
    assert entry_of("g", last) == Axis("g", consumes=not last)
    assert entry_of((HEADS, UNITS), last) == (Axis("heads", inner=4, consumes=not last), UNITS)
    assert entry_of(Axis("g", consumes=last), last) == Axis("g", consumes=last)


@pytest.mark.parametrize("declared", [3, 1.5, True, len, {"g": 1}, {"g"}, ("g", 3), b"g"], ids=repr)
def test_what_no_entry_can_be_is_refused(declared):
    with pytest.raises(SpecError, match=r"expected None, an Axis, the name of a group, or several"):
        entry_of(declared, last=True)


@pytest.mark.parametrize(
    ("entry", "written"),
    [
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
    ],
)
def test_json_and_back(entry, written):
    assert entry_to_json(entry) == written
    assert entry_from_json(json.loads(json.dumps(written))) == entry


@pytest.mark.parametrize("written", [3, "g", [3], ["g"], [[{"group": "g"}]], {}, {"group": "g", "units": 3}], ids=repr)
def test_what_is_no_json_of_an_entry_is_refused(written):
    with pytest.raises(TypeError):
        entry_from_json(written)
