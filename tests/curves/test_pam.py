"""PAM: Theorem 3.1 on its iterates, what it accepts, planted permutations, pairs, resuming, bad input."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says
from streams import rows_of
from variables import drawn, spaced

from mcjax import (
    SGD,
    FitConfig,
    InputError,
    PamConfig,
    PermutationSpec,
    Recorder,
    RunError,
    SpecError,
    Task,
    TrainConfig,
    bezier,
    data,
    fit_curve,
    fit_pam,
    linear,
    match_activations,
    models,
    permute,
    polygonal_chain,
    random_permutation,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.curves import pam_half_steps
from mcjax.curves.config import PermutationFitConfig
from mcjax.curves.pam_problem import as_single_candidate
from mcjax.curves.pam_step import OnPermutedCurve
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recording
from mcjax.training.config import make_optimizer
from mcjax.training.fit import parts_of
from mcjax.training.loop import EpochPlan

CURVE = FitConfig(epochs=3, batch_size=20, weight_decay=1e-3)
PERMUTATION = PermutationFitConfig(epochs=4, samples=4)
CONFIG = PamConfig(CURVE, PERMUTATION, iterations=3, objective_points=5, nu_P=1000.0, nu_phi=200.0)
# One iteration, and one program for each of its half-steps.
SHORT = replace(CONFIG, iterations=1, acceptance="descent")


@pytest.fixture(scope="module")
def curve(tiny_model):
    return bezier(tiny_model.spec)


@pytest.fixture(scope="module")
def matched(ends, tiny_task):
    return match_activations(tiny_task, *ends).P


@pytest.fixture(scope="module")
def start(matched):
    """The first pair unaligned, the second aligned."""
    return {group: np.stack([np.arange(p.shape[1]), p[1]]) for group, p in matched.items()}


@pytest.fixture(scope="module")
def learned(ends, curve, start, tiny_task):
    return fit_pam(jax.random.key(0), tiny_task, curve, *ends, start, CONFIG)


def objective(model, tiny_data, path, weight_decay=1e-3, points=5, images=120):
    """Q + R in the plainest way: no batches, no augmentation (there is none for grey images)."""
    x = data.normalize(spaced(tiny_data.train_images, images), tiny_data.mean, tiny_data.std)
    labels, values = np.asarray(spaced(tiny_data.train_labels, images)), []
    for j in range(points):
        theta = path((j + 0.5) / points)
        logits = np.asarray(model.apply(theta, x), np.float64)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        norm = sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(theta["params"]))
        values.append(-logits[np.arange(len(labels)), labels].mean() + weight_decay / 2 * norm)
    return np.mean(values)


def check(model, tiny_data, ends, start, fit):
    """Assert what every fit of two pairs by CONFIG satisfies."""
    assert fit.objective.shape == (2, 7)
    assert fit.proposed.shape == fit.distance.shape == fit.accepted.shape == fit.moved.shape == (2, 6)
    assert fit.relaxed.shape == fit.rounded.shape == (2, 3)
    assert fit.slopes is None
    assert fit.history["loss"].shape == (2, 3 * (4 + 3))
    proximal = fit.distance**2 / (2 * np.tile([CONFIG.nu_P, CONFIG.nu_phi], 3))
    paid = np.where(fit.accepted, proximal, 0).reshape(2, 3, 2).sum(2)
    assert (fit.objective[:, 2::2] + paid <= fit.objective[:, :-2:2] + 1e-12).all()
    assert (np.diff(fit.objective, axis=1) <= 0).all()
    assert fit.objective[:, -1].sum() < 0.9 * fit.objective[:, 0].sum()
    for i in range(2):
        theta_1, theta_2, first, last = trees.index((*ends, start, fit.P), i)
        # What is reported is Q + R of the curve that is returned, and of the line that it began with.
        line = linear(model.spec).bind(theta_1, theta_2, None, first)
        paths = (line, lambda t, i=i: trees.index(fit.path(t), i))
        expected = [objective(model, tiny_data, path) for path in paths]
        np.testing.assert_allclose(fit.objective[i, [0, -1]], expected, rtol=1e-4)
        chex.assert_trees_all_equal(paths[1](0.0), theta_1)
        chex.assert_trees_all_equal(paths[1](1.0), permute(model.spec, last, theta_2))


def test_part_1_of_theorem_3_1(ends, start, learned, tiny_data, tiny_model):
    check(tiny_model, tiny_data, ends, start, learned)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "huberized_relu(0.05)"])
def test_the_theorem_holds_for_other_activations(activation, key, tiny_data):
    model = models.create("mlp", 3, (8, 8, 1), widths=(6, 5), activation=activation)
    task, training = supervised(model, tiny_data), TrainConfig(epochs=15, batch_size=20)
    theta = train_endpoints(jax.random.split(jax.random.key(1), 4), task, training).theta
    ends = tuple(trees.index(theta, slice(i, i + 2)) for i in (0, 2))
    start = match_activations(task, *ends).P
    fit = fit_pam(key, task, bezier(model.spec), *ends, start, CONFIG)
    check(model, tiny_data, ends, start, fit)


def matrix(p):
    return np.eye(len(p))[np.asarray(p)]


@pytest.mark.parametrize(
    ("make", "count"), [(bezier, 3), pytest.param(polygonal_chain, 1, marks=pytest.mark.slow)], ids=["bezier", "chain"]
)
def test_one_pair_and_the_proximal_terms_of_equation_6(make, count, tiny_ends, key, tiny_data, tiny_model, tiny_task):
    config, curve = replace(SHORT, objective_examples=100), make(tiny_model.spec, count)
    # A key for which both half-steps are accepted.
    fit = fit_pam(jax.random.fold_in(key, 1), tiny_task, curve, *tiny_ends, None, config)
    assert fit.objective.shape == (3,)
    assert fit.accepted.all()
    assert fit.moved[0] > 0
    distance = sum(np.square(matrix(p) - np.eye(len(p))).sum() for p in fit.P.values())
    np.testing.assert_allclose(fit.distance[0], np.sqrt(distance), rtol=1e-6)
    np.testing.assert_allclose(fit.distance[1], trees.norm(fit.theta_c), rtol=1e-5)
    assert fit.moved[0] == sum((np.asarray(p) != np.arange(len(p))).sum() for p in fit.P.values())
    # On as many images as the config says.
    np.testing.assert_allclose(fit.objective[-1], objective(tiny_model, tiny_data, fit.path, images=100), rtol=1e-4)
    assert fit.objective[-1] != pytest.approx(objective(tiny_model, tiny_data, fit.path), rel=1e-3)


@pytest.fixture(scope="module")
def planted_pairs():
    """Three networks, their copies in random orders, the orders that undo these, and how active units are.

    A task, networks, copies, {group: (3, n)} and {group: (3, n)}: root mean squares, as shares of the group's largest.
    Units that are dead, or nearly so, cannot be told apart by the loss.
    """
    key = jax.random.key(0)
    digits = data.load("digits")
    model = models.create("mlp", 10, digits.image_shape, widths=(16, 16))
    task = supervised(model, digits)
    theta = train_endpoints(jax.random.split(key, 3), task, TrainConfig(epochs=30)).theta
    orders = [random_permutation(jax.random.fold_in(key, i), model.spec, trees.index(theta, i)) for i in range(3)]
    copies = trees.stack([permute(model.spec, P, trees.index(theta, i)) for i, P in enumerate(orders)])
    truth = {g: np.stack([np.argsort(P[g]) for P in orders]) for g in orders[0]}
    x = data.normalize(digits.train_images, digits.mean, digits.std)
    activations = [model.activations(trees.index(theta, i), x) for i in range(3)]
    sizes = {g: np.stack([np.sqrt(np.square(np.asarray(h[g][0])).mean(0)) for h in activations]) for g in truth}
    shares = {g: size / size.max(1, keepdims=True) for g, size in sizes.items()}
    assert (sum((share > 0.1).sum(1) for share in shares.values()) >= 24).all()
    return task, theta, copies, truth, shares


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "wrong", "share"),
    [
        ({}, 6, 0.35),
        ({"samples": 0, "epochs": 30}, 6, 0.35),
        ({"acceptance": "descent"}, 6, 0.35),
        # Entropic steps are so large that rounding decides where they end: at 0.09 to 0.41 of the start on nine pairs.
        ({"projection": "sinkhorn"}, 26, 0.5),
    ],
)
def test_a_planted_permutation_is_learned_from_the_identity(how, wrong, share, planted_pairs, key):
    how = dict(how)
    acceptance = how.pop("acceptance", "lookahead")
    config = PamConfig(FitConfig(epochs=2), PermutationFitConfig(**how), iterations=1, acceptance=acceptance)
    task, theta, other, truth, shares = planted_pairs
    fit = fit_pam(key, task, bezier(task.model.spec), theta, other, None, config)
    assert (sum(((shares[g] > 0.1) & (np.asarray(fit.P[g]) != p)).sum(1) for g, p in truth.items()) <= wrong).all()
    assert (fit.objective[:, 1] < share * fit.objective[:, 0]).all()


@pytest.mark.slow
def test_a_start_with_two_units_exchanged_is_mended_and_not_left(planted_pairs, key):
    task, theta, other, truth, shares = planted_pairs
    start = {g: p.copy() for g, p in truth.items()}
    strongest = np.argsort(shares["dense_0"])[:, -2:]
    for p, units in zip(start["dense_0"], strongest, strict=True):
        p[units] = p[units[::-1]]
    config = PamConfig(FitConfig(epochs=1), iterations=1, acceptance="descent")
    fit = fit_pam(key, task, bezier(task.model.spec), theta, other, start, config)
    assert fit.accepted[:, 0].all()
    for g, p in truth.items():
        strong = shares[g] > 0.3
        np.testing.assert_array_equal(np.asarray(fit.P[g])[strong], p[strong])


def test_a_bad_permutation_is_refused_and_costs_nothing(
    ends, curve, matched, key, tiny_data, tiny_model, tiny_task, monkeypatch
):
    # What rounding would return if it went wrong: all units change places in one cycle, of which there are no parts.
    wrong = {group: np.roll(p, 1, axis=-1) for group, p in matched.items()}
    both_rates = as_single_candidate({group: np.concatenate([p, p]) for group, p in wrong.items()})
    monkeypatch.setattr(pam_half_steps, "candidate_permutations", lambda *_: both_rates)
    config = replace(CONFIG, permutation=replace(PERMUTATION, partial_moves=False))
    fit = fit_pam(key, tiny_task, curve, *ends, matched, config)
    assert not fit.accepted[:, ::2].any()
    for i in range(2):
        path = linear(tiny_model.spec).bind(*trees.index(ends, i), None, trees.index(wrong, i))
        np.testing.assert_allclose(fit.proposed[i, 0], objective(tiny_model, tiny_data, path), rtol=1e-4)
    np.testing.assert_allclose(fit.distance[:, ::2], np.sqrt(2 * 11))
    chex.assert_trees_all_equal(fit.P, matched)
    np.testing.assert_array_equal(fit.objective[:, 1::2], fit.objective[:, :-1:2])


def test_half_steps_train_curves_as_one_fit_and_matrices_at_annealed_rates(
    ends, curve, start, key, tiny_task, monkeypatch
):
    """Without moves the curve's half-steps are those of one fit, and the matrices' are annealed."""
    real, seen = pam_half_steps.run_epochs, []

    def spied(fit, task, plan, states, keys, epochs, *args, **more):
        after, history = real(fit, task, plan, states, keys, epochs, *args, **more)
        assert plan == EpochPlan(20, 6)
        seen.append((parts_of(fit)[0], states, keys, epochs, after))
        return after, history

    monkeypatch.setattr(pam_half_steps, "run_epochs", spied)
    permutation = replace(PERMUTATION, learning_rate=1e-9, annealing=0.25, schedule="halving", decay=0.9)
    fit = fit_pam(key, tiny_task, curve, *ends, start, replace(CONFIG, permutation=permutation))
    assert (fit.moved == 0).all()
    assert [isinstance(descent.embed, OnPermutedCurve) for descent, *_ in seen] == 3 * [True, False]
    keys = np.concatenate([np.asarray(jax.random.key_data(keys)) for _, _, keys, *_ in seen])
    assert len(np.unique(keys, axis=0)) == len(keys) == 12
    for k, (descent, states, _, epochs, _) in enumerate(seen[::2]):
        for rate in states.fixed.rate.values():
            np.testing.assert_allclose(rate, np.full(2, 1e-9 * (0.25 * 0.9**4) ** k), rtol=1e-6)
        # The schedule is that of the half-step, 4 epochs of 6 steps.
        assert (descent.penalty.nu, epochs, descent.retract.projection) == (1000.0, 4, "alternating")
        assert descent.optimizer is make_optimizer(SGD(1.0, "halving", momentum=0.0, decay=0.9), 4, 6)
        assert descent.weight_decay == 1e-3
    # The schedule runs over the iterations as it does over as many epochs at once.
    went = None
    for k, (descent, states, _, epochs, after) in enumerate(seen[1::2]):
        assert descent.optimizer is make_optimizer(CURVE.optimizer, 9, 6)
        assert (descent.penalty.nu, descent.weight_decay, epochs) == (200.0, 1e-3, 3)
        chex.assert_trees_all_equal(states.fixed.anchor, states.variables)
        assert np.asarray(jax.tree.leaves(states.optimizer)[-1]).tolist() == [18 * k] * 2  # 3 epochs of 6 steps each
        for i in np.flatnonzero(fit.accepted[:, 2 * k - 1]) if k else ():
            begun, ended = ((each.variables, each.optimizer) for each in (states, went))
            chex.assert_trees_all_equal(trees.index(begun, int(i)), trees.index(ended, int(i)))
        went = after
    assert fit.accepted[:, 1].all()


def test_the_same_key_gives_the_same_bits_also_after_an_interruption(
    ends, curve, start, learned, key, tiny_task, tmp_path, monkeypatch
):
    def fit(folder):
        recorder = Recorder("pam", RunFolder(folder, {}), "pam", progress=False)
        return fit_pam(key, tiny_task, curve, *ends, start, CONFIG, recorder=recorder)

    whole = fit(tmp_path / "whole")
    epochs, add = [], Recording.add

    def broken(self, *args):
        if len(epochs) == 12:  # in the curve's half-step of the second iteration
            raise KeyboardInterrupt
        epochs.append(self.recorder.stage)
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "add", broken)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken")
    assert epochs[-1] == "pam_1_curve"
    resumed = fit(tmp_path / "broken")
    for name in set(learned._fields) - {"path"}:
        for again in (whole, resumed):
            chex.assert_trees_all_equal(getattr(learned, name), getattr(again, name))
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


def check_batch_norm(key, task):
    theta_1, theta_2 = (jax.tree.map(np.float32, drawn(task.model, seed)) for seed in (0, 1))
    settings = replace(CURVE, batch_size=40, epochs=2), replace(PERMUTATION, epochs=2)
    config = replace(SHORT, curve=settings[0], permutation=settings[1])
    fit = fit_pam(key, task, bezier(task.spec), theta_1, theta_2, None, config)
    assert np.isfinite(fit.objective).all()
    assert (np.diff(fit.objective) <= 0).all()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(fit.theta_c["batch_stats"]))
    return fit


def test_batch_norm_networks(key, normed_task):
    check_batch_norm(key, normed_task)


@pytest.mark.slow
def test_convolutions_with_batch_norm_and_a_group_of_one_unit(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.0625)
    fit = check_batch_norm(key, supervised(model, tiny_colour_data))
    assert [len(p) for p in fit.P.values()] == [1, 2, 4, 4]


def test_a_task_of_a_loss_alone(key):
    """Teachers of one function, two of whose units are exchanged: PAM finds them, and the line has no barrier."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(60, 3)))
    one = {"made": np.float32(rng.normal(size=(3, 4))), "read": np.float32(rng.normal(size=(4, 2)))}
    order = np.int32([2, 1, 0, 3])
    two = {"made": one["made"][:, order], "read": one["read"][order]}
    y = np.tanh(x @ one["made"]) @ one["read"]

    def loss(theta, batch, key):
        # Not the squares: a loss that no model of mcjax has.
        return jnp.abs(jnp.tanh(batch[0] @ theta["made"]) @ theta["read"] - batch[1]).mean()

    curve = bezier(PermutationSpec({"made": (None, "units"), "read": ("units", None)}))
    settings = FitConfig(5, 20, optax.adam(1e-3), weight_decay=0.0), PermutationFitConfig(epochs=30)
    fit = fit_pam(key, Task(loss, (x, y)), curve, one, two, None, PamConfig(*settings, iterations=1))
    np.testing.assert_array_equal(fit.P["units"], np.argsort(order))
    assert fit.history.keys() == {"loss"}
    assert fit.history["loss"].shape == (35,)
    assert fit.objective[1] < 1e-6 < fit.objective[0]


def test_every_program_is_compiled_once(ends, curve, start, tiny_task, compiled):
    config = replace(CONFIG, acceptance="descent")
    fit_pam(jax.random.key(0), tiny_task, curve, *ends, start, config)
    compiled.clear()
    fit_pam(jax.random.key(9), tiny_task, curve, *ends, start, replace(CONFIG, acceptance="descent"))
    assert not compiled


def test_bad_input_is_named(ends, tiny_ends, curve, key, tiny_task, tiny_model):
    theta_1, theta_2 = tiny_ends
    P = random_permutation(key, tiny_model.spec, theta_1)
    soft = {"dense_0": jnp.full((6, 6), 1 / 6), "dense_1": jnp.eye(5)}
    none = tiny_model.spec.without("dense_0", "dense_1")
    given = {"task": tiny_task, "curve": curve, "a": theta_1, "b": theta_2, "P": None, "config": SHORT}
    for changes, error, *named in (
        ({"b": theta_1}, InputError, "the same network"),
        ({"a": permute(tiny_model.spec, P, theta_2), "P": P}, InputError, "the same network"),
        ({"curve": linear(tiny_model.spec)}, InputError, "no control points"),
        ({"P": {**P, "dense_1": jnp.array([0, 1, 1, 3, 4])}}, SpecError, "dense_1", "0..4", "[1]"),
        ({"P": soft}, SpecError, "dense_0, dense_1", "hard P"),
        ({"curve": bezier(none)}, InputError, "mlp", "fit_curve"),
        ({"task": tiny_model}, InputError, "Model", "mcjax.supervised(model, data)"),
        ({"config": CURVE}, InputError, "FitConfig", "PamConfig"),
        ({"config": replace(SHORT, curve=FitConfig(batch_size=121))}, InputError, "batch_size=121", "120"),
    ):
        with says(error, *named):
            fit_pam(key, *(given | changes).values())
    broken = jax.tree.map(lambda leaf: leaf * np.float32(1e25), ends[0])
    with says(RunError, "not finite", "number 0, 1 of 2"):
        fit_pam(key, tiny_task, curve, broken, ends[1], None, CONFIG)
    with says(SpecError, "dense_0", "by 1"):
        fit_curve(key, tiny_task, curve, *tiny_ends, {**soft, "dense_0": 2 * jnp.eye(6)})


@pytest.mark.parametrize("steps", [None, pytest.param(2, marks=pytest.mark.slow)], ids=["passes", "steps"])
def test_half_steps_on_a_stream_go_on_where_the_one_before_ended(tiny_ends, curve, key, tiny_task, steps):
    """The objective is that on the first examples, in the order of the stream."""

    def batches(number):
        order = np.roll(np.arange(120), 7 * number).reshape(6, 20)
        return [(*rows_of(tiny_task.train, rows), np.full(20, 6 * number + i)) for i, rows in enumerate(order)]

    def loss(theta, batch, key):
        value, metrics, stats = tiny_task.loss(theta, batch[:2], key)
        return value, {**metrics, "place": batch[2].mean(dtype=jnp.float32)}, stats

    images, labels = tiny_task.train
    arrays = Task(loss, (images, labels, np.zeros(120, int)), model=tiny_task.model)
    settings = replace(CURVE, epochs=1, steps_per_epoch=steps)
    config = PamConfig(settings, replace(PERMUTATION, epochs=2), 2, acceptance="descent", objective_examples=40)
    fit = fit_pam(key, arrays.with_examples(train=batches), curve, *tiny_ends, None, config)
    # Six epochs: of a pass each, or of two batches that are the next ones.
    expected = 6 * np.arange(6) + 2.5 if steps is None else 2 * np.arange(6) + 0.5
    np.testing.assert_allclose(fit.history["place"], expected)
    first = arrays.with_examples(train=rows_of(arrays.train, slice(40)))
    on_arrays = fit_pam(key, first, curve, *tiny_ends, None, config)
    np.testing.assert_allclose(fit.objective[0], on_arrays.objective[0], rtol=1e-6)
