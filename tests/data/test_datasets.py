"""Data sets: from arrays, from files, from scikit-learn and from TFDS; what is wrong with them is said."""

import io

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from refusals import says

from mcjax import Augmentation, InputError, RunError
from mcjax.data import from_arrays, load


def arrays(**changes):
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 4, 5, 3)).astype(np.uint8),
        "test_labels": np.array([2, 1, 3]),
        **changes,
    }


def test_from_arrays_keeps_what_it_is_given():
    given = arrays()
    data = from_arrays(**given)
    for name, array in given.items():
        np.testing.assert_array_equal(getattr(data, name), array)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert data.num_classes == 4
    assert data.image_shape == (4, 5, 3)
    assert from_arrays(**given, num_classes=9).num_classes == 9


def test_mean_and_std_are_of_the_training_images():
    data = from_arrays(**arrays())
    pixels = data.train_images.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(data.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std(0), rtol=1e-6)
    black = from_arrays(**arrays(train_images=np.zeros((6, 4, 5, 3), np.uint8)))
    np.testing.assert_array_equal(black.mean, 0)
    assert (black.std > 0).all()


def test_grey_images_get_a_channel():
    data = from_arrays(**arrays(train_images=np.zeros((6, 4, 5), np.uint8), test_images=np.zeros((3, 4, 5), np.uint8)))
    assert data.image_shape == (4, 5, 1)
    assert data.test_images.shape == (3, 4, 5, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": np.zeros((6, 4, 5, 3), np.float32)}, ("train_images", "float32", "uint8")),
        ({"test_images": np.zeros((3, 4, 5, 3), np.int64)}, ("test_images", "int64", "uint8")),
        ({"train_images": np.zeros((6, 60), np.uint8)}, ("train", "(6, 60)", "(6,)", "(n, h")),
        ({"train_labels": np.arange(5) % 4}, ("train", "(6, 4, 5, 3)", "(5,)")),
        ({"test_labels": np.eye(3, dtype=int)}, ("test", "(3, 3)")),
        ({"test_images": np.zeros((0, 4, 5, 3), np.uint8), "test_labels": np.zeros(0, int)}, ("test", "(0, 4, 5, 3)")),
        ({"train_labels": np.zeros(6)}, ("train_labels", "float64", "integers")),
        ({"test_images": np.zeros((3, 5, 5, 3), np.uint8)}, ("(4, 5, 3)", "(5, 5, 3)")),
        ({"train_labels": np.arange(6), "num_classes": 4}, ("train_labels", "0 to 5", "0 to 3")),
        ({"test_labels": np.array([0, 1, 4]), "num_classes": 4}, ("test_labels", "0 to 4", "0 to 3")),
        ({"train_labels": np.arange(6) - 1}, ("train_labels", "-1 to 4")),
    ],
)
def test_arrays_that_cannot_be_used(changes, words):
    with says(InputError, "mine: ", *words):
        from_arrays(**arrays(**changes), name="mine")


def test_take():
    data = from_arrays(**arrays())
    few = data.take(train=4, test=2)
    np.testing.assert_array_equal(few.train_images, data.train_images[:4])
    np.testing.assert_array_equal(few.train_labels, data.train_labels[:4])
    np.testing.assert_array_equal(few.test_images, data.test_images[:2])
    np.testing.assert_array_equal(few.test_labels, data.test_labels[:2])
    np.testing.assert_array_equal(few.mean, data.mean)
    assert few.num_classes == 4
    assert len(data.take(test=1).train_labels) == 6


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("take", {"train": 7}, ("6 train images", "got 7")),
        ("take", {"test": 0}, ("3 test images", "got 0")),
        ("take", {"test": -1}, ("3 test images", "got -1")),
        ("hold_out", {"count": 0}, ("6 train images", "got 0", "1 to 5")),
        ("hold_out", {"count": 6}, ("6 train images", "got 6", "1 to 5")),
    ],
)
def test_take_what_is_not_there(method, given, words):
    with says(InputError, *words):
        getattr(from_arrays(**arrays()), method)(**given)


def test_default_augmentation_is_for_colour():
    grey = arrays(train_images=np.zeros((6, 4, 5), np.uint8), test_images=np.zeros((3, 4, 5), np.uint8))
    for *size, crop in ((4, 4, 0), (8, 8, 1), (28, 28, 3), (32, 32, 4), (96, 96, 4), (32, 16, 2), (16, 32, 2)):
        images = {f"{split}_images": np.zeros((n, *size, 3), np.uint8) for split, n in (("train", 6), ("test", 3))}
        colour = from_arrays(**arrays(**images))
        assert colour.default_augmentation() == Augmentation(flip=True, crop=crop, rotate=15.0)
    assert from_arrays(**grey).default_augmentation() == Augmentation.none()


def test_a_dataset_is_a_pytree():
    data = from_arrays(**arrays(), name="mine")
    moved = jax.jit(lambda data: data)(data)
    assert (moved.num_classes, moved.name) == (4, "mine")
    assert len(jax.tree.leaves(data)) == 6
    jax.tree.map(np.testing.assert_array_equal, moved, data)


def test_digits():
    from sklearn.datasets import load_digits

    data, whole = load("digits"), load_digits()
    assert data.image_shape == (8, 8, 1)
    assert (len(data.train_labels), len(data.test_labels), data.num_classes) == (1437, 360, 10)
    images = np.concatenate([data.train_images, data.test_images])[..., 0]
    labels = np.concatenate([data.train_labels, data.test_labels])

    def ordered(images, labels):
        rows = np.column_stack([images.reshape(len(images), -1), labels])
        return rows[np.lexsort(rows.T)]

    # Every digit is in one of the two splits, with its label; 16 greys become 0 to 255.
    np.testing.assert_array_equal(ordered(np.round(images / 255 * 16), labels), ordered(whole.images, whole.target))
    assert images.max() == 255
    np.testing.assert_array_equal(load("digits").train_images, data.train_images)


@pytest.mark.parametrize("extra", [{}, {"num_classes": 7}], ids=["counted", "said"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save, extra):
    save(tmp_path / "mine.npz", **arrays(), **extra)
    data = load(str(tmp_path / "mine.npz"))
    for name, array in arrays().items():
        np.testing.assert_array_equal(getattr(data, name), array)
    assert data.num_classes == extra.get("num_classes", 4)


def truncated(path):
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-500])


def corrupt(path):
    np.savez_compressed(path, **arrays())
    whole = bytearray(path.read_bytes())
    whole[150:200] = bytes(50)
    path.write_bytes(whole)


def single(path):
    with path.open("wb") as file:
        np.save(file, arrays()["train_images"])


CANNOT = ("cannot be read", ".npz", "train_images")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, ("mine.npz", "does not exist")),
        (lambda path: path.write_bytes(b""), CANNOT),
        (lambda path: path.write_bytes(b"no archive"), CANNOT),
        (lambda path: path.mkdir(), CANNOT),
        (truncated, CANNOT),
        (corrupt, CANNOT),
        (single, CANNOT),
        (lambda path: np.savez(path, **arrays(train_labels=np.array([None] * 6))), (*CANNOT, "allow_pickle=False")),
        (lambda path: np.savez(path, **arrays(), num_classes=np.array([None])), CANNOT),
        (
            lambda path: np.savez(path, a=1, train_images=1),
            ("test_images, test_labels, train_labels", "a, train_images"),
        ),
        (lambda path: np.savez(path), ("train_images", "nothing")),
        (lambda path: np.savez(path, **arrays(), num_classes=2), ("train_labels", "0 to 2", "0 to 1")),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, write, words):
    write(tmp_path / "mine.npz")
    with says(InputError, *words):
        load(str(tmp_path / "mine.npz"))


def prepared(data_dir, name="tiny_squares", version="1.0.0", test="test", labels=True, sizes=(8,), channels=3):
    # Written as TFDS writes, without TensorFlow; unregistered, so that only the folder tells of it.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        code_path = None  # no checksums lie beside the code

        def _info(self):
            side = sizes[0] if len(sizes) == 1 else None
            features = {"image": tfds.features.Image(shape=(side, side, channels))}
            if labels:
                features["label"] = tfds.features.ClassLabel(names=["dark", "middle", "bright"])
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(12), test: self._generate_examples(5)}

        def _generate_examples(self, count):
            for i in range(count):
                file, side = io.BytesIO(), sizes[i % len(sizes)]
                pixels = np.full((side, side, channels), 20 * i, np.uint8)
                pixels[0, 1] = 255
                Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "png")
                file.seek(0)
                yield i, {"image": file} | ({"label": i % 3} if labels else {})

    Builder.name = name
    Builder(data_dir=data_dir, file_format="array_record").download_and_prepare(file_format="array_record")
    return name


@pytest.mark.parametrize(
    "options",
    [{"channels": 3}, {"channels": 1, "test": "validation"}, {"name": "rock_paper_scissors", "version": "3.0.0"}],
    ids=["colour", "grey", "registered"],
)
def test_a_prepared_tfds_set(tmp_path, options):
    data = load(prepared(tmp_path, **options), data_dir=tmp_path)
    assert data.num_classes == 3
    assert data.image_shape == (8, 8, options.get("channels", 3))
    for images, labels, count in (
        (data.train_images, data.train_labels, 12),
        (data.test_images, data.test_labels, 5),
    ):
        # TFDS shuffles; an image's grey tells which it is.
        number = images[:, 0, 0, 0] // 20
        assert sorted(number) == list(range(count))
        np.testing.assert_array_equal(labels, number % 3)
        expected = np.broadcast_to((20 * number)[:, None, None, None], images.shape).copy()
        expected[:, 0, 1] = 255
        np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": (8, 9)}, ("several sizes",)),
        ({"labels": False}, ("['image']", "image and label")),
        ({"test": "extra"}, ("['extra', 'train']", "validation")),
    ],
)
def test_a_tfds_set_of_another_kind(tmp_path, options, words):
    with says(InputError, "tiny_squares", *words):
        load(prepared(tmp_path, **options), data_dir=tmp_path)


def test_a_tfds_set_that_is_not_prepared(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise ConnectionRefusedError("the network is closed")

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", refused)
    command = f"tfds.builder('mnist', data_dir={str(tmp_path)!r}, file_format='array_record').download_and_prepare()"
    with says(RunError, "'mnist'", command):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "near"), [("digit", "digits"), ("fashion_mnst", "fashion_mnist"), ("cifar_10", "cifar10")]
)
def test_an_unknown_set(tmp_path, name, near):
    with says(InputError, f"'{name}'", f"Did you mean '{near}'"):
        load(name, data_dir=tmp_path)


def test_images_that_are_held_out():
    data = from_arrays(**arrays())
    assert data.validation_images is None
    held = data.hold_out(2)
    np.testing.assert_array_equal(held.train_images, data.train_images[:4])
    np.testing.assert_array_equal(held.validation_images, data.train_images[4:])
    np.testing.assert_array_equal(held.validation_labels, data.train_labels[4:])
    assert len(jax.tree.leaves(held)) == len(jax.tree.leaves(data)) + 2
