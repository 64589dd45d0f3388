"""The golden cases: a small run of everything, which returns its numbers."""

import json
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np

import mcjax
from golden import constructions, studies
from golden.small import (
    IDENTITY,
    SHUFFLED,
    TRAINING,
    key,
    mlp,
    network,
    networks,
    pairs,
    task,
    trained,
    trained_pairs,
)
from mcjax import trees

FIT = mcjax.FitConfig(epochs=2, batch_size=20, optimizer=TRAINING.optimizer, weight_decay=1e-3)
PAM = mcjax.PamConfig(
    curve=replace(FIT, epochs=1),
    permutation=mcjax.curves.PermutationFitConfig(epochs=2, samples=2),
    iterations=1,
    nu_P=1e3,
    nu_phi=0.5,
    objective_examples=60,
    objective_points=3,
)


def endpoints():
    """Four networks trained side by side."""
    return {"theta": trained().theta, "history": trained().history}


def batch_statistics():
    """Convolutions, norms and augmentation: two steps of two networks, and the line between them."""
    rng = np.random.default_rng(5)
    images, labels = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8), np.arange(40) % 3
    data = mcjax.data.from_arrays(images[:30], labels[:30], images[30:], labels[30:], 3, "noise")
    model = mcjax.models.create("tinysix", 3, (8, 8, 3), width=0.25)
    task = mcjax.supervised(model, data)
    config = mcjax.TrainConfig(epochs=1, batch_size=10, steps_per_epoch=2, optimizer=mcjax.SGD(0.02))
    found = mcjax.train_endpoints(jax.random.split(key(), 2), task, config)
    ends = (trees.index(jax.device_get(found.theta), i) for i in range(2))
    metrics = mcjax.evaluate_path(task, mcjax.linear(model.spec).bind(*ends), 3)
    return {"theta": found.theta, "history": found.history, "line": along(metrics)}


def along(metrics):
    """The numbers of a path."""
    return {"ts": metrics.ts, **metrics.values, "distance": metrics.distance}


def spawn():
    config = replace(TRAINING, optimizer=mcjax.SGD(0.05, "constant"))
    found = mcjax.training.spawn(key(), task(), (0, 1), config)
    return {"theta": found.theta, "parents": found.parents, "history": found.history}


def match_activations():
    found = mcjax.match_activations(task(), *pairs())
    return {"P": found.P, **found.info}


def match_weights():
    found = mcjax.match_weights(key(), mlp().spec, *pairs())
    restarts, sweeps = found.info["restarts"], found.info["sweeps"]
    return {"P": found.P, "objective": found.objective, "restarts": restarts, "here": {"sweeps": sweeps}}


def match_straight_through():
    config = mcjax.matching.StraightThroughConfig(epochs=2, batch_size=20, examples=60)
    found = mcjax.match_straight_through(key(), task(), *pairs(), IDENTITY, config)
    return {"P": found.P, "objective": found.info["objectives"], "history": found.info["history"]}


def merge_and_repair():
    merged = mcjax.merge(key(), mlp().spec, networks())
    ends = jax.jit(jax.vmap(lambda P, theta: mcjax.permute(mlp().spec, P, theta)))(merged.P, networks())
    repaired = mcjax.repair(task(), merged.theta, ends)
    return {**merged._asdict(), "repaired": repaired}


def fit_curve():
    found = mcjax.fit_curve(key(), task(), mcjax.bezier(mlp().spec), *pairs(), SHUFFLED, FIT)
    return {"theta_c": found.theta_c, "history": found.history}


def fit_pam():
    found = mcjax.fit_pam(key(), task(), mcjax.bezier(mlp().spec), *pairs(), SHUFFLED, PAM)
    names = ("theta_c", "P", "history", "objective", "proposed", "distance", "relaxed", "rounded", "accepted", "moved")
    return {name: getattr(found, name) for name in names}


def evaluate_path():
    """With what is read off it."""
    metrics = mcjax.evaluate_path(task(), mcjax.linear(mlp().spec).bind_pairs(*pairs(), None, SHUFFLED), 5)
    integral = {name: values["integral"] for name, values in metrics.summary().items()}
    barriers = {baseline: mcjax.barrier(metrics, "test_loss", baseline) for baseline in ("line", "mean", "ends")}
    return {
        **along(metrics),
        "integral": integral,
        "barrier": barriers,
        "spectrum": mcjax.landscape.path_spectrum(metrics),
    }


def plane():
    found = mcjax.plane(task(), *(network(i) for i in range(3)), 3)
    return {"x": found.x, "y": found.y, **found.values, "points": found.points}


def quickstart():
    """The steps of the command: train, match, fit with and without the matching, learn the permutation, measure."""
    ends = trained_pairs()
    match = mcjax.match_activations(task(), *ends)
    curve = mcjax.bezier(mlp().spec)
    results = {"P": match.P, "before": match.info["before"], "after": match.info["after"]}
    for how, P in (("unaligned", IDENTITY), ("aligned", match.P)):
        given = (key(1), task(), curve, *ends, P)
        learned = mcjax.fit_pam(*given, PAM)
        paths = {
            "line": mcjax.linear(mlp().spec).bind_pairs(*ends, None, P),
            "bezier": mcjax.fit_curve(*given, FIT).path,
            "PAM": learned.path,
        }
        of = {name: mcjax.evaluate_path(task(), path, 5) for name, path in paths.items()}
        results[how] = {name: {"loss": each.train_loss, "barrier": mcjax.barrier(each)} for name, each in of.items()}
        results[how] |= {"objective": learned.objective, "accepted": learned.accepted, "learned": learned.P}
    return results


def hessian():
    loss, theta = mcjax.full_batch_loss(task(), weight_decay=1e-3), network(0)
    ends = mcjax.hessian.extreme_eigenpairs(key(), loss, theta, count=2, steps=40)
    density = mcjax.hessian.spectral_density(key(), loss, theta, draws=2, steps=6)
    return {
        "dense": mcjax.hessian.dense_hessian(loss, theta),
        "extreme": ends.values,
        "density": density._asdict(),
        "trace": mcjax.hessian.hessian_trace(key(), loss, theta, draws=4)._asdict(),
        "here": {"residuals": ends.residuals},
    }


class Residual(nn.Module):
    """A convolutional trunk of two blocks, flattened."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        for width in (3, 5):
            h = nn.Conv(width, (3, 3))(nn.relu(nn.GroupNorm(2)(x)))
            x += nn.Conv(4, (3, 3))(nn.gelu(h))
        x = jax.nn.silu(nn.Dense(6)(x.reshape(len(x), -1)))
        return nn.Dense(2)(x)


def infer_spec():
    x = np.ones((2, 4, 4, 1), np.float32)
    theta = jax.eval_shape(Residual().init, key(), x)
    found = mcjax.infer_spec(Residual().apply, theta, x)
    return {"axes": {leaf: np.array(json.dumps(axes)) for leaf, axes in json.loads(found.to_json()).items()}}


def birkhoff():
    M = np.float32(np.random.default_rng(1).normal(size=(6, 6)))
    return {
        "projected": mcjax.symmetry.project_birkhoff(M),
        "sinkhorn": mcjax.symmetry.sinkhorn(M),
        "nearest": mcjax.nearest_permutation(M),
    }


def registered_models():
    """Initial variables and outputs of every registered model, in testing and in training."""
    results = {}
    for name in mcjax.models.REGISTRY:
        width = 0.05 if name.startswith("vgg") else 0.1 if name.endswith("convnet") else 0.25
        options = {"widths": (8, 6)} if name == "mlp" else {"width": 0.03 if name == "lstm" else width}
        shape = {"lstm": (6,)}.get(name, (32, 32, 3) if name.startswith("vgg") else (10, 9, 3))
        model = mcjax.models.create(name, 3, shape, **options)
        rng = np.random.default_rng(6)
        x = np.float32(rng.normal(size=(3, *shape))) if len(shape) > 1 else rng.integers(0, 3, (3, *shape))
        theta = jax.jit(model.init)(key())
        both = jax.jit(lambda theta, x, model=model: (model.apply(theta, x), model.apply_train(theta, x, key(1))))
        outputs, (in_training, statistics) = both(theta, x)
        results[name] = {"theta": joined(theta), "outputs": outputs}
        results[name] |= {"in_training": in_training, "statistics": joined(statistics)}
    return results


def joined(tree):
    """All leaves as one vector."""
    return np.concatenate([np.zeros(0, np.float32), *(np.ravel(leaf) for leaf in jax.tree.leaves(tree))])


QUICK = (
    endpoints, batch_statistics, spawn, match_activations, match_weights, match_straight_through, merge_and_repair,
    fit_curve, fit_pam, evaluate_path, plane, quickstart, hessian, infer_spec, birkhoff,
)  # fmt: skip
SLOW = {"registered_models": registered_models} | {f"study_{study.__name__}": study for study in studies.STUDIES}
CASES = {case.__name__: case for case in (*QUICK, *constructions.CASES)} | SLOW
