"""Models: their fields, the check of inputs, and one network or many."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from variables import stacked

from mcjax import InputError, Model, PermutationSpec, SpecError, models, trees
from mcjax.models.base import check_input, has_leading_axis, leading_axis

SHAPE = (4, 5, 2)
LEAVES = {
    "params/Conv_0/kernel": (1, 1, 2, 4),
    "params/Conv_0/bias": (4,),
    "params/BatchNorm_0/scale": (4,),
    "params/Dense_0/kernel": (4, 3),
    "batch_stats/BatchNorm_0/mean": (4,),
}


def init(key):
    return trees.nest({name: jnp.zeros(shape) for name, shape in LEAVES.items()})


def apply(theta, x):
    units = jnp.maximum(x.mean((1, 2)) @ theta["params"]["Conv_0"]["kernel"][0, 0], 0)
    return units @ theta["params"]["Dense_0"]["kernel"]


SPEC = PermutationSpec({name: (None,) * len(shape) for name, shape in LEAVES.items()})


@pytest.fixture
def model():
    return Model(init, apply, lambda theta, x, key: (apply(theta, x), {}), lambda *_: {}, SPEC, "Net", SHAPE, 3)


@pytest.fixture
def theta():
    rng = np.random.default_rng(0)
    return trees.nest({name: rng.normal(size=shape).astype(np.float32) for name, shape in LEAVES.items()})


@pytest.mark.parametrize("shape", [(2, 4, 5, 1), (4, 5, 2), (2, 4, 5), (2, 3, 4, 5, 2), ()])
def test_images_of_another_shape_are_refused(shape):
    with says(InputError, "Net", "(4, 5, 2)", f"array {shape}", "(n, 4, 5, 2)", f"input_shape={shape[1:]}"):
        check_input("Net", SHAPE, np.zeros(shape, np.float32))


def test_check_input_takes_a_batch_of_any_size():
    for n in (0, 1, 7):
        assert check_input("model", SHAPE, np.zeros((n, *SHAPE))) is None


def test_a_model_is_a_value_and_static_under_jit(model, theta):
    same, other = Model(*model), model._replace(name="Other")
    assert (same, hash(same)) == (model, hash(model))
    assert other != model
    assert model.input_dtype == "float32"
    traced = []

    def fn(model, theta, x):
        traced.append(model.name)
        return model.apply(theta, x)

    jitted, x = jax.jit(fn, static_argnums=0), np.ones((2, *SHAPE), np.float32)
    for each in (model, same, other):
        np.testing.assert_allclose(jitted(each, theta, x), apply(theta, x), rtol=1e-5)
    assert traced == ["Net", "Other"]


def test_one_network_or_many(model, theta):
    assert has_leading_axis(theta, model) is False
    assert has_leading_axis(stacked([theta] * 3), model) is True
    assert has_leading_axis(stacked([theta]), model) is True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"params": t["params"]}, ("batch_stats/BatchNorm_0/mean", "nothing", "(4,)")),
        (lambda t: {**t, "more": np.zeros(2)}, ("more", "(2,)", "nothing")),
        (lambda t: jax.tree.map(lambda leaf: leaf[:-1], t), ("params/Conv_0/bias", "(3,)", "(4,)")),
        (lambda t: jax.tree.map(lambda leaf: leaf[None, None], t), ("Conv_0/bias", "(1, 1, 4)", "(4,)")),
        (lambda t: {**jax.tree.map(lambda leaf: leaf[None], t), "params": t["params"]}, ("(1, 4)", "(4,)")),
        (lambda t: t["params"], ("{'params': ...}", "batch_stats")),
    ],
)
def test_variables_of_another_architecture_are_refused(model, theta, change, words):
    with says(SpecError, "Net", *words):
        has_leading_axis(change(theta), model)


def test_of_many_wrong_leaves_twelve_are_named(model, theta):
    extra = {f"leaf_{i:02d}": np.zeros(1) for i in range(20)}
    with pytest.raises(SpecError) as caught:
        has_leading_axis({**theta, **extra}, model)
    assert "leaf_11: got (1,)" in str(caught.value)
    assert "leaf_12" not in str(caught.value)
    assert str(caught.value).endswith("... and 8 more")


def test_both_ends_are_one_network_or_as_many_each(model, theta):
    two, three = (stacked([theta] * n) for n in (2, 3))
    assert leading_axis(model, theta, theta).given is False
    assert leading_axis(model, two, two).given is True
    for ends in ((theta, two), (two, theta), (two, three)):
        with says(InputError, "theta_1", "theta_2"):
            leading_axis(model, *ends)
    with says(SpecError, "Net"):
        leading_axis(model, theta, {"params": {}})


def test_networks_whose_shapes_are_not_known_are_one(model, theta):
    """A task has an init and a name as a model does, and may have no init."""
    unknown = SimpleNamespace(init=None, name="mine")
    for each in (theta, stacked([theta] * 3), {"anything": np.zeros(2)}):
        assert has_leading_axis(each, unknown) is False
    known = SimpleNamespace(init=init, name="mine")
    assert has_leading_axis(stacked([theta] * 3), known) is True
    with says(SpecError, "mine"):
        has_leading_axis({"params": {}}, known)
    with says(InputError, "theta_1", "theta_2"):
        leading_axis(unknown, theta, stacked([theta] * 3))


def test_a_leading_axis_is_added_for_one_network_and_removed_again():
    model = models.create("mlp", 3, (4, 4, 1), widths=(2,))
    theta = model.init(jax.random.key(0))
    one, many = leading_axis(model, theta), leading_axis(model, stacked([theta] * 3))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(one.add(theta))} == {1}
    jax.tree.map(np.testing.assert_array_equal, one.remove(one.add(theta)), theta)
    assert many.add(theta) is theta
    assert many.remove(theta) is theta
