"""What a model is, the check of its input, and telling one network from many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import InputError, Model, PermutationSpec, SpecError, trees
from mcjax.models.base import check_ends, check_input, has_leading_axis

SHAPE = (4, 5, 2)
LEAVES = {
    "params/Conv_0/kernel": (1, 1, 2, 4),
    "params/Conv_0/bias": (4,),
    "params/BatchNorm_0/scale": (4,),
    "params/Dense_0/kernel": (4, 3),
    "batch_stats/BatchNorm_0/mean": (4,),
}


def init(key):
    return trees.nest({name: jax.random.normal(key, shape) for name, shape in LEAVES.items()})


def apply(theta, x):
    units = jnp.maximum(x.mean((1, 2)) @ theta["params"]["Conv_0"]["kernel"][0, 0], 0)
    return units @ theta["params"]["Dense_0"]["kernel"]


SPEC = PermutationSpec({name: (None,) * len(shape) for name, shape in LEAVES.items()})


@pytest.fixture
def model():
    return Model(init, apply, lambda theta, x, key: (apply(theta, x), {}), lambda *_: {}, SPEC, "Net", SHAPE, 3)


@pytest.fixture
def theta(key):
    return init(key)


@pytest.mark.parametrize("shape", [(2, 4, 5, 1), (4, 5, 2), (2, 4, 5), (2, 3, 4, 5, 2), ()])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError) as caught:
        check_input("Net", SHAPE, np.zeros(shape, np.float32))
    message = f"Net takes images of shape (4, 5, 2): got an array {shape}, expected (n, 4, 5, 2)."
    assert str(caught.value) == f"{message} Create the model with input_shape={shape[1:]}."


def test_check_input_takes_a_batch_of_any_size():
    for n in (0, 1, 7):
        assert check_input("model", SHAPE, np.zeros((n, *SHAPE))) is None


def test_a_model_is_a_value_and_static_under_jit(model, theta):
    same, other = Model(*model), model._replace(name="Other")
    assert (same, hash(same)) == (model, hash(model))
    assert other != model
    assert (model.convolutions, model.input_dtype) == ("none", "float32")
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
    assert has_leading_axis(trees.stack([theta] * 3), model) is True
    assert has_leading_axis(trees.stack([theta]), model) is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"params": t["params"]}, r"batch_stats/BatchNorm_0/mean: got nothing, expected \(4,\)"),
        (lambda t: {**t, "more": np.zeros(2)}, r"more: got \(2,\), expected nothing"),
        (lambda t: jax.tree.map(lambda leaf: leaf[:-1], t), r"params/Conv_0/bias: got \(3,\), expected \(4,\)"),
        (lambda t: jax.tree.map(lambda leaf: leaf[None, None], t), r"Conv_0/bias: got \(1, 1, 4\), expected \(4,\)"),
        (
            lambda t: {**jax.tree.map(lambda leaf: leaf[None], t), "params": t["params"]},
            r"got \(1, 4\), expected \(4,\)",
        ),
        (lambda t: t["params"], r"parameters alone: give {'params': \.\.\.}, with batch_stats if the model has them"),
    ],
)
def test_variables_of_another_architecture_are_refused(model, theta, change, message):
    with pytest.raises(SpecError, match=f"(?s)these variables are not those of Net:.*{message}"):
        has_leading_axis(change(theta), model)


def test_of_many_wrong_leaves_twelve_are_named(model, theta):
    extra = {f"leaf_{i:02d}": np.zeros(1) for i in range(20)}
    with pytest.raises(SpecError) as caught:
        has_leading_axis({**theta, **extra}, model)
    assert "leaf_11: got (1,)" in str(caught.value)
    assert "leaf_12" not in str(caught.value)
    assert str(caught.value).endswith("... and 8 more")


def test_both_ends_are_one_network_or_as_many_each(model, theta):
    two, three = (trees.stack([theta] * n) for n in (2, 3))
    assert check_ends(model, theta, theta) is False
    assert check_ends(model, two, two) is True
    for ends in ((theta, two), (two, theta), (two, three)):
        with pytest.raises(InputError, match="theta_1 and theta_2 hold different numbers of networks"):
            check_ends(model, *ends)
    with pytest.raises(SpecError, match="these variables are not those of Net"):
        check_ends(model, theta, {"params": {}})
