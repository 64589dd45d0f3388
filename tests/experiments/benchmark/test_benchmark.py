"""The benchmark: both sides do the same work, and what it says of it."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[bench]'")

import torch

import mcjax
from experiments.benchmark import benchmark
from experiments.benchmark import output as benchmark_output
from experiments.benchmark import programs as benchmark_programs
from experiments.benchmark.benchmark import Benchmark, Runner, main
from experiments.benchmark.programs import PROGRAMS, Sizes, other_way, work_for
from experiments.benchmark.torch_networks import network, permuted, tensors
from experiments.benchmark.torch_peer import Peer, projected
from mcjax import trees
from mcjax.runtime.mapping import convolutions_are_sequential
from mcjax.training.fit import parts_of

CPU = torch.device("cpu")
# Threads that spin would wait for the tests beside these.
torch.set_num_threads(1)
SMALL = Sizes(batch=10, steps=2, points=3, plane_points=3, images=20)


def colours(side, n=40):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, side, side, 3)).astype(np.uint8)
    return mcjax.data.from_arrays(images, np.arange(n) % 10, images[::-1], np.arange(n)[::-1] % 10, 10, "noise")


@pytest.fixture(scope="module")
def mlp_work(tiny_data):
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5))
    return work_for(model, tiny_data, 2, SMALL, "float32")


@pytest.fixture(scope="module")
def tinyten_work():
    model = mcjax.models.create("tinyten", 10, (16, 16, 3), width=0.25)
    return work_for(model, colours(16), 2, SMALL, "float32")


def unlike(model, seed=0):
    """Variables of which no two are alike, batch statistics included."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 0.3, leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize(
    ("name", "side", "count"),
    [
        ("mlp", 32, 3072 * 256 + 256 + 256 * 256 + 256 + 2570),
        ("tinyten", 16, 86_778),
        ("resnet32", 8, 466_906),
        ("vgg16", 32, 15_253_578),
    ],
)
def test_networks_have_the_same_parameters_and_outputs(name, side, count):
    model = mcjax.models.create(name, 10, (side, side, 3))
    theta = unlike(model)
    made = network(name, theta).eval()
    assert sum(p.numel() for p in made.parameters()) == trees.parameter_count(theta) == count
    x = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        ours = made(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy()
    expected = np.asarray(jax.jit(model.apply)(theta, jnp.asarray(x)))
    np.testing.assert_allclose(ours, expected, rtol=2e-4)


def test_another_architecture_is_refused():
    theta = mcjax.models.create("tinyten", 10, (16, 16, 3)).init(jax.random.key(0))
    extra = {**theta, "params": {**theta["params"], "Conv_9": {"bias": jnp.zeros(3)}}}
    with pytest.raises(ValueError, match="Conv_9"):
        network("tinyten", extra)


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_permuted_is_permute(name):
    model = mcjax.models.create(name, 10, (32, 32, 3), width=0.1)
    theta = {"params": unlike(model)["params"]}
    rng = np.random.default_rng(2)
    sizes = model.spec.group_sizes(unlike(model))
    P = {group: rng.normal(size=(n, n)).astype(np.float32) for group, n in sizes.items()}
    found = permuted(model.spec, {group: torch.tensor(M) for group, M in P.items()}, tensors(theta, CPU))
    soft = mcjax.permute(model.spec, P, unlike(model))
    for leaf, expected in tensors({"params": soft["params"]}, CPU).items():
        np.testing.assert_allclose(found[leaf], expected, rtol=1e-3, atol=1e-5)


def test_projected_is_project_birkhoff():
    M = np.random.default_rng(3).normal(size=(7, 7)).astype(np.float32)
    np.testing.assert_allclose(projected(torch.tensor(M)), mcjax.symmetry.project_birkhoff(M), atol=2e-6)


def test_a_permutation_step_is_mcjax_own(mlp_work, monkeypatch):
    # A rate at which the matrices move.
    monkeypatch.setattr("experiments.benchmark.torch_peer.PERMUTATION_RATE", 0.5)
    peer = Peer(mlp_work)
    monkeypatch.setattr("experiments.benchmark.programs.PERMUTATION_RATE", 0.5)
    fit, states = benchmark_programs._permutation(mlp_work)
    descent, loss = parts_of(fit)
    at = dataclasses.replace(descent, sample_t=lambda key, points: jnp.full(points, 0.3))
    x, y = (part[:10] for part in peer.train)
    batch = (jnp.asarray(x.permute(0, 2, 3, 1).numpy()), jnp.asarray(y.numpy()))
    expected = at.step(loss, trees.index(states, 1), batch, jax.random.key(0))[0].variables
    found = peer.permutation_step(1, peer.identity(), 0.3, x, y)
    for group, matrix in expected.items():
        assert np.abs(matrix - np.eye(len(matrix))).max() > 1e-3
        np.testing.assert_allclose(found[group], matrix, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "tinyten"])
def test_both_sides_measure_the_same(kind, mlp_work, tinyten_work):
    work = mlp_work if kind == "mlp" else tinyten_work
    peer = Peer(work)
    ours, theirs = PROGRAMS["match"](work)(), peer.run("match")
    for group, P in ours.P.items():
        # By the sum of correlations: units that never vary can be paired in any way.
        for i in range(work.pairs):
            paired = ours.info["correlation"][group][i][np.arange(P.shape[1]), theirs[i][group]]
            np.testing.assert_allclose(paired.mean(), ours.info["after"][group][i], atol=1e-4)
    along, theirs = PROGRAMS["path"](work)(), peer.run("path")
    np.testing.assert_allclose(theirs[..., 0].cumsum(-1), along.distance, rtol=1e-4, atol=1e-5)
    # All images are one batch; PyTorch's running variance is the unbiased one.
    close = {"rtol": 1e-5 if kind == "mlp" else 1e-2}
    np.testing.assert_allclose(theirs[..., 1], along.train_loss, **close)
    np.testing.assert_allclose(theirs[..., 3], along.test_loss, **close)
    on_plane, theirs = PROGRAMS["plane"](work)(), peer.run("plane")
    np.testing.assert_allclose(theirs[..., 0], on_plane.test_loss, **close)


@pytest.mark.parametrize("workload", ["endpoint", "curve", "permutation"])
def test_epochs_of_both_sides_run(workload, mlp_work):
    states, history = PROGRAMS[workload](mlp_work)()
    assert history["loss"].shape == (2, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    Peer(mlp_work).run(workload)


def test_the_other_way_is_the_same_work(tinyten_work):
    chosen = convolutions_are_sequential()
    states, _ = PROGRAMS["curve"](tinyten_work)()
    others, _ = other_way(tinyten_work, "curve")()
    assert convolutions_are_sequential() == chosen
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_operations_are_those_of_the_products(mlp_work):
    # Products of the MLP 64-6-5-3: forward, and twice that backward, but for the gradient at the images.
    forward = 2 * (64 * 6 + 6 * 5 + 5 * 3)
    step = 10 * (3 * forward - 2 * 64 * 6)
    epochs = benchmark_programs.operations(mlp_work, "endpoint")
    # What is not a product, here mostly the optimiser, is a few operations a parameter and unit.
    assert 2 * 2 * step < epochs < 2 * 2 * (step + 20 * (64 * 6 + 6 + 30 + 5 + 15 + 3) + 10 * 20 * 14)
    along, on_plane = (benchmark_programs.operations(mlp_work, workload) for workload in ("path", "plane"))
    assert 2 * 3 * 20 * 2 * forward < along < 2 * 3 * 20 * 2 * (forward + 200)
    # Two pairs by three points by two splits, against nine points of one network and split.
    assert along / on_plane == pytest.approx(12 / 9)


def test_memory_is_that_of_the_programs(mlp_work):
    with benchmark_programs.noting_programs() as called:
        PROGRAMS["path"](mlp_work)()
    images = sum(mlp_work.evaluation.split(split)[0].nbytes for split in ("train", "test"))
    assert called
    assert images < benchmark_programs.memory(called) < 1e7


def test_a_failure_is_kept_and_not_run_again():
    calls = []

    def run():
        calls.append(1)
        raise MemoryError("no room\nat all")

    runner = Runner(lambda: run)
    runner.measure(started=False)
    runner.measure(started=True)
    assert len(calls) == 1
    assert runner.results()["error"] == "MemoryError: no room"


@pytest.fixture
def bars(tmp_path, tiny_data):
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    np.savez(tmp_path / "bars.npz", **{name: getattr(tiny_data, name) for name in names})
    return str(tmp_path / "bars.npz")


def test_a_run_goes_on_after_a_failure(tmp_path, bars, capsys, monkeypatch):
    def failing(work):
        raise MemoryError("no room")

    monkeypatch.setitem(benchmark.PROGRAMS, "match", failing)
    monkeypatch.setattr(benchmark, "about_machine", lambda: {"device": "a", "versions": {}, "peak_flops": 1e9})
    sizes = {"rounds": 2, "batch": 10, "steps": 2, "points": 3, "images": 20}
    workloads = ("match", "path")
    main(Benchmark(bars, ("mlp",), pairs=(1,), workloads=workloads, out=tmp_path / "out.json", **sizes))
    printed = capsys.readouterr().out
    assert "mlp matching activations, 1 pairs, mcjax failed: MemoryError: no room" in printed
    assert "3 points, 20 images" in printed
    failed, along = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert failed["ratio"] is None
    assert failed["mcjax"]["median"] is None
    assert len(failed["pytorch"]["seconds"]) == 2
    assert along["mcjax"]["error"] is None
    ratios = np.divide(along["pytorch"]["seconds"], along["mcjax"]["seconds"])
    assert along["ratio"] == pytest.approx(np.median(ratios))
    assert along["mcjax"]["share_of_peak"] == pytest.approx(along["operations"] / along["mcjax"]["median"] / 1e9)


def test_bad_options_are_refused(bars):
    with pytest.raises(mcjax.InputError, match="120 train images: got 6400"):
        main(Benchmark(bars, ("mlp",)))
    with pytest.raises(mcjax.InputError, match="no data set at nowhere"):
        main(Benchmark("nowhere.npz"))
    with pytest.raises(mcjax.InputError, match="got rounds=0, expected at least 1"):
        main(Benchmark(bars, rounds=0))
    with pytest.raises(mcjax.InputError, match=r"widths.*without mlp"):
        main(Benchmark(bars, ("tinyten",), widths=(8,)))
    with pytest.raises(mcjax.InputError, match="expected a file in a folder"):
        main(Benchmark(bars, out=Path("nowhere/out.json")))
    with pytest.raises(mcjax.InputError, match="got pairs"):
        main(Benchmark(bars, pairs=(0,)))


def test_the_machine_has_a_rate():
    about = benchmark_output.about_machine()
    assert about["peak_flops"] == max(about["matmul_flops"]["jax"], about["matmul_flops"]["torch"]) > 1e8
    assert about["versions"]["jax"] == jax.__version__
