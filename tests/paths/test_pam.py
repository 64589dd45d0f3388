"""PAM: Theorem 3.1 on its iterates, what it accepts, planted permutations, pairs, resuming, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import (
    InputError,
    PamConfig,
    Recorder,
    RunError,
    SpecError,
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
    train_endpoints,
    trees,
)
from mcjax.paths import half_steps
from mcjax.paths.fit import CurveStep
from mcjax.report import RunFolder
from mcjax.training.recorder import Recording

CONFIG = PamConfig(
    epochs=3,
    iterations=3,
    permutation_epochs=4,
    batch_size=20,
    weight_decay=1e-3,
    samples=4,
    objective_points=5,
    nu_P=50.0,
    nu_phi=200.0,
)


def changed(**changes):
    return PamConfig(**{**vars(CONFIG), **changes})


def trained(model, tiny_data, count=2):
    keys = jax.random.split(jax.random.key(1), count)
    theta = train_endpoints(keys, model, tiny_data, TrainConfig(epochs=15, batch_size=20)).theta
    return tuple(trees.index(theta, slice(i, None, 2)) for i in range(2))


@pytest.fixture(scope="module")
def ends(tiny_data, tiny_model):
    return trained(tiny_model, tiny_data, 4)


def one(tree):
    return trees.index(tree, 0)


def objective(model, tiny_data, path, weight_decay=1e-3, points=5):
    """Q + R in the plainest way: no batches, no augmentation (there is none for grey images)."""
    x = data.normalize(tiny_data.train_images, tiny_data.mean, tiny_data.std)
    labels, values = np.asarray(tiny_data.train_labels), []
    for j in range(points):
        theta = path((j + 0.5) / points)
        logits = np.asarray(model.apply(theta, x), np.float64)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        norm = sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(theta["params"]))
        values.append(-logits[np.arange(len(labels)), labels].mean() + weight_decay / 2 * norm)
    return np.mean(values)


def matrix(p):
    return np.eye(len(p))[np.asarray(p)]


@pytest.mark.parametrize("activation", ["tanh", "huberized_relu(0.05)", "relu"])
@pytest.mark.parametrize("start", ["identity", "aligned"])
def test_part_1_of_theorem_3_1(activation, start, key, tiny_data):
    model = models.create("mlp", 3, (8, 8, 1), widths=(6, 5), activation=activation)
    theta_1, theta_2 = map(one, trained(model, tiny_data))
    P = match_activations(model, theta_1, theta_2, tiny_data).P if start == "aligned" else None
    fit = fit_pam(key, model, bezier(model.spec), theta_1, theta_2, tiny_data, P, CONFIG)
    assert fit.objective.shape == (7,)
    paid = np.where(fit.accepted, fit.proximal, 0).reshape(3, 2).sum(1)
    assert (fit.objective[2::2] + paid <= fit.objective[:-2:2] + 1e-12).all()
    assert (np.diff(fit.objective) <= 0).all()
    assert fit.objective[-1] < 0.9 * fit.objective[0]
    # What is reported is Q + R of the curve that is returned, and of the line that it began with.
    np.testing.assert_allclose(fit.objective[-1], objective(model, tiny_data, fit.path), rtol=1e-4)
    line = linear(model.spec).bind(theta_1, theta_2, None, P)
    np.testing.assert_allclose(fit.objective[0], objective(model, tiny_data, line), rtol=1e-4)


def test_the_proximal_terms_are_those_of_equation_6(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)
    config = changed(iterations=1, lookahead=False)
    fit = fit_pam(key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, None, config)
    assert fit.accepted.all()
    assert fit.moved[0] > 0
    distance = sum(np.square(matrix(p) - np.eye(len(p))).sum() for p in fit.P.values())
    np.testing.assert_allclose(fit.proximal[0], distance / (2 * 50.0), rtol=1e-6)
    np.testing.assert_allclose(fit.proximal[1], trees.dot(fit.theta_c, fit.theta_c) / (2 * 200.0), rtol=1e-4)
    assert fit.moved[0] == sum((np.asarray(p) != np.arange(len(p))).sum() for p in fit.P.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "wrong"),
    [({}, 4), ({"rounding": "assignment"}, 4), ({"lookahead": False}, 4), ({"projection": "sinkhorn"}, 26)],
)
def test_a_planted_permutation_is_learned_from_the_identity(how, wrong, key):
    digits = data.load("digits")
    model = models.create("mlp", 10, digits.image_shape, widths=(16, 16))
    theta = train_endpoints(jax.random.split(key, 3), model, digits, TrainConfig(epochs=30)).theta
    planted = [random_permutation(jax.random.fold_in(key, i), model.spec, trees.index(theta, i)) for i in range(3)]
    other = trees.stack([permute(model.spec, p, trees.index(theta, i)) for i, p in enumerate(planted)])
    config = PamConfig(epochs=2, iterations=1, **how)
    fit = fit_pam(key, model, bezier(model.spec), theta, other, digits, None, config)
    x = data.normalize(digits.train_images, digits.mean, digits.std)
    for i, p in enumerate(planted):
        activations = model.activations(trees.index(theta, i), x)
        strength = {g: np.sqrt(np.square(np.asarray(activations[g][0])).mean(0)) for g in p}
        # Units that are dead, or nearly so, cannot be told apart by the loss.
        alive = {g: each > 0.1 * each.max() for g, each in strength.items()}
        assert sum(each.sum() for each in alive.values()) >= 24
        assert sum((alive[g] & (np.asarray(fit.P[g][i]) != np.argsort(p[g]))).sum() for g in p) <= wrong
    assert (fit.objective[:, 1] < 0.35 * fit.objective[:, 0]).all()


def test_a_bad_permutation_is_refused_and_costs_nothing(ends, key, tiny_data, tiny_model, monkeypatch):
    theta_1, theta_2 = map(one, ends)
    P = match_activations(tiny_model, theta_1, theta_2, tiny_data).P
    # What rounding would return if it went wrong: units next to each other change places.
    wrong = {group: np.roll(np.asarray(p), 1) for group, p in P.items()}
    path = linear(tiny_model.spec).bind(theta_1, theta_2, None, wrong)
    monkeypatch.setattr(half_steps, "candidates", lambda *_: {g: p[None, None] for g, p in wrong.items()})
    fit = fit_pam(key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, P, CONFIG)
    assert not fit.accepted[::2].any()
    np.testing.assert_allclose(fit.proposed[0], objective(tiny_model, tiny_data, path), rtol=1e-4)
    np.testing.assert_allclose(fit.proximal[::2], 11 / 50)
    for group, p in P.items():
        np.testing.assert_array_equal(fit.P[group], p)
    np.testing.assert_array_equal(fit.objective[1::2], fit.objective[:-1:2])


def test_lookahead_keeps_the_better_curve(ends, key, tiny_data, tiny_model, monkeypatch):
    # From the wrong permutation back to the right one or to another: each pair keeps what its curve was better with.
    theta_1, theta_2 = ends
    match = match_activations(tiny_model, theta_1, theta_2, tiny_data).P
    start = {group: jnp.roll(p, 1, axis=-1) for group, p in match.items()}
    proposals = {"better": match, "worse": {group: jnp.roll(p, 2, axis=-1) for group, p in match.items()}}
    config = changed(iterations=1, nu_P=1e9, nu_phi=1e9)
    for name, P in proposals.items():
        with monkeypatch.context() as patch:
            patch.setattr(half_steps, "candidates", lambda *_, P=P: {g: np.asarray(p)[:, None] for g, p in P.items()})
            plain, ahead = (
                fit_pam(
                    key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, start,
                    PamConfig(**{**vars(config), "lookahead": lookahead}),
                )
                for lookahead in (False, True)
            )  # fmt: skip
        assert (ahead.objective[:, -1] <= plain.objective[:, -1] + 1e-6).all()
        if name == "better":
            assert ahead.accepted.all()
        # It never accepts what would be refused without it.
        assert (ahead.accepted[:, 0] <= plain.accepted[:, 0]).all()


def test_a_curve_that_gets_worse_is_refused(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)
    config = changed(learning_rate=30.0, schedule="constant", momentum=0.0, iterations=1)
    fit = fit_pam(key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, None, config)
    assert not fit.accepted[1]
    assert fit.proposed[1] > fit.objective[1] == fit.objective[2]
    assert float(trees.norm(fit.theta_c)) == 0


def test_without_moves_the_curve_is_that_of_fit_curve(ends, key, tiny_data, tiny_model, monkeypatch):
    # The schedule runs over the iterations as it does over as many epochs at once.
    theta_1, theta_2 = map(one, ends)
    seen = []
    monkeypatch.setattr(half_steps, "run_epochs", lambda *args, **more: seen.append(args) or real(*args, **more))
    config = changed(permutation_learning_rate=1e-9, nu_phi=1e12)
    fit = fit_pam(key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, None, config)
    assert (fit.moved == 0).all()
    assert fit.accepted.all()
    of_curves = [(step, state) for step, _, _, state, *_ in seen if isinstance(step, CurveStep)]
    counts = [np.asarray(jax.tree.leaves(state.optimizer)[-1]).tolist() for _, state in of_curves]
    assert counts == [[0], [18], [36]]  # 3 epochs of 6 steps each
    assert all(step.config.epochs == 9 for step, _ in of_curves)
    whole = fit_curve(key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, None, changed(epochs=9))
    last = objective(tiny_model, tiny_data, whole.path)
    np.testing.assert_allclose(fit.objective[-1], last, rtol=0.2)


real = half_steps.run_epochs


@pytest.mark.parametrize("curve", [bezier, lambda spec: bezier(spec, 3), polygonal_chain])
def test_many_pairs_and_every_curve(curve, ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = ends
    fit = fit_pam(key, tiny_model, curve(tiny_model.spec), theta_1, theta_2, tiny_data, None, CONFIG)
    assert fit.objective.shape == (2, 7)
    assert fit.accepted.shape == fit.moved.shape == (2, 6)
    assert fit.history["loss"].shape == (2, 3 * (4 + 3))
    for i in range(2):

        def path(t, i=i):
            return trees.index(fit.path(t), i)

        np.testing.assert_allclose(fit.objective[i, -1], objective(tiny_model, tiny_data, path), rtol=1e-4)
        jax.tree.map(np.testing.assert_array_equal, path(0.0), trees.index(theta_1, i))
        moved = permute(tiny_model.spec, trees.index(fit.P, i), trees.index(theta_2, i))
        jax.tree.map(np.testing.assert_array_equal, path(1.0), moved)


def test_the_same_key_gives_the_same_bits(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)
    fits = [
        fit_pam(key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, None, CONFIG) for _ in range(2)
    ]
    jax.tree.map(np.testing.assert_array_equal, fits[0].theta_c, fits[1].theta_c)
    np.testing.assert_array_equal(fits[0].objective, fits[1].objective)


@pytest.mark.parametrize("after", [2, 5, 9, 20])
def test_an_interrupted_fit_ends_with_the_same_bits(after, ends, key, tiny_data, tiny_model, tmp_path, monkeypatch):
    def fit(folder):
        recorder = Recorder("pam", RunFolder(folder, {}), "pam", progress=False)
        curve = bezier(tiny_model.spec)
        return fit_pam(key, tiny_model, curve, *ends, tiny_data, None, CONFIG, recorder=recorder)

    whole = fit(tmp_path / "whole")
    epochs, add = [], Recording.add

    def broken(self, *args):
        if len(epochs) == after:
            raise KeyboardInterrupt
        epochs.append(self.recorder.stage)
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "add", broken)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken")
    epochs.clear()
    resumed = fit(tmp_path / "broken")
    for name in ("theta_c", "P", "history"):
        jax.tree.map(np.testing.assert_array_equal, getattr(whole, name), getattr(resumed, name))
    for name in ("objective", "proposed", "proximal", "accepted", "moved"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(resumed, name))
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


def test_batch_norm_networks_and_units_of_size_1(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.0625)  # groups of 1, 2, 4 and 4 units
    theta_1, theta_2 = (model.init(k) for k in jax.random.split(key))
    config = changed(batch_size=40, iterations=1, epochs=2, permutation_epochs=2)
    fit = fit_pam(key, model, bezier(model.spec), theta_1, theta_2, tiny_colour_data, None, config)
    assert len(fit.P["conv_0"]) == 1
    assert np.isfinite(fit.objective).all()
    assert (np.diff(fit.objective) <= 0).all()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(fit.theta_c["batch_stats"]))


def test_every_program_is_compiled_once(ends, key, tiny_data, tiny_model):
    from mcjax.paths import grid
    from mcjax.training import loop

    theta_1, theta_2 = ends
    curve = bezier(tiny_model.spec)
    fit_pam(key, tiny_model, curve, theta_1, theta_2, tiny_data, None, changed(lookahead=False))
    programs = (loop._epoch_of_many, grid._values, half_steps._slopes)
    before = [program.jitted._cache_size() for program in programs]
    more = changed(lookahead=False, nu_P=50.0)
    fit_pam(jax.random.key(9), tiny_model, curve, theta_1, theta_2, tiny_data, None, more)
    assert [program.jitted._cache_size() for program in programs] == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nu_P": 0.0}, "nu_P=0.0, expected it to be positive"),
        ({"nu_phi": -1.0}, "nu_phi=-1.0"),
        ({"nu_P": float("nan")}, "nu_P=nan"),
        ({"nu_P": "a"}, "nu_P=a"),
        ({"permutation_learning_rate": 0.0}, "permutation_learning_rate=0.0"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
        ({"iterations": 0}, "iterations=0"),
        ({"permutation_epochs": 0}, "permutation_epochs=0"),
        ({"annealing": 0.0}, "annealing=0.0"),
        ({"samples": -1}, "samples=-1"),
        ({"objective_images": 0}, "objective_images=0"),
        ({"objective_points": 1.5}, "objective_points=1.5"),
        ({"rounding": "sample"}, "Did you mean 'sampled'"),
        ({"projection": "dykstra"}, "unknown projection"),
    ],
)
def test_a_bad_config_is_named(changes, said):
    with pytest.raises(InputError, match=said):
        changed(**changes)


def test_presets_are_the_papers_and_a_short_one():
    paper = PamConfig.preset("paper", batch_size=64)
    assert (paper.iterations, paper.permutation_epochs, paper.epochs) == (4, 20, 40)
    assert (paper.schedule, paper.batch_size) == ("halving", 64)
    assert PamConfig.preset("fast").epochs < paper.epochs
    with pytest.raises(InputError, match="unknown preset"):
        PamConfig.preset("slow")


def test_bad_input_is_named(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)

    def fit(a=theta_1, b=theta_2, P=None, curve=None, config=CONFIG, model=tiny_model):
        return fit_pam(key, model, curve or bezier(tiny_model.spec), a, b, tiny_data, P, config)

    with pytest.raises(InputError, match="the same network"):
        fit(b=theta_1)
    P = random_permutation(key, tiny_model.spec, theta_1)
    with pytest.raises(InputError, match="the same network"):
        fit(a=permute(tiny_model.spec, P, theta_2), P=P)
    with pytest.raises(InputError, match="no control points"):
        fit(curve=linear(tiny_model.spec))
    with pytest.raises(SpecError, match=r"dense_1: not a permutation of 0\.\.4; repeated \[1\]"):
        fit(P={"dense_0": jnp.arange(6), "dense_1": jnp.array([0, 1, 1, 3, 4])})
    soft = {"dense_0": jnp.full((6, 6), 1 / 6), "dense_1": jnp.eye(5)}
    with pytest.raises(SpecError, match="matrices for dense_0, dense_1, expected a hard P"):
        fit(P=soft)
    with pytest.raises(SpecError, match="dense_0: sums off by 1"):
        fit_curve(
            key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, {**soft, "dense_0": 2 * jnp.eye(6)}
        )
    with pytest.raises(InputError, match="no units of mlp can be permuted"):
        fit(model=tiny_model._replace(spec=tiny_model.spec.without("dense_0", "dense_1")))
    with pytest.raises(RunError, match="not finite"):
        fit(a=jax.tree.map(lambda leaf: leaf * jnp.nan, theta_1))
