"""The experiments of permutation points, small: what they leave and say, that they resume, what they refuse."""

from math import comb
from pathlib import Path

import jax
import numpy as np
import pytest
from studies import small_studies

import mcjax
from experiments.options import changes_of
from experiments.permutation_points import spectra as permutation_spectra
from experiments.permutation_points import tasks as permutation_tasks
from experiments.permutation_points.counts import one_by_one
from experiments.permutation_points.paths import rises
from experiments.permutation_points.study import Config, main
from experiments.permutation_points.tables import tables
from experiments.permutation_points.tasks import SIZES, Size, pooled, sized
from experiments.permutation_points.toy import figure_pairs
from mcjax.cli import guarded

SIZE = {
    # The smooth toy alone, on few points; its spectra are of paths that are pair_path in the same way.
    "toys": ("tanh",),
    "toy_steps": 8,
    "toy_samples": 40,
    "toy_tolerance": 1e-5,
    "toy_iterations": 25,
    "toy_knots": 1000,
    "toy_bump": 100.0,
    "toy_networks": 1,
    "toy_outputs": (1,),
    "merged_networks": 1,
    "pool": 2,
    "train_images": 100,
    "widths": (4,),
    "seeds": 2,
    "epochs": 2,
    "steps": 5,
    "iterations": 5,
    "products": 10,
    "knots": 200,
}


study_of = small_studies(Config, Size, {"mnist": "digits"}, SIZE)


@pytest.fixture(scope="module")
def study(tmp_path_factory, stopped_once):
    """A study that was stopped at its last part, and went on."""
    study = study_of(tmp_path_factory.mktemp("permutation") / "whole", tasks=("toy", "mnist", "spectrum", "count"))
    stopped_once(main, study, "spectrum_mnist_point")
    return study


def parameters(folder, name):
    theta = mcjax.runs.checkpoint.load(Path(folder, "checkpoints", name, "result"))
    return {
        layer: {what: np.asarray(leaf, float) for what, leaf in of.items()} for layer, of in theta["params"].items()
    }


def outputs(params, x):
    for i in range(3):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        x = np.maximum(x, 0) if i < 2 else x
    return x


def check_mnist(level, folder):
    """Loss and accuracy are the paper's, in numpy."""
    data = pooled(mcjax.data.load("digits"), 2).take(100)
    x = (data.train_images / 255 - data.mean) / data.std
    teachers = parameters(folder, "mnist_4_teachers")
    for seed, path in enumerate(level["paths"]):
        teacher = {layer: {what: leaf[seed] for what, leaf in of.items()} for layer, of in teachers.items()}
        y = outputs(teacher, x.reshape(100, -1))
        scale = np.sqrt(np.square(y).mean())
        point = parameters(folder, f"mnist_4_path_{seed}_point")
        one, two = path["pair"]
        for leaf in (point["Dense_1"]["kernel"].T, point["Dense_1"]["bias"], point["Dense_2"]["kernel"]):
            np.testing.assert_array_equal(leaf[one], leaf[two])
        f = scale * outputs(point, x.reshape(100, -1))
        np.testing.assert_allclose(path["point"], np.square(y - f).sum(1).mean() / np.square(y).mean(), rtol=1e-3)
        right = [(values.argmax(1) == data.train_labels).mean() for values in (y, f)]
        np.testing.assert_allclose([path["accuracy"][0], path["accuracy"][-1]], right, atol=0.011)
        assert len(path["accuracy"]) == len(path["loss"]) == len(path["distances"]) == 7
        # Knots are float32.
        assert path["barrier"] >= max(path["loss"]) - path["loss"][0] - 1e-6 * max(path["loss"])
    assert level["barrier"]["values"] == [path["barrier"] for path in level["paths"]]


def check_toy(tasks):
    toy = tasks["toy"]["tanh"]
    assert sorted(map(tuple, toy["pairs"]["units"])) == [(i, j) for i in range(5) for j in range(i + 1, 5)]
    assert [path["pair"] for path in toy["paths"]] == figure_pairs(toy["pairs"]["units"], toy["pairs"]["point"])
    along = toy["paths"][0]["along"]
    assert toy["paths"][0]["point"] < max(along) <= 1.001 * toy["paths"][0]["barrier"]
    np.testing.assert_allclose(along, along[::-1], rtol=1e-3, atol=1e-9)
    # Held output weights keep their norm until the point.
    np.testing.assert_allclose(toy["paths"][0]["output_norm"][1:-1], toy["paths"][0]["output_norm"][0], rtol=1e-6)
    exchange = toy["paths"][0]["exchange"]
    assert exchange["moves"] % 6 == 0
    np.testing.assert_allclose(exchange["loss"], toy["paths"][0]["point"], rtol=1e-8)
    (one,) = tasks["spectrum"]["toy"]
    assert len(one["eigenvalues"]) == one["negative"] + one["zeros"] + one["positive"] == 21
    assert one["negative"] == one["predicted"]
    assert (one["outputs"], one["rank"]) == (1, 0)
    assert one["zeros"] >= 1
    at = tasks["spectrum"]["mnist"]["at"]
    assert at["theta"]["loss"] < 1e-12
    assert min(at["theta"]["smallest"]) > -1e-6 * at["theta"]["largest"][0]
    assert at["point"]["largest"] == sorted(at["point"]["largest"], reverse=True)
    area = np.trapezoid(at["point"]["density"], at["point"]["grid"])
    assert area == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_files_and_results_of_a_study(study, results_of):
    results = results_of(main, study)
    assert len(results["page"]["figures"]) == 8
    (level,) = results["tasks"]["mnist"]["levels"]
    check_mnist(level, study.out)
    check_toy(results["tasks"])


@pytest.mark.parametrize("pair", [(1, 3), (4, 0)])
def test_the_block_in_which_two_units_part(pair):
    """At two equal units, critical point or not, the Hessian has the blocks that are claimed."""
    setting = permutation_tasks.toy(jax.random.key(1), "tanh", 3, Size(toy_samples=40))
    first, second = (
        {name: leaf.copy() for name, leaf in setting.theta["params"][f"Dense_{i}"].items()} for i in (0, 1)
    )
    first["kernel"][:, pair[1]], first["bias"][pair[1]] = first["kernel"][:, pair[0]], first["bias"][pair[0]]
    second["kernel"][pair[1]] = second["kernel"][pair[0]]
    second["bias"] = np.array([0.3, -0.2, 0.5], np.float32)  # errors of all outputs, not of a combination of two
    point = {"params": {"Dense_0": first, "Dense_1": second}}
    found = permutation_spectra.hessian_at_point(setting, point, [pair])
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda leaf: leaf.astype(float), point)
        loss = mcjax.full_batch_loss(setting.task)
        hessian = np.asarray(mcjax.hessian.dense_hessian(loss, theta))
    # Everything that is no difference of the two units.
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(theta)])
    swapped = mcjax.permute(
        setting.model.spec, {"dense_0": np.array([swap(i, pair) for i in range(5)])}, _numbers(theta)
    )
    order = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(swapped)]).astype(int)
    np.testing.assert_array_equal(flat[order], flat)
    kept = (np.eye(len(flat)) + np.eye(len(flat))[order]) / 2
    rest = np.linalg.eigvalsh(kept @ hessian @ kept)
    tolerance = found["zero_tolerance"]
    assert found["rank"] == 3
    assert found["negative"] == found["predicted"] + (rest < -tolerance).sum()
    assert found["predicted"] >= 3
    np.testing.assert_allclose(found["loss"], float(loss(theta)))
    assert found["kind"] == "no critical point"


@pytest.mark.slow
def test_points_of_higher_order_in_a_deeper_network(tmp_path, results_of, monkeypatch):
    case = permutation_tasks.Merged((3, 4), 2, 1, (3,))
    monkeypatch.setattr(permutation_spectra, "MERGED", (case,))
    study = study_of(tmp_path / "run", tasks=("merged",))
    main(study)
    (found,) = results_of(main, study)["tasks"]["merged"]
    assert (found["network"], found["layer"], found["order"], found["read"]) == ("2-3-4-2", 2, 2, 2)
    # 2 * 3 + 3 parameters, 3 * 4 + 4, 4 * 2 + 2; of the smaller network 2 * (3 + 1 + 2) less.
    assert found["negative"] + found["zeros"] + found["positive"] == 35
    assert (sum(found["parting"]), sum(found["smaller"])) == (12, 23)
    assert found["negative"] == found["parting"][0] + found["smaller"][0]
    (table,) = tables({"merged": [found]})
    assert table["rows"][0][:4] == ["2-3-4-2", "2", "3", "2"]


def test_the_most_similar_units_are_merged():
    similar = np.array([[1, 3], [0, 2], [3, 4], [1, 2], [0, 1], [1, 4]])
    assert permutation_spectra.chosen_pairs(similar, (2,)) == [(1, 3)]
    assert permutation_spectra.chosen_pairs(similar, (4,)) == [(1, 3), (1, 2), (1, 0)]
    assert permutation_spectra.chosen_pairs(similar, (2, 2)) == [(1, 3), (0, 2)]
    every = np.array([[1, 3], [1, 2], [0, 2], [0, 4]])
    assert permutation_spectra.chosen_pairs(every, (3, 2)) == [(1, 3), (1, 2), (0, 4)]


def swap(i, pair):
    return {pair[0]: pair[1], pair[1]: pair[0]}.get(i, i)


def _numbers(theta):
    """Every parameter's place among all of them."""
    leaves, built = jax.tree.flatten(theta)
    ends = np.cumsum([leaf.size for leaf in leaves])
    return jax.tree.unflatten(
        built,
        [
            np.arange(end - leaf.size, end, dtype=float).reshape(leaf.shape)
            for leaf, end in zip(leaves, ends, strict=True)
        ],
    )


def test_points_are_counted(tmp_path, results_of):
    # Surjections by inclusion and exclusion.
    for units, order in ((2, 1), (4, 2), (6, 3)):
        k = units - order
        assert one_by_one(order, units) == sum((-1) ** j * comb(k, j) * (k - j) ** units for j in range(k + 1))
    study = Config(tasks=("count",), size=changes_of(Size, widths=(10, 25)), out=str(tmp_path / "run"))
    main(study)
    found = results_of(main, study)["tasks"]["count"]
    for row in found["rows"]:
        if row["counted"] is not None:
            assert row["counted"] / row["minima"] == pytest.approx(row["value"])
    assert {row["units"] for row in found["rows"]} == {2, 3, 4, 5, 6, 10, 25}
    for each in found["growth"]:
        assert each["ratio"][-1] == pytest.approx(1, abs=1e-3)
    many, constant = tables({"count": found})
    assert many["rows"][0] == ["2", "1", "1/2", "1 / 2", "1/2", "0.5", "4"]
    assert constant["rows"][1][:3] == ["2", "1/8", f"{np.exp(-2) / 8:.5f}"]


def test_pairs_that_are_shown():
    units = [[0, 1], [0, 2], [1, 2], [2, 3]]
    assert figure_pairs(units, [3.0, 1.0, 2.0, 1.0000001]) == [[0, 2], [2, 3], [1, 2]]
    assert figure_pairs(units, [1.0, 1.0, 1.0, 1.0]) == units[:3]


def test_losses_that_rise():
    assert rises(np.array([0, 1, 2, 2, 1.999]))
    assert not rises(np.array([0, 1, 2, 1.9]))


def test_pixels_are_averaged():
    data = mcjax.data.load("digits")
    small = pooled(data, 4)
    assert small.image_shape == (2, 2, 1)
    expected = np.asarray(data.train_images[0, :4, 4:, 0], float).mean()
    assert abs(small.train_images[0, 0, 1, 0] - expected) <= 0.5


def test_presets():
    size = sized("paper", changes_of(Size))
    assert (size.toy_steps, size.steps, size.seeds, size.widths, size.pool) == (200, 100, 6, (10, 15, 20, 25), 1)
    assert set(SIZES) == {"small", "paper"}
    toy = permutation_tasks.toy(jax.random.key(0), "tanh", 1, size)
    inputs, targets = toy.task.train
    assert inputs.shape == (1000, 2)
    np.testing.assert_allclose(toy.model.apply(toy.theta, inputs), targets)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tasks": ()}, ("tasks none", "toy")),
        ({"tasks": ("toy", "toy")}, ("toy, toy",)),
        ({"steps": 0}, ("steps=0",)),
        ({"toys": ()}, ("toys none", "relu")),
        ({"toy_outputs": (1, 1)}, ("toy_outputs=(1, 1)",)),
        ({"toy_tolerance": 0.0}, ("toy_tolerance=0.0",)),
        ({"widths": (5, 5)}, ("widths=(5, 5)",)),
        ({"widths": (1, 5)}, ("widths=(1, 5)",)),
        ({"pool": 3}, ("pool=3", "8 x 8")),
        ({"train_images": 90}, ("batch_size=100", "90")),
        ({"mnist": "nowhere/no.npz"}, ("nowhere/no.npz",)),
        ({"activation": "nothing"}, ("activation", "nothing")),
    ],
)
def test_bad_options_are_refused(change, named, tmp_path, refused):
    refused(main, study_of(tmp_path / "run", **change), *named)


def test_the_command_reports_bad_options(tmp_path, capsys):
    study = Config(tasks=("count",), size=changes_of(Size, widths=(5, 4)), out=str(tmp_path / "out"))
    assert guarded("permutation_points", lambda: main(study)) == 2
    said = capsys.readouterr().err
    assert said.startswith("permutation_points: error: ")
    assert "widths=(5, 4)" in said
    assert not any(tmp_path.iterdir())
