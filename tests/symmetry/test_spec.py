"""Specs: what they declare, what they find wrong, and that they are values."""

import copy
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says

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
SHAPES = dict(zip(AXES, [(3, 3, 1, 5), (5,), (20, 6), (6,), (6, 7), (7,), ()], strict=True))


def theta(**changes):
    shapes = {name: shape for name, shape in {**SHAPES, **changes}.items() if shape is not None}
    # A flat dict: names with slashes are names all the same.
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_groups_sizes_and_places():
    spec, (conv, bias, dense, dense_bias, last, *_) = PermutationSpec(AXES), AXES
    assert spec.groups == ("conv", "gates")
    for variables in (theta(), jax.eval_shape(lambda: jax.tree.map(jnp.asarray, theta()))):
        assert spec.group_sizes(variables) == {"conv": 5, "gates": 3}
        assert spec.validate(variables) is None
    assert [place[:2] for place in spec.places("conv")] == [(conv, 3), (bias, 0), (dense, 0)]
    assert spec.producers("conv") == ((conv, 3), (bias, 0))
    assert spec.consumers("conv") == ((dense, 0),)
    assert spec.producers("gates") == ((dense, 1), (dense_bias, 0))
    assert spec.consumers("gates") == ((last, 0),)
    with says(SpecError, "'cnov'", "conv, gates"):
        spec.producers("cnov")


@pytest.mark.parametrize("consumes", [True, False])
def test_consumes_can_be_given(consumes):
    spec = PermutationSpec({"a": (Axis("g", consumes=consumes), "g"), "b": (Axis("g", consumes=consumes),)})
    told, other = (("a", 0), ("b", 0)), (("a", 1),)
    assert spec.consumers("g") == (told if consumes else ())
    assert spec.producers("g") == (other if consumes else (("a", 0), ("a", 1), ("b", 0)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"params/New/bias": (2,)}, ["params/New/bias: in the variables"]),
        ({"params/Conv_0/bias": None}, ["params/Conv_0/bias: in the spec"]),
        ({"params/Conv_0/bias": (5, 1)}, ["params/Conv_0/bias: shape (5, 1)", "2 axes", "names 1"]),
        ({"params/Dense_0/kernel": (21, 6)}, ["axis 0 has length 21", "a multiple of 4 (4*conv in)"]),
        ({"params/Dense_1/kernel": (7, 7)}, ["axis 0 has length 7", "a multiple of 2 (gates*2 in)"]),
        ({"params/Conv_0/bias": (0,)}, ["axis 0 has length 0"]),
        (
            {"params/Conv_0/bias": (6,)},
            [
                "'conv'",
                "5 at params/Conv_0/kernel axis 3, params/Dense_0/kernel axis 0; 6 at params/Conv_0/bias axis 0",
            ],
        ),
        (
            {"params/New/bias": (2,), "params/Conv_0/bias": None, "params/Dense_1/kernel": (7, 7)},
            ["params/New/bias", "params/Conv_0/bias", "params/Dense_1/kernel"],
        ),
    ],
)
def test_leaves_that_do_not_fit_are_named(changes, named):
    spec = PermutationSpec(AXES)
    for method in (spec.validate, spec.group_sizes):
        with says(SpecError, *named):
            method(theta(**changes))


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
SEVERAL_SHAPES = dict(zip(SEVERAL, [(2, 36), (36,), (12, 5), (7, 3)], strict=True))


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
    with says(SpecError, "got 3 for an axis"):
        PermutationSpec({"a": (("g", 3),)})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"attention/in/bias": (35,)},
            ["attention/in/bias: axis 0 has length 35", "from 24 to 36 a multiple of 4 (heads*4[24:36])"],
        ),
        ({"attention/in/bias": (35,)}, ["from 24 to 36 a multiple of 3 (3*v[24:36])"]),
        ({"dense/kernel": (4, 3)}, ["axis 0 has length 4", "from 0 to 5 a multiple of 1 (sum[0:5] in)"]),
        ({"dense/kernel": (5, 3)}, ["axis 0 has length 5", "from 5 to its end a multiple of 1 (rest[5:] in)"]),
        ({"attention/out/kernel": (13, 5)}, ["length 13", "a multiple of 4 (heads*4 in)"]),
        (
            {"attention/out/kernel": (24, 5)},
            ["'heads'", "3 at attention/in/bias axis 0", "; 6 at attention/out/kernel axis 0"],
        ),
        ({"attention/out/kernel": (12, 6)}, ["'sum'", "5 at dense/kernel axis 0; 6 at attention/out/kernel axis 1"]),
    ],
)
def test_segments_and_factors_that_do_not_fit_are_named(changes, named):
    with says(SpecError, *named):
        PermutationSpec(SEVERAL).validate(several(**changes))


def test_segments_that_overlap_in_part_are_named():
    one_in_the_other = ((Axis("g", stop=4), Axis("h", start=0, stop=2)),)
    assert PermutationSpec({"a": one_in_the_other}).group_sizes({"a": np.zeros(6)}) == {"g": 4, "h": 2}
    spec = PermutationSpec({"a": ((Axis("g", stop=4), Axis("h", start=3)),)})
    with says(SpecError, "a: axis 0", "g[0:4]", "h[3:]"):
        spec.validate({"a": np.zeros(6)})


def test_segments_of_one_group_must_be_of_one_length():
    spec = PermutationSpec({"a": ((Axis("g", stop=3), Axis("g", start=3)),)})
    assert spec.group_sizes({"a": np.zeros(6)}) == {"g": 3}
    with says(SpecError, "'g'", "3 at a axis 0; 4 at a axis 0"):
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
    with says(SpecError, "'gate'", "conv, gates"):
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
    with says(SpecError, "jax.vmap"):
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


NO_SPECS = """ | [] | [[]] | 3 | null | "a" | {'a': []} | {"a": """
NO_ENTRIES = """
3 | null | "g" | {"group": "g"} | {"pinned": "why"} | [3] | [7] | ["g"] | [true] | [[3]] | [[null]] | [[["g"]]]
[[{"pinned": "why"}, {"group": "g"}]] | [{}] | [{"grp": "g"}] | [{"group": 1}] | [{"group": null}] | [{"group": ["g"]}]
[{"group": "g", "pinned": "why"}] | [{"group": "g", "outer": "2"}] | [{"group": "g", "outer": 1.5}]
[{"group": "g", "inner": 0}] | [{"group": "g", "start": null}] | [{"group": "g", "start": 3, "stop": 2}]
[{"group": "g", "consumes": [true]}] | [{"group": "g", "consumes": "no"}]
"""


def test_json_that_is_no_spec_is_refused():
    for text in NO_SPECS.split("|"):
        with says(SpecError, "JSON"):
            PermutationSpec.from_json(text)
    for entries in NO_ENTRIES.strip().replace("\n", "|").split("|"):
        with says(SpecError, "JSON", "leaf a"):
            PermutationSpec.from_json(f'{{"a": {entries}}}')


def test_a_spec_prints_as_a_table():
    lines = str(PermutationSpec(AXES)).splitlines()
    assert lines[0] == "PermutationSpec: 2 groups, 7 leaves"
    assert len(lines) == 8
    assert lines[3].split(maxsplit=1) == ["params/Dense_0/kernel", "(4*conv in, gates*2)"]


@pytest.mark.parametrize("entries", ["units", Axis("units"), {"w": ("units",)}], ids=["a name", "an axis", "a dict"])
def test_entries_without_a_tuple_are_refused(entries):
    with says(SpecError, f"leaf: got {entries!r}"):
        PermutationSpec({"leaf": entries})
