"""Golden cases of paths: strings, constructions without training, permutation points."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mcjax
from golden.small import WIDTHS, drawn, key, mlp, network, task, trained_pairs
from mcjax import trees


def string():
    """Beads between two networks."""
    training = mcjax.TrainConfig(epochs=20, batch_size=20, optimizer=optax.adam(0.01), weight_decay=0.0)
    config = mcjax.strings.StringConfig(training=training, depth=2, scan_points=5, verification_density=2)
    ends = (trees.index(each, 0) for each in trained_pairs())
    found = mcjax.strings.sample_string(key(), task(), *ends, 1.08, config=config)
    names = ("knots", "values", "depths", "heights", "peaks", "connected", "depth", "length", "normalized_length")
    here = {"steps": found.steps, "evaluations": found.evaluations}
    return {**{name: getattr(found, name) for name in names}, "reason": np.array(found.reason), "here": here}


@cache
def stable(i):
    """A network with half of its units dropped."""
    return mcjax.constructions.dropout_stability(key(i), task(), network(i), draws=4)


def dropout_stability():
    found = stable(0)
    names = ("thetas", "keep", "factors", "loss", "losses", "epsilon")
    return {name: getattr(found, name) for name in names}


def walked(construction):
    """Every knot, and what moves between them."""
    moves = construction.moves
    kinds, layers = [move.kind for move in moves], [",".join(map(str, move.layers)) for move in moves]
    return {"knots": construction.knots, "kinds": np.array(kinds), "layers": np.array(layers)}


def dropout_lines():
    found = mcjax.constructions.dropout_lines(key(), task(), network(0), 0.3, draws=3, ts=3)
    return {"losses": found.losses, "rises": found.rises, "rise": found.rise()}


def drop_path():
    return walked(mcjax.constructions.drop_path(mlp(), stable(0)))


def halves_path():
    return walked(mcjax.constructions.halves_path(mlp(), *(trees.index(stable(i).thetas, 0) for i in range(2))))


def dropout_path():
    found = mcjax.constructions.dropout_path(mlp(), stable(0), stable(1))
    metrics = mcjax.evaluate_path(task(), found.path, 5)
    return {**walked(found), "train_loss": metrics.train_loss, "distance": metrics.distance}


def interpolation_path():
    return walked(mcjax.constructions.interpolation_path(mlp(), stable(0), stable(1)))


def narrow_path():
    narrow = trees.index(drawn((16, 2, 3, 3), 1, seed=1), 0)
    return walked(mcjax.constructions.narrow_path(mlp(), stable(0), stable(1), narrow))


def linear_network_path():
    """Straight and with least norm, of networks of full rank."""
    results = {}
    for name, widths, ridge in (("deep", (5, 4, 4, 3), False), ("ridge", (4, 5, 3), True)):
        options = {"widths": widths[1:-1], "activation": "linear", "bias": False}
        model = mcjax.models.create("mlp", widths[-1], widths[:1], **options)
        thetas = drawn(widths, 2, seed=2)
        kernels = {layer: {"kernel": leaves["kernel"]} for layer, leaves in thetas["params"].items()}
        ends = (trees.index({"params": kernels}, i) for i in range(2))
        path = mcjax.constructions.linear_network_path(model, *ends, ridge=ridge)
        results[name] = jax.jit(jax.vmap(path))(jnp.linspace(0, 1, 7))
    return results


def wide_path():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 2))
    y = np.sin(2 * x[:, :1]) + np.abs(x.sum(1, keepdims=True))
    model = mcjax.models.create("mlp", 1, (2,), widths=(8,), bias=False)
    curved = mcjax.supervised(model, mcjax.data.regression(x, y, x, y))
    ends = []
    for _ in range(2):
        rows = rng.normal(size=(2, 8))
        kernels = (rows / np.linalg.norm(rows, axis=0), 0.3 * rng.normal(size=(8, 1)))
        ends.append({"params": {f"Dense_{j}": {"kernel": np.float32(kernel)} for j, kernel in enumerate(kernels)}})
    results = {}
    for angle in (0.0, 0.2):
        found = mcjax.constructions.wide_path(key(), curved, *ends, kappa=0.003, units=(2,), angles=(angle,))
        names = ("parts", "ends", "e", "delta", "delta_few", "height", "epsilon")
        numbers = {of: np.array(getattr(found, of)) for of in names}
        results[angle] = {**walked(found.construction), **numbers}
    # The few units are found by descent, and turned by one that is not smooth: rounding decides where it ends.
    knots = results[0.0].pop("knots")
    return {"straight": results[0.0], "here": {"straight": knots, "turned": results[0.2]}}


def counterexamples():
    results = {}
    for name, example in (
        ("disconnected_minima", mcjax.constructions.disconnected_minima(2)),
        ("two_neuron_mixture", mcjax.constructions.two_neuron_mixture(6)),
        ("mixture_minima", mcjax.constructions.mixture_minima(2, 1)),
    ):
        data = example.task.train
        ends = jax.device_get((example.theta_1, example.theta_2))
        middle = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
        outputs = jax.jit(example.model.apply)(middle, data[0])
        results[name] = {"data": data, "ends": ends, "middle": outputs, "barrier": example.barrier}
        results[name]["losses"] = example.losses
    return results


@cache
def teacher():
    """The task of what a network 2-4-1 of tanh units makes of 40 points, and the network."""
    rng = np.random.default_rng(29)
    x = np.float32(rng.normal(size=(40, 2)))
    theta = {
        "params": {
            "Dense_0": {"kernel": rng.normal(size=(2, 4)), "bias": rng.normal(size=4) / 2},
            "Dense_1": {"kernel": rng.normal(size=(4, 1)), "bias": np.zeros(1)},
        }
    }
    theta = jax.tree.map(np.float32, theta)
    layers = [{name: np.float64(leaf) for name, leaf in layer.items()} for layer in theta["params"].values()]
    y = np.tanh(x @ layers[0]["kernel"] + layers[0]["bias"]) @ layers[1]["kernel"]
    model = mcjax.models.create("mlp", 1, (2,), widths=(4,), activation="tanh")
    return mcjax.supervised(model, mcjax.data.regression(x, y, x, y, "teacher")), theta


# Minima so sharp that where they are does not depend on the last bits.
STEPS = mcjax.permutation_points.PermutationConfig(
    steps=6, tolerance=1e-8, point_tolerance=1e-10, iterations=200, knots=600, rise_tolerance=1e3
)
UNITS = (1, 3)


@cache
def exchanged():
    return mcjax.permutation_points.permutation_path(*teacher(), "dense_0", UNITS, STEPS)


def permutation_path():
    found = exchanged()
    names = ("point", "P", "distances", "loss", "converged", "barrier")
    counts = {"knots": found.knots, "iterations": found.iterations, "products": found.products}
    return {**{name: getattr(found, name) for name in names}, "here": counts}


def permutation_points():
    """Constructions at a permutation point: any order of units, the plane of equal loss, several mergers, counts."""
    learned, theta = teacher()
    model = learned.model
    moves = mcjax.permutation_points.permute_units(model, exchanged().point, "dense_0", UNITS, [3, 2, 1, 0])
    merged = mcjax.permutation_points.merge_units(learned, theta, "dense_0", [UNITS, (0, 2)], STEPS)
    return {
        "moves": walked(moves),
        "merged": {"point": merged.point, "loss": merged.loss, "height": merged.height, "clusters": merged.clusters},
        "plane": mcjax.permutation_points.equal_loss_plane(model, merged.point, "dense_0", merged.clusters),
        "similar": mcjax.permutation_points.similar_pairs(model, theta, "dense_0"),
        "count": mcjax.permutation_points.count(2, WIDTHS),
        "ratio": float(mcjax.permutation_points.ratio(2, 6)),
    }


CASES = (
    string, dropout_stability, dropout_lines, drop_path, halves_path, dropout_path, interpolation_path, narrow_path,
    linear_network_path, wide_path, counterexamples, permutation_path, permutation_points,
)  # fmt: skip
