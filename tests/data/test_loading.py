"""Data sets by name: scikit-learn's digits, .npz files and TFDS; sets that are refused."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from images import arrays
from PIL import Image
from refusals import says

from mcjax import InputError, RunError
from mcjax.data import load


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

    # Every digit is in one of the two splits, with its label; grey levels 0 to 16 become 0 to 255.
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
    # Written by TFDS, without TensorFlow; unregistered, so that it is found by its folder alone.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        code_path = None  # there are no checksums beside the code

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
        # TFDS shuffles; an image's grey level is its number.
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
