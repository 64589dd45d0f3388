"""The Hessian where units are equal: all eigenvalues, and those of the network with one unit a cluster."""

from itertools import pairwise

import jax
import numpy as np
import pytest
from refusals import says
from teachers import CONFIG, GROUP, toy

import mcjax
from mcjax import InputError
from mcjax.permutation_points import merge_units, merged_hessian


def signs(matrix, zero):
    values = np.linalg.eigvalsh(matrix)
    return (values < -zero).sum(), (np.abs(values) <= zero).sum(), (values > zero).sum()


def copied(layers, group, clusters):
    """The network of `layers`, (kernel, bias) each, with equal units for those of clusters, and with one unit each."""
    kernel, bias = layers[group]
    read, last = layers[group + 1]
    kernel, bias, read = kernel.copy(), bias.copy(), read.copy()
    for first, *others in clusters:
        kernel[:, others], bias[others], read[others] = kernel[:, [first]], bias[first], read[first]
    gone = [unit for cluster in clusters for unit in cluster[1:]]
    small = read.copy()
    for cluster in clusters:
        small[cluster[0]] *= len(cluster)
    whole = [*layers[:group], (kernel, bias), (read, last), *layers[group + 2 :]]
    fewer = [(np.delete(kernel, gone, 1), np.delete(bias, gone)), (np.delete(small, gone, 0), last)]
    return whole, [*layers[:group], *fewer, *layers[group + 2 :]]


@pytest.mark.parametrize(
    ("widths", "outputs", "group", "clusters"),
    [((5,), 3, 0, [(0, 3, 4)]), ((5,), 1, 0, [(4, 1), (0, 2, 3)]), ((3, 4, 2), 2, 1, [(1, 2, 3)])],
)
def test_signs_are_those_of_the_whole_and_of_the_smaller_network(widths, outputs, group, clusters):
    rng = np.random.default_rng(len(clusters) + outputs)
    sizes = (2, *widths, outputs)
    layers = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in pairwise(sizes)]
    x, y = np.float32(rng.normal(size=(40, 2))), np.float32(rng.normal(size=(40, outputs)))
    found = []
    for network in copied(layers, group, clusters):
        here = tuple(len(bias) for _, bias in network[:-1])
        model = mcjax.models.create("mlp", outputs, (2,), widths=here, activation="tanh")
        loss = mcjax.full_batch_loss(mcjax.supervised(model, mcjax.data.regression(x, y, x, y)))
        theta = {"params": {f"Dense_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(network)}}
        with jax.enable_x64(True):
            flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(jax.numpy.asarray, theta))
            hessian = np.asarray(jax.jit(jax.hessian(lambda flat, f=loss, of=unravel: f(of(flat))))(flat))
        found.append((model, loss, theta, hessian))
    (model, loss, theta, whole), (*_, small) = found
    got = merged_hessian(loss, model, theta, f"dense_{group}", clusters)
    zero = got.point.zero_tolerance
    assert (got.point.index, got.point.zeros, len(whole)) == (*signs(whole, zero)[:2], sum(signs(whole, zero)))
    assert got.smaller == signs(small, zero)
    assert tuple(np.add(got.smaller, got.parting)) == signs(whole, zero)
    # No critical point: G may have full rank, of every unit that can be removed.
    removed = sum(len(cluster) - 1 for cluster in clusters)
    read = sizes[group + 2]
    assert got.rank == removed * min(read, sizes[group] + 1)
    assert got.parting.negative >= got.rank
    assert sum(got.parting) == removed * (sizes[group] + 1 + read)
    assert got.point.kind == "no critical point"


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [[(0, 2), (1, 3)], [(0, 2), (2, 1)]])
def test_a_point_of_order_two_with_one_output(pairs):
    task, theta = toy(6)
    found = merge_units(task, theta, GROUP, pairs, CONFIG)
    got = merged_hessian(
        mcjax.full_batch_loss(task), task.model, found.point, GROUP, found.clusters, gradient_tolerance=1e-8
    )
    # A minimum of the smaller network, K n_{k+1} zeros or more, G = 0 (property (i) of section 4.2, Proposition 2).
    assert got.smaller.negative == got.rank == 0
    assert got.parting.zeros >= found.order == 2
    assert got.point.index == got.parting.negative == got.negative_S
    assert sum(got.parting) == 2 * (3 + 1)
    if len(found.clusters) == 1:
        # The same block twice.
        assert all(each % 2 == 0 for each in got.parting)


def test_units_that_differ_are_refused():
    task, theta = toy(6)
    loss = mcjax.full_batch_loss(task)
    with says(InputError, "[0, 1]", "parameters or output weights"):
        merged_hessian(loss, task.model, theta, GROUP, [(0, 1)])
    point = jax.tree.map(np.copy, theta)
    for leaf in point["params"]["Dense_0"].values():
        leaf[..., 1] = leaf[..., 0]
    with says(InputError, "[0, 1]", "output weights that differ"):
        merged_hessian(loss, task.model, point, GROUP, [(0, 1)])
