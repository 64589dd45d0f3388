"""Wrong arguments of public functions: each is refused where it enters, by a message that says what to give."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from refusals import says

import mcjax
from mcjax import (
    FitConfig,
    InputError,
    PamConfig,
    Recorder,
    SpecError,
    Task,
    TrainConfig,
    bezier,
    constructions,
    curves,
    hessian,
    landscape,
    matching,
    models,
    permutation_points,
    strings,
    symmetry,
    training,
    trees,
)
from mcjax.training.task import Task as TaskClass


@pytest.fixture(scope="module")
def things(tiny_model, tiny_task, tiny_data):
    """What the calls below are given, right and wrong."""
    a, b = (tiny_model.init(jax.random.key(seed)) for seed in range(2))
    spec = tiny_model.spec
    curve, P = bezier(spec), mcjax.identity_permutation(spec, a)
    path = curve.bind(a, b)
    zeros = np.zeros(3, np.float32)
    given = {
        "key": jax.random.key(0),
        "raw": jax.random.PRNGKey(0),
        "keys": jax.random.split(jax.random.key(0), (2, 2)),
        "model": tiny_model,
        "data": tiny_data,
        "task": tiny_task,
        "spec": spec,
        "a": a,
        "b": b,
        "thetas": trees.stack([a, b]),
        "curve": curve,
        "P": P,
        "path": path,
        "x": np.zeros((2, *tiny_model.input_shape), np.float32),
        "match": mcjax.Match(P, 0.0, {}),
        "fit": curves.CurveFit(curve.zero(a), P, path, {}),
        "metrics": mcjax.PathMetrics(np.linspace(0, 1, 3), {"train_loss": zeros}, zeros),
        "loss": hessian.full_batch_loss(tiny_task),
        "group": spec.groups[0],
    }
    return type("Things", (), given)


SHORT = TrainConfig(epochs=1, batch_size=20)
CALLS = [
    # A kind of object in the place of another, such as arguments in another order.
    (lambda o: mcjax.fit_curve(o.key, o.task, "bezier", o.a, o.b), "got str for curve", "mcjax.bezier(spec)"),
    (lambda o: mcjax.fit_curve(o.key, o.task, bezier, o.a, o.b), "got function for curve", "mcjax.bezier(spec)"),
    (lambda o: mcjax.fit_curve(o.key, o.task, o.a, o.b, o.curve), "got dict for curve"),
    (
        lambda o: mcjax.fit_curve(o.key, o.model, o.curve, o.a, o.b),
        "got Model for task",
        "mcjax.supervised(model, data)",
    ),
    (lambda o: mcjax.fit_pam(o.task, o.key, o.curve, o.a, o.b), "got Task for a key", "jax.random.key(seed)"),
    (lambda o: mcjax.fit_curve(o.key, o.task, o.curve, o.a, o.b, o.P, o.key), "PRNGKeyArray for config", "FitConfig"),
    (
        lambda o: mcjax.fit_pam(o.key, o.task, o.curve, o.a, o.b, o.P, FitConfig()),
        "FitConfig for config",
        "PamConfig(curve=config)",
    ),
    (lambda o: mcjax.train_endpoints(o.key, o.task, TrainConfig), "the class TrainConfig for config"),
    (lambda o: bezier(o.model), "got Model for spec", "model.spec"),
    (lambda o: mcjax.linear(None), "got NoneType for spec"),
    (lambda o: matching.straight_through_fit(o.task, o.model, 1, 1), "got Model for spec"),
    (lambda o: mcjax.match_weights(o.spec, o.key, o.a, o.b), "PRNGKeyArray for spec"),
    (lambda o: mcjax.identity_permutation(o.a, o.spec), "got dict for spec"),
    (lambda o: mcjax.permute(o.P, o.spec, o.a), "got dict for spec"),
    (lambda o: matching.match_to_reference(o.a, o.b, o.thetas), "for match", "match(theta_1, theta_2) -> Match"),
    (lambda o: mcjax.check_invariance(o.a, o.model, o.x, o.key), "got dict for model", "spec, apply, activations"),
    (lambda o: landscape.repaired_layers(o.task), "got Task for model", "models.create(name)"),
    (lambda o: constructions.chain_of(o.a), "got dict for model"),
    (lambda o: constructions.drop_units(o.key, o.a, o.model, 0.5), "got dict for model"),
    (lambda o: permutation_points.similar_pairs(o.a, o.model, o.group), "got dict for model"),
    (lambda o: constructions.fit_units(o.key, o.task, 1), "got Task for problem", "sparse_problem(task, kappa)"),
    (lambda o: strings.relax_string(o.task, o.thetas), "got dict for string", "sample_string"),
    (lambda o: mcjax.barrier(o.fit), "got CurveFit for metrics", "evaluate_path(task, path)"),
    (lambda o: landscape.path_spectrum("test_loss", o.metrics), "got str for metrics"),
    (lambda o: mcjax.barrier(o.metrics, ["train_loss"]), "unknown metric", "train_loss"),
    (lambda o: training.train_endpoints(o.key, TaskClass), "the class Task for task"),
    # Paths and points of them.
    (lambda o: mcjax.evaluate_path(o.task, o.fit), "got CurveFit for path", ".path"),
    (lambda o: mcjax.evaluate_path(o.task, o.a), "got dict for path", "t -> theta"),
    (lambda o: mcjax.evaluate_path(o.task, o.curve), "got Curve for path", ".bind(theta_1, theta_2, theta_c, P)"),
    (lambda o: landscape.normalized_length(o.curve), "got Curve for path"),
    (lambda o: landscape.correlation_signature(o.task, o.fit), "got CurveFit for path"),
    (lambda o: landscape.arc_length(lambda: o.a), "for path", "path(t) -> theta"),
    *(
        (lambda o, ts=ts: landscape.arc_length(o.path, ts), f"ts={shown}", "whole number")
        for ts, shown in (
            (-1, "-1"),
            (0, "0"),
            (3.0, "3.0"),
            ("x", "'x'"),
            (None, "None"),
            ([0.5, np.nan], "[0.5, nan]"),
        )
    ),
    (lambda o: landscape.arc_length(o.path, o.key), "ts=key<fry>[]"),
    *((lambda o, t=t: o.path(t), "got t=", "[0, 1]") for t in ("x", None, 1.5, {})),
    # Settings.
    *((lambda o, degree=degree: bezier(o.spec, degree), "got degree=", "whole") for degree in (2.5, "2", True, 0)),
    (lambda o: mcjax.polygonal_chain(o.spec, "2"), "got bends='2'"),
    (lambda o: curves.PermutationFitConfig(regularized="no"), "got regularized='no'", "True or False"),
    (lambda o: matching.StraightThroughConfig(random_t=0), "got random_t=0", "True or False"),
    (lambda o: mcjax.data.PgdAttack(random_start="no"), "got random_start='no'", "True or False"),
    (lambda o: mcjax.Augmentation(flip=1, crop=2), "got flip=1", "True or False"),
    (lambda o: permutation_points.PermutationConfig(require_convergence=None), "require_convergence=None"),
    (lambda o: mcjax.SGD("0.1"), "got learning_rate='0.1'", "a number"),
    (lambda o: mcjax.SGD(momentum=None), "got momentum=None", "a number"),
    (lambda o: mcjax.SGD(clip="x"), "got clip='x'", "a number or None"),
    (lambda o: strings.StringConfig(alpha="x"), "got alpha='x'"),
    (lambda o: FitConfig(epochs="3"), "got epochs='3'", "a whole number"),
    (lambda o: FitConfig(compute_dtype=None), "unknown compute_dtype", "bfloat16"),
    (lambda o: PamConfig(curve=TrainConfig()), "got curve=", "FitConfig"),
    (lambda o: TrainConfig.preset("paper", epoch=3), "unknown field", "'epoch'", "'epochs'"),
    (lambda o: mcjax.train_endpoints(o.key, o.task, SHORT, recorder="x"), "got str for recorder", "Recorder()"),
    (lambda o: training.spawn(o.key, o.task, (0,), SHORT, recorder="x"), "got str for recorder"),
    (lambda o: Recorder("title", "path"), "got run='path'", "RunFolder"),
    (lambda o: Recorder(progress=1), "got progress=1", "True or False or Progress"),
    (lambda o: mcjax.supervised(o.model, o.data, attack=0.1), "got float for attack", "PgdAttack(steps=5)"),
    (lambda o: mcjax.supervised(o.model, o.data, attack=mcjax.data.PgdAttack), "the class PgdAttack"),
    (lambda o: mcjax.supervised(o.model, o.data, augmentation=5), "got int for augmentation", "Augmentation"),
    (lambda o: models.create("mlp", "3", (8, 8, 1)), "num_classes='3'"),
    (lambda o: models.create("mlp", (8, 8, 1), 3), "num_classes=(8, 8, 1)"),
    (lambda o: models.create("mlp", 3, 8), "input_shape=8", "(32, 32, 3)"),
    (lambda o: models.create("mlp", 3, (8, 8, 1), width=(8,)), "width=(8,)", "widths"),
    (lambda o: mcjax.merge(o.key, o.spec, o.thetas, max_rounds=0), "max_rounds=0"),
    (lambda o: mcjax.evaluate_path(o.task, o.path, 3, reestimate="no"), "got reestimate='no'", "True or False"),
    (lambda o: landscape.plane_axes(o.a, o.b, o.P), "v_point", "origin", "params/Dense_0/bias"),
    # Functions of another signature.
    (lambda o: mcjax.supervised(o.model, o.data, loss=lambda outputs: 0), "(outputs)", "loss(outputs, labels)"),
    (lambda o: Task(lambda theta, batch: 0, o.x), "(theta, batch)", "loss(theta, batch, key)"),
    (lambda o: Task(lambda theta, batch, key: 0, o.x, init=lambda: 0), "init(key)"),
    (lambda o: Task(lambda theta, batch, key: 0, o.x, augment=lambda batch: 0), "(batch)", "augment(key, batch)"),
    (lambda o: Task(lambda theta, batch, key: 0, o.x, metrics=lambda theta: 0), "(theta)", "metrics(theta, batch)"),
    (lambda o: mcjax.evaluate_path(o.task, o.path, 3, metric=lambda theta: 0), "(theta)", "metric(theta, batch)"),
    (lambda o: training.Criterion(lambda theta: 0), "(theta)", "metric(theta, batch)"),
    (lambda o: models.from_function(o.model.apply, o.model.init, o.x), "apply(theta, x)", "init(key)"),
    (lambda o: mcjax.infer_spec(lambda theta: 0, o.a, o.x), "(theta)", "fn(theta, x)"),
    (lambda o: hessian.classify_point(lambda: 0, o.a), "loss(theta)"),
    (lambda o: symmetry.infer_activations(o.spec, o.model.apply), "for fn", "fn(theta, x)"),
    (lambda o: symmetry.infer_activations(o.model.apply, o.a), "got dict for spec"),
    (lambda o: hessian.curvature_operator(o.task, o.a), "for loss", "full_batch_loss(task)"),
    # Matrices, groups and names.
    (lambda o: mcjax.nearest_permutation(o.P), "got dict", "square matrices", "one for each group"),
    (lambda o: symmetry.project_birkhoff("x"), "got str", "square matrices"),
    (lambda o: symmetry.sinkhorn(np.ones((2, 3))), "(2, 3)", "square matrices"),
    (lambda o: permutation_points.similar_pairs(o.task, o.a, o.group), "got Task for model"),
    (lambda o: permutation_points.similar_pairs(o.model, o.a, [o.group]), "got list for group", "dense_0"),
    (lambda o: permutation_points.count(1, 3), "widths=3"),
    (lambda o: models.create(o.model), "unknown model", "'Model'"),
    (lambda o: models.create(["mlp"]), "unknown model", "'list'"),
    (lambda o: models.from_function(o.model.init, o.model.apply, {"x": o.x}), "got dict as example_input"),
    (lambda o: mcjax.make_mesh("2"), "got pair='2'", "whole number"),
    (lambda o: mcjax.make_mesh(1, 0), "got data=0", "whole number"),
    (lambda o: trees.stack(o.a), "got dict", "a list of networks"),
    (lambda o: o.path(jnp.array([0.0, 1.0])), "shape (2,)", "jax.vmap(path)"),
    # Keys.
    *(
        (lambda o, f=f: f(o), "an array of uint32 for a key", "jax.random.key(seed)")
        for f in (
            lambda o: mcjax.random_permutation(o.raw, o.spec, o.a),
            lambda o: mcjax.check_invariance(o.model, o.a, o.x, o.raw),
            lambda o: mcjax.match_weights(o.raw, o.spec, o.a, o.b),
            lambda o: mcjax.train_endpoints(o.raw, o.task),
            lambda o: strings.train_string(o.raw, o.task, 1.0),
            lambda o: constructions.dropout_stability(o.raw, o.task, o.a),
            lambda o: constructions.drop_units(o.raw, o.model, o.a, 0.5),
            lambda o: hessian.hessian_trace(o.raw, o.loss, o.a),
            lambda o: landscape.noise_stability(o.raw, o.task, o.a),
        )
    ),
    (lambda o: mcjax.train_endpoints(o.keys, o.task), "keys of shape (2, 2)", "one axis"),
    (lambda o: mcjax.fit_curve(o.keys, o.task, o.curve, o.a, o.b), "keys of shape (2, 2)", "one key"),
    # Several networks that are not stacked, and trees of other networks.
    (lambda o: trees.mean([o.a, o.b]), "leading lengths", "trees.stack("),
    (lambda o: trees.unstack(o.a), "leading lengths", "trees.stack("),
    (lambda o: mcjax.merge(o.key, o.spec, [o.a, o.b]), "leading lengths", "trees.stack("),
    (lambda o: trees.interpolate(o.a, o.P, 0.5), "params/Dense_0/bias", "nothing"),
    (lambda o: trees.dot(o.a, o.thetas), "params/Dense_0/bias", "the second tree"),
    (lambda o: trees.stack([o.a, {"params": {}}]), "params/Dense_0/bias"),
    (lambda o: o.curve(o.a, {"params": {}}, None, None, 0.5), "params/Dense_0/bias"),
    (lambda o: trees.subtract(o.a, {**o.a, "more": jnp.ones(2)}), "at more", "(2,)"),
    (lambda o: o.curve.bind(o.a, o.b, o.P)(0.5), "theta_c", "This is a P"),
    (lambda o: curves.exchanges(o.task, o.curve, o.a, o.b, o.P), "theta_c", "This is a P"),
    (lambda o: curves.exchanges(o.task, o.curve, o.a, o.b, 0.5), "theta_c", "curve.zero(theta)"),
    (lambda o: trees.floating({"w": "x"}), "'x'", "arrays"),
    (lambda o: hessian.curvature_operator(o.loss, o.model), "arrays"),
    (lambda o: o.loss(o.thetas), "several networks", "jax.vmap"),
]
CALLS_OF_SPECS = [
    (lambda o: mcjax.permute(o.spec, o.match, o.a), "got Match for P", "its .P"),
    (lambda o: mcjax.permute(o.spec, o.a, o.a), "for P"),
    (lambda o: mcjax.invert(o.match), "got Match for P", "its .P"),
    (lambda o: mcjax.compose(o.P, o.P[o.group]), "for P"),
    (lambda o: o.curve.bind(o.a, o.b, None, o.fit)(0.5), "got CurveFit for P", "its .P"),
    (lambda o: mcjax.fit_curve(o.key, o.task, o.curve, o.a, o.b, o.match), "got Match for P"),
    (lambda o: mcjax.fit_curve(o.key, o.task, o.curve, o.a, o.b, o.raw), "ArrayImpl for P"),
    (lambda o: mcjax.permute(o.spec, {g: jnp.ones((len(p),) * 2) for g, p in o.P.items()}, o.a), "doubly stochastic"),
    (lambda o: mcjax.evaluate(o.task, [o.a, o.b]), "got list for theta", "trees.stack("),
    (lambda o: mcjax.ensemble_accuracy(o.task, (o.a, o.b)), "got tuple for theta", "trees.stack("),
    (lambda o: mcjax.repair(o.task, o.a, [o.a, o.b]), "got list for theta", "trees.stack("),
    (lambda o: mcjax.evaluate(o.task, training.Endpoints(o.a, {})), "got Endpoints for theta", "its .theta"),
    (lambda o: mcjax.evaluate(o.task, o.fit), "got CurveFit for theta", "its .path"),
    (lambda o: mcjax.evaluate(o.task, nnx.Linear(2, 3, rngs=nnx.Rngs(0))), "got Linear for theta", "nnx.to_pure_dict"),
    (lambda o: mcjax.evaluate(o.task, None), "got NoneType for theta", "model.init(key)"),
    (lambda o: mcjax.evaluate(o.task, o.model), "got Model for theta"),
]


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (error, call, words)
        for error, calls in ((InputError, CALLS), (SpecError, CALLS_OF_SPECS))
        for call, *words in calls
    ],
)
def test_wrong_arguments_are_refused(things, error, call, words):
    with says(error, *words):
        call(things)


def test_whole_numbers_of_numpy_are_whole_numbers(things):
    for three in (np.int64(3), np.uint8(3), np.array([0, 0.5, 1]), [0, 0.5, 1]):
        np.testing.assert_array_equal(landscape.arc_length(things.path, three), landscape.arc_length(things.path, 3))
    assert bezier(things.spec, np.int64(2)) == things.curve
    assert FitConfig(epochs=np.int32(3), weight_decay=np.float32(0)) == FitConfig(epochs=3, weight_decay=0)
    curves.curve_fit(things.task, things.curve, optax.sgd(0.1), points_per_step=np.int64(1))


def test_networks_that_are_lists_are_networks():
    def init(key):
        return [jax.random.normal(key, (3, 4)), jnp.ones((4, 2))]

    model = models.from_function(init, lambda theta, x: x @ theta[0] @ theta[1], np.ones((2, 3)))
    theta = model.init(jax.random.key(0))
    assert not models.base.has_leading_axis(theta, model)
    assert models.base.has_leading_axis(trees.stack([theta, theta]), model)
    assert symmetry.identity_permutation(model.spec, theta)["0"].shape == (4,)
