"""Specs: what they declare, what they find wrong, and that they are values."""

import copy
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import Axis, PermutationSpec, SpecError

AXES = {
    "params/Conv_0/kernel": (None, None, None, "conv"),
    "params/Conv_0/bias": ("conv",),
    "params/Dense_0/kernel": (Axis("conv", outer=4), Axis("gates", inner=2)),
    "params/Dense_0/bias": (Axis("gates", inner=2),),
    "params/Dense_1/kernel": (Axis("gates", inner=2), None),
    "params/Dense_1/bias": (None,),
    "step": None,
}
SHAPES = {
    "params/Conv_0/kernel": (3, 3, 1, 5),
    "params/Conv_0/bias": (5,),
    "params/Dense_0/kernel": (20, 6),
    "params/Dense_0/bias": (6,),
    "params/Dense_1/kernel": (6, 7),
    "params/Dense_1/bias": (7,),
    "step": (),
}


def theta(**changes):
    shapes = {name: shape for name, shape in {**SHAPES, **changes}.items() if shape is not None}
    # A flat dict: names with slashes are names all the same.
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_groups_sizes_and_places():
    spec = PermutationSpec(AXES)
    assert spec.groups == ("conv", "gates")
    assert spec.group_sizes(theta()) == {"conv": 5, "gates": 3}
    assert spec.group_sizes(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, theta()))) == {"conv": 5, "gates": 3}
    assert spec.validate(theta()) is None
    assert [place[:2] for place in spec.places("conv")] == [
        ("params/Conv_0/kernel", 3),
        ("params/Conv_0/bias", 0),
        ("params/Dense_0/kernel", 0),
    ]


def test_producers_and_consumers():
    spec = PermutationSpec(AXES)
    assert spec.producers("conv") == (("params/Conv_0/kernel", 3), ("params/Conv_0/bias", 0))
    assert spec.consumers("conv") == (("params/Dense_0/kernel", 0),)
    assert spec.producers("gates") == (("params/Dense_0/kernel", 1), ("params/Dense_0/bias", 0))
    assert spec.consumers("gates") == (("params/Dense_1/kernel", 0),)
    with pytest.raises(SpecError, match=r"got group 'cnov', expected one of conv, gates"):
        spec.producers("cnov")


@pytest.mark.parametrize("consumes", [True, False])
def test_consumes_can_be_said(consumes):
    spec = PermutationSpec({"a": (Axis("g", consumes=consumes), "g"), "b": (Axis("g", consumes=consumes),)})
    told, other = (("a", 0), ("b", 0)), (("a", 1),)
    assert spec.consumers("g") == (told if consumes else ())
    assert spec.producers("g") == (other if consumes else (("a", 0), ("a", 1), ("b", 0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params/New/bias": (2,)}, r"params/New/bias: in the variables, missing from the spec"),
        ({"params/Conv_0/bias": None}, r"params/Conv_0/bias: in the spec, missing from the variables"),
        ({"params/Conv_0/bias": (5, 1)}, r"params/Conv_0/bias: shape \(5, 1\) has 2 axes, the spec names 1"),
        ({"params/Dense_0/kernel": (21, 6)}, r"axis 0 has length 21, expected a multiple of 4 \(4\*conv in\)"),
        ({"params/Dense_1/kernel": (7, 7)}, r"axis 0 has length 7, expected a multiple of 2 \(gates\*2 in\)"),
        ({"params/Conv_0/bias": (0,)}, r"axis 0 has length 0"),
        (
            {"params/Conv_0/bias": (6,)},
            r"group 'conv' has axes of unequal size: 5 at params/Conv_0/kernel axis 3, "
            r"params/Dense_0/kernel axis 0; 6 at params/Conv_0/bias axis 0",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    spec = PermutationSpec(AXES)
    with pytest.raises(SpecError, match=message):
        spec.validate(theta(**changes))
    with pytest.raises(SpecError, match=message):
        spec.group_sizes(theta(**changes))


def test_everything_that_does_not_fit_is_named_at_once():
    wrong = {"params/New/bias": (2,), "params/Conv_0/bias": None, "params/Dense_1/kernel": (7, 7)}
    with pytest.raises(SpecError) as caught:
        PermutationSpec(AXES).validate(theta(**wrong))
    assert all(name in str(caught.value) for name in wrong)


@pytest.mark.parametrize(("outer", "inner"), [(0, 1), (1, 0), (-2, 1)])
def test_an_axis_has_at_least_one_copy(outer, inner):
    with pytest.raises(SpecError, match=f"got outer={outer}, inner={inner}, expected both to be at least 1"):
        Axis("g", outer, inner)


QKV = tuple(
    axis
    for start, units in ((0, "qk"), (12, "qk"), (24, "v"))
    for axis in (
        Axis("heads", inner=4, start=start, stop=start + 12),
        Axis(units, outer=3, start=start, stop=start + 12),
    )
)
SEVERAL = {
    "attention/in/kernel": (None, QKV),
    "attention/in/bias": (QKV,),
    "attention/out/kernel": ((Axis("heads", inner=4), Axis("v", outer=3)), "sum"),
    "dense/kernel": ((Axis("sum", stop=5), Axis("rest", start=5)), None),
}
SEVERAL_SHAPES = {
    "attention/in/kernel": (2, 36),
    "attention/in/bias": (36,),
    "attention/out/kernel": (12, 5),
    "dense/kernel": (7, 3),
}


def several(**changes):
    return {name: np.zeros(shape, np.float32) for name, shape in {**SEVERAL_SHAPES, **changes}.items()}


def test_several_groups_on_one_axis():
    spec = PermutationSpec(SEVERAL)
    assert spec.groups == ("heads", "qk", "v", "sum", "rest")
    assert spec.group_sizes(several()) == {"heads": 3, "qk": 4, "v": 4, "sum": 5, "rest": 2}
    made = (("attention/in/kernel", 1), ("attention/in/bias", 0))
    assert spec.producers("qk") == tuple(place for place in made for _ in range(2))
    assert set(spec.producers("heads")) == set(made)
    assert spec.consumers("v") == spec.consumers("heads") == (("attention/out/kernel", 0),)
    assert spec.consumers("rest") == spec.consumers("sum") == (("dense/kernel", 0),)
    assert [axis.start for _, _, axis in spec.places("heads")] == [0, 12, 24, 0, 12, 24, 0]
    assert len({spec, PermutationSpec(dict(spec.axes)), PermutationSpec.from_json(spec.to_json())}) == 1


def test_one_of_several_is_itself():
    assert PermutationSpec({"a": (("g",), [])}) == PermutationSpec({"a": (Axis("g", consumes=True), None)})
    assert PermutationSpec({"a": (("g", "h"),)}) != PermutationSpec({"a": (("h", "g"),)})
    with pytest.raises(SpecError, match="got 3 for an axis, expected None, an Axis, the name of a group, or several"):
        PermutationSpec({"a": (("g", 3),)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention/in/bias": (35,)},
            r"attention/in/bias: axis 0 has length 35, expected from 24 to 36 a multiple of 4 \(heads\*4\[24:36\]\)",
        ),
        ({"attention/in/bias": (35,)}, r"from 24 to 36 a multiple of 3 \(3\*v\[24:36\]\)"),
        ({"dense/kernel": (4, 3)}, r"axis 0 has length 4, expected from 0 to 5 a multiple of 1 \(sum\[0:5\] in\)"),
        (
            {"dense/kernel": (5, 3)},
            r"axis 0 has length 5, expected from 5 to its end a multiple of 1 \(rest\[5:\] in\)",
        ),
        ({"attention/out/kernel": (13, 5)}, r"length 13, expected a multiple of 4 \(heads\*4 in\)"),
        (
            {"attention/out/kernel": (24, 5)},
            r"'heads' has axes of unequal size: 3 at attention/in/bias axis 0.*; 6 at attention/out/kernel axis 0",
        ),
        ({"attention/out/kernel": (12, 6)}, r"'sum' has axes of unequal size: 5 at dense/kernel axis 0; 6 at atten"),
    ],
)
def test_segments_and_factors_that_do_not_fit_are_named(changes, message):
    with pytest.raises(SpecError, match=message):
        PermutationSpec(SEVERAL).validate(several(**changes))


def test_segments_of_one_group_must_be_of_one_length():
    spec = PermutationSpec({"a": ((Axis("g", stop=3), Axis("g", start=3)),)})
    assert spec.group_sizes({"a": np.zeros(6)}) == {"g": 3}
    with pytest.raises(SpecError, match="group 'g' has axes of unequal size: 3 at a axis 0; 4 at a axis 0"):
        spec.validate({"a": np.zeros(7)})


PINNED = {("params/Conv_0/kernel", 0): "positions matter", ("params/Dense_1/bias", 0): "an axis of the outputs"}


def test_pinned_is_no_part_of_the_value():
    spec, plain = PermutationSpec(AXES, PINNED), PermutationSpec(AXES)
    assert dict(spec.pinned) == PINNED
    assert dict(plain.pinned) == {}
    assert spec == plain
    assert hash(spec) == hash(plain)
    with pytest.raises(TypeError):
        spec.pinned["step", 0] = "a reason"
    changed = dict(PINNED)
    spec = PermutationSpec(AXES, changed)
    changed.clear()
    assert dict(spec.pinned) == PINNED


def test_pinned_comes_along():
    spec = PermutationSpec(AXES, PINNED)
    for again in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), PermutationSpec.from_json(spec.to_json())):
        assert again == spec
        assert dict(again.pinned) == PINNED
    assert json.loads(spec.to_json())["params/Dense_1/bias"] == [{"pinned": "an axis of the outputs"}]
    assert json.loads(PermutationSpec(AXES).to_json())["params/Dense_1/bias"] == [None]


def test_pinned_is_printed():
    pinned = {("a", 0): "positions matter", ("a", 2): "positions matter", ("a", 1): "an axis of the inputs"}
    spec = PermutationSpec({"a": (None, None, None, "g"), "longer": (("g", Axis("h", inner=2)),)}, pinned)
    assert str(spec).splitlines() == [
        "PermutationSpec: 2 groups, 2 leaves",
        "  a       (-, -, -, g)  0, 2: positions matter; 1: an axis of the inputs",
        "  longer  (g & h*2)",
    ]


def test_without_groups():
    spec = PermutationSpec(AXES, PINNED)
    left = spec.without("gates")
    assert left == PermutationSpec(
        {
            **AXES,
            "params/Dense_0/kernel": (Axis("conv", outer=4), None),
            "params/Dense_0/bias": (None,),
            "params/Dense_1/kernel": (None, None),
        }
    )
    assert left.group_sizes(theta()) == {"conv": 5}
    gone = [("params/Dense_0/kernel", 1), ("params/Dense_0/bias", 0), ("params/Dense_1/kernel", 0)]
    assert dict(left.pinned) == {**PINNED, **dict.fromkeys(gone, "its group was taken out")}
    assert spec.without() == spec
    assert spec.without("gates", "conv").groups == ()
    assert spec.groups == ("conv", "gates")
    with pytest.raises(SpecError, match=r"got group 'gate', expected one of conv, gates"):
        spec.without("conv", "gate")


def test_without_one_of_several_groups():
    left = PermutationSpec(SEVERAL).without("heads", "rest")
    assert left.groups == ("qk", "v", "sum")
    assert left.axes["attention/out/kernel"][0] == Axis("v", outer=3, consumes=True)
    assert left.axes["dense/kernel"][0] == Axis("sum", stop=5, consumes=True)
    assert [axis.group for axis in left.axes["attention/in/bias"][0]] == ["qk", "qk", "v"]
    assert left.group_sizes(several()) == {"qk": 4, "v": 4, "sum": 5}


def test_an_axis_that_keeps_a_group_is_not_pinned():
    left = PermutationSpec(SEVERAL).without("heads")
    assert not left.pinned
    assert "taken out" not in str(left)
    assert left.without("v").pinned.keys() == {("attention/out/kernel", 0)}


def test_a_leaf_may_be_left_alone_whatever_its_shape():
    assert PermutationSpec({"a": None}).group_sizes({"a": np.zeros(3)}) == {}
    assert PermutationSpec({}).group_sizes({}) == {}
    several_networks = PermutationSpec({"a": ("g",), "b": None})
    with pytest.raises(SpecError, match=r"several networks\? Use jax.vmap"):
        several_networks.validate({"a": np.zeros((2, 3)), "b": np.zeros(2)})


def test_a_spec_is_a_value():
    spec, same = PermutationSpec(AXES), PermutationSpec({name: AXES[name] for name in reversed(AXES)})
    other = PermutationSpec({**AXES, "step": (), "params/Dense_1/bias": ("out",)})
    assert spec == same
    assert hash(spec) == hash(same)
    assert spec != other
    assert spec != AXES
    assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises(TypeError):
        spec.axes["step"] = ("g",)


def test_short_and_long_forms_are_equal():
    assert PermutationSpec({"a": (None, "g")}) == PermutationSpec({"a": [None, Axis("g", consumes=False)]})
    assert PermutationSpec({"a": ("g", None)}) == PermutationSpec({"a": (Axis("g", 1, 1, True), None)})
    assert PermutationSpec({"a": ("g", None)}) != PermutationSpec({"a": (Axis("g", 2), None)})


def test_a_spec_is_static_under_jit():
    traces = []

    @jax.jit
    def sizes(spec, x):
        traces.append(spec)
        return x + spec.group_sizes(theta())["conv"]

    for axes in (AXES, dict(AXES)):
        assert sizes(PermutationSpec(axes), jnp.zeros(())) == 5
    assert len(traces) == 1
    assert jax.tree.leaves(PermutationSpec(AXES)) == []


def test_json_and_back():
    spec = PermutationSpec({**AXES, **SEVERAL, "told": (Axis("conv", 2, 3, True),)})
    again = PermutationSpec.from_json(spec.to_json())
    assert again == spec
    assert again.groups == spec.groups


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[[]]",
        "3",
        "null",
        '"a"',
        "{'a': []}",
        '{"a": ',
        '{"a": 3}',
        '{"a": null}',
        '{"a": "g"}',
        '{"a": {"group": "g"}}',
        '{"a": {"pinned": "why"}}',
        '{"a": [3]}',
        '{"a": [7]}',
        '{"a": ["g"]}',
        '{"a": [true]}',
        '{"a": [[3]]}',
        '{"a": [[null]]}',
        '{"a": [[["g"]]]}',
        '{"a": [[{"pinned": "why"}, {"group": "g"}]]}',
        '{"a": [{}]}',
        '{"a": [{"grp": "g"}]}',
        '{"a": [{"group": 1}]}',
        '{"a": [{"group": null}]}',
        '{"a": [{"group": ["g"]}]}',
        '{"a": [{"group": "g", "pinned": "why"}]}',
        '{"a": [{"group": "g", "outer": "2"}]}',
        '{"a": [{"group": "g", "outer": 1.5}]}',
        '{"a": [{"group": "g", "inner": 0}]}',
        '{"a": [{"group": "g", "start": null}]}',
        '{"a": [{"group": "g", "start": 3, "stop": 2}]}',
        '{"a": [{"group": "g", "consumes": [true]}]}',
        '{"a": [{"group": "g", "consumes": "no"}]}',
    ],
)
def test_what_is_no_json_of_a_spec_is_refused(text):
    with pytest.raises(SpecError, match="not the JSON of a PermutationSpec"):
        PermutationSpec.from_json(text)


def test_a_spec_prints_as_a_table():
    lines = str(PermutationSpec(AXES)).splitlines()
    assert lines[0] == "PermutationSpec: 2 groups, 7 leaves"
    assert len(lines) == 8
    assert lines[3].split(maxsplit=1) == ["params/Dense_0/kernel", "(4*conv in, gates*2)"]


@pytest.mark.parametrize("entries", ["units", Axis("units"), {"w": ("units",)}], ids=["a name", "an axis", "a dict"])
def test_entries_without_a_tuple_are_refused(entries):
    with pytest.raises(SpecError, match=r"leaf: got .*expected one entry an axis, in a tuple"):
        PermutationSpec({"leaf": entries})
