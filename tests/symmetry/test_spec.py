"""Specs: what they declare, what they find wrong, and that they are values."""

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
    spec = PermutationSpec({**AXES, "told": (Axis("conv", 2, 3, True),)})
    again = PermutationSpec.from_json(spec.to_json())
    assert again == spec
    assert again.groups == spec.groups


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": 3}', '{"a": [7]}', '{"a": [{"grp": "g"}]}', "{'a': []}"])
def test_what_is_no_json_of_a_spec_is_refused(text):
    with pytest.raises(SpecError, match="not the JSON of a PermutationSpec"):
        PermutationSpec.from_json(text)


def test_a_spec_prints_as_a_table():
    lines = str(PermutationSpec(AXES)).splitlines()
    assert lines[0] == "PermutationSpec: 2 groups, 7 leaves"
    assert len(lines) == 8
    assert lines[3].split(maxsplit=1) == ["params/Dense_0/kernel", "(4*conv in, gates*2)"]
