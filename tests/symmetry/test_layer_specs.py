"""Specs of layers: as tables, and against the leaves that Flax makes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from refusals import says

from mcjax import Axis, PermutationSpec, SpecError
from mcjax.symmetry import layer_specs

CONV, NORM = "params/c/kernel", ("params/n/scale", "params/n/bias", "batch_stats/n/mean", "batch_stats/n/var")


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (layer_specs.dense("d", "a", "b"), {"params/d/kernel": ("a", "b"), "params/d/bias": ("b",)}),
        (layer_specs.dense("d", Axis("a", 4), None, bias=False), {"params/d/kernel": (Axis("a", 4), None)}),
        (layer_specs.conv("c", None, "b"), {CONV: (None, None, None, "b"), "params/c/bias": ("b",)}),
        (layer_specs.conv("c", "a", "b", bias=False, spatial=1), {CONV: (None, "a", "b")}),
        (layer_specs.norm("n", "a"), dict.fromkeys(NORM, ("a",))),
        (layer_specs.norm("n", "a", batch_stats=False), dict.fromkeys(NORM[:2], ("a",))),
    ],
)
def test_layers(layer, axes):
    assert layer == axes


@pytest.mark.parametrize("projection", [True, False])
def test_residual_block(projection):
    outputs = "out" if projection else "in"
    spec = layer_specs.join(layer_specs.residual_block("B", "in", "mid", outputs, projection=projection))
    convs = {"Conv_0": ("in", "mid"), "Conv_1": ("mid", outputs)} | ({"Conv_2": ("in", outputs)} if projection else {})
    for name, (inputs, made) in convs.items():
        assert spec.axes[f"params/B/{name}/kernel"] == (
            None,
            None,
            Axis(inputs, consumes=True),
            Axis(made, consumes=False),
        )
    for i, (_, made) in enumerate(convs.values()):
        for leaf in (f"params/B/BatchNorm_{i}/{part}" for part in ("scale", "bias")):
            assert spec.axes[leaf] == (Axis(made, consumes=False),)
        for leaf in (f"batch_stats/B/BatchNorm_{i}/{part}" for part in ("mean", "var")):
            assert spec.axes[leaf] == (Axis(made, consumes=False),)
    assert len(spec.axes) == len(convs) * 5


def test_a_block_without_projection_is_one_trunk():
    with says(SpecError, "B: ", "'in' and 'out'"):
        layer_specs.residual_block("B", "in", "mid", "out", projection=False)


def test_join():
    assert layer_specs.join(layer_specs.dense("a", None, "g"), layer_specs.dense("b", "g", None)) == PermutationSpec(
        {
            "params/a/kernel": (None, "g"),
            "params/a/bias": ("g",),
            "params/b/kernel": ("g", None),
            "params/b/bias": (None,),
        }
    )
    with says(SpecError, "params/a/bias, params/a/kernel"):
        layer_specs.join(layer_specs.dense("a", None, "g"), layer_specs.dense("a", "g", None))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x))
        x = nn.LayerNorm()(nn.Conv(3, (3, 3), use_bias=False)(x))
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


def test_the_leaves_are_those_of_flax(key):
    spec = layer_specs.join(
        layer_specs.conv("Conv_0", None, "a"),
        layer_specs.norm("BatchNorm_0", "a"),
        layer_specs.conv("Conv_1", "a", "b", bias=False),
        layer_specs.norm("LayerNorm_0", "b", batch_stats=False),
        layer_specs.dense("Dense_0", Axis("b", outer=30), None),
    )
    assert spec.group_sizes(jax.eval_shape(Net().init, key, jnp.zeros((1, 5, 6, 2)))) == {"a": 4, "b": 3}
