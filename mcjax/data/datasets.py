"""Data sets as arrays: scikit-learn's digits, any TFDS set by name, an .npz file, a folder of texts, or one's own."""

import zlib
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from mcjax.data.augment import Augmentation
from mcjax.data.text import read_corpus
from mcjax.errors import InputError, RunError, unknown_name

KNOWN = ("digits", "cifar10", "cifar100", "stl10", "mnist", "fashion_mnist")
"""Sets that the help names; every TFDS image-classification set can be loaded by its name."""

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=(*_ARRAYS, "mean", "std", "validation_images", "validation_labels"),
    meta_fields=("num_classes", "name"),
)
@dataclass(frozen=True)
class Dataset:
    """Images uint8 (n, h, w, c), labels int32 (n,), and the training images' mean and std (c,) in [0, 1].

    Other inputs are in the place of images as the model takes them: float32 (n, ...), or tokens int32
    (n, length), with mean and std unused. Labels are what loss and accuracy are of: int32 (n, ...), a
    class for every output that the model gives (cross entropy, the share that is right), or float32
    (n, ...), the outputs themselves (mean squared error, and one minus the mean absolute error).
    num_classes: classes, or numbers in one output. The validation split may be missing.
    """

    train_images: Any
    train_labels: Any
    test_images: Any
    test_labels: Any
    num_classes: int
    mean: Any
    std: Any
    name: str = "data"
    validation_images: Any = None
    validation_labels: Any = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of one image; the shape of one input of another kind."""
        return tuple(self.train_images.shape[1:])

    def take(self, train: int | None = None, test: int | None = None) -> "Dataset":
        """The first `train` and `test` images; None keeps all. Mean and std stay as they are."""
        for split, wanted, there in (("train", train, len(self.train_labels)), ("test", test, len(self.test_labels))):
            if wanted is not None and not 0 < wanted <= there:
                raise InputError(f"{self.name} has {there} {split} images: got {wanted}, expected 1 to {there}.")
        return replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
        )

    def hold_out(self, count: int) -> "Dataset":
        """The last `count` training images as the validation split, and no longer as training images."""
        there = len(self.train_labels)
        if not 0 < count < there:
            raise InputError(
                f"{self.name} has {there} train images: got {count}, expected to hold out 1 to {there - 1}."
            )
        return replace(
            self,
            train_images=self.train_images[:-count],
            train_labels=self.train_labels[:-count],
            validation_images=self.train_images[-count:],
            validation_labels=self.train_labels[-count:],
        )

    def default_augmentation(self) -> Augmentation:
        """The papers' augmentation for colour images; none for grey ones, which are mostly characters.

        Images of less than 32 pixels are shifted less than the papers' 4: by an eighth of their side.
        Inputs that are no images have none.
        """
        if self.train_images.dtype != np.uint8 or self.image_shape[-1] != 3:
            return Augmentation.none()
        return Augmentation(crop=min(4, min(self.image_shape[:2]) // 8))


def check_dataset(data: Any) -> None:
    """Raise InputError unless `data` is a Dataset."""
    if not isinstance(data, Dataset):
        raise InputError(f"got a {type(data).__name__} for data, expected a Dataset: mcjax.data.load or from_arrays.")


def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    num_classes: int | None = None,
    name: str = "data",
) -> Dataset:
    """A Dataset from arrays, checked. Images are uint8 (n, h, w, c) or (n, h, w); labels integers (n,).

    `num_classes` is one more than the largest label if it is not given. Raises InputError if the
    arrays are of another kind, do not fit together, or a label is out of range.
    """
    splits = {}
    for split, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8:
            raise InputError(f"{name}: {split}_images are {images.dtype}, expected uint8 with pixels in 0..255.")
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or labels.shape != images.shape[:1] or len(labels) == 0:
            raise InputError(
                f"{name}: {split} has images {images.shape} and labels {labels.shape}, expected (n, h, w, c) and (n,)."
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{name}: {split}_labels are {labels.dtype}, expected integers.")
        splits[split] = images, labels.astype(np.int32)
    (train_images, train_labels), (test_images, test_labels) = splits["train"], splits["test"]
    if train_images.shape[1:] != test_images.shape[1:]:
        raise InputError(
            f"{name}: got train images {train_images.shape[1:]} and test images {test_images.shape[1:]}, "
            "expected one size."
        )
    if num_classes is None:
        num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    for split, (_, labels) in splits.items():
        if labels.min() < 0 or labels.max() >= num_classes:
            raise InputError(
                f"{name}: {split}_labels run from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}."
            )
    mean, std = _mean_and_std(train_images)
    return Dataset(train_images, train_labels, test_images, test_labels, num_classes, mean, std, name)


def _mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # From the 256 counts of each channel: exact, and without a float copy of the images.
    values = np.arange(256) / 255.0
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    variance = share @ values**2 - mean**2
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1e-12)).astype(np.float32)


def load(
    name: str | Path, data_dir: str | Path | None = None, *, sequence_length: int = 20, vocabulary: int | None = None
) -> Dataset:
    """A data set by name: `digits`, a TFDS image-classification set, the path of an `.npz`, or a folder of texts.

    An `.npz` holds train_images, train_labels, test_images and test_labels as `from_arrays` takes
    them, and optionally num_classes. `data_dir` is TFDS's own (default: its own default). A folder holds
    one file each of training, validation and test text (`mcjax.data.text`), to be cut into sequences of
    `sequence_length` words, in which each word is to be told from those before it; vocabulary: how many different
    words are kept (None: all; the others become `<unk>`).
    Raises InputError if there is no such set (naming the nearest), or if it is not what it should be.
    """
    name = str(name)
    if name == "digits":
        return _digits()
    if name.endswith(".npz"):
        return _npz(Path(name))
    # A folder that only happens to have the name of a TFDS set holds no texts.
    if Path(name).is_dir() and (len(Path(name).parts) > 1 or any(Path(name).glob("*.txt"))):
        return _text(Path(name), sequence_length, vocabulary)
    return _tfds(name, data_dir)


def _text(folder: Path, length: int, vocabulary: int | None) -> Dataset:
    corpus = read_corpus(folder, vocabulary)
    unused = np.zeros(1, np.float32)
    parts = {split: _sequences(folder, tokens, length) for split, tokens in corpus.tokens.items()}
    return Dataset(
        *parts["train"],
        *parts["test"],
        num_classes=len(corpus.vocabulary),
        mean=unused,
        std=unused + 1,
        name=folder.name,
        validation_images=parts["validation"][0],
        validation_labels=parts["validation"][1],
    )


def _sequences(folder: Path, tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    if length < 1:
        raise InputError(f"got sequence_length={length}, expected at least 1.")
    count = (len(tokens) - 1) // length
    if count < 1:
        raise InputError(f"{folder} has a text of {len(tokens)} tokens, expected more than sequence_length={length}.")
    whole = count * length
    return tokens[:whole].reshape(count, length), tokens[1 : whole + 1].reshape(count, length)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    # A fixed draw: the file is ordered by writer.
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return from_arrays(images[train], digits.target[train], images[test], digits.target[test], 10, "digits")


def _npz(path: Path) -> Dataset:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := set(_ARRAYS) - set(file.files):
                raise InputError(
                    f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(file.files) or 'nothing'}."
                )
            arrays = {name: file[name] for name in _ARRAYS}
            num_classes = int(file["num_classes"]) if "num_classes" in file.files else None
    except FileNotFoundError:
        raise InputError(f"no data set at {path}: the file does not exist.") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an .npz with the arrays {', '.join(_ARRAYS)}: {error}") from error
    return from_arrays(**arrays, num_classes=num_classes, name=path.stem)


def _tfds(name: str, data_dir: str | Path | None) -> Dataset:
    import tensorflow_datasets as tfds

    if name.split("/")[0].split(":")[0] not in tfds.list_builders(with_community_datasets=False) and not _prepared(
        name, data_dir
    ):
        expected = (
            f"{', '.join(KNOWN)}, another TFDS image-classification set, the path of an .npz or of a folder of texts"
        )
        raise unknown_name("data set", name, [*KNOWN, *tfds.list_builders(with_community_datasets=False)], expected)
    source = None if data_dir is None else str(data_dir)
    try:
        builder = tfds.builder(name, data_dir=source, file_format="array_record")
        if not builder.is_prepared() and find_spec("tensorflow") is None:
            raise ImportError("TensorFlow, by which TFDS prepares its sets, is not installed")
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # TFDS raises whatever its download, TensorFlow or the disk raised
        directory = "" if data_dir is None else f", data_dir={source!r}"
        raise RunError(
            f"the data set {name!r} is not prepared under {source or tfds.core.constants.DATA_DIR} and could not be "
            f"prepared here ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}).\n"
            "Prepare it once, on a machine with internet:\n"
            "  pip install 'mcjax[prepare]'\n"
            f'  python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{directory}, '
            "file_format='array_record').download_and_prepare()\"\n"
            "or give the path of an .npz with the arrays " + ", ".join(_ARRAYS) + "."
        ) from error
    features = builder.info.features
    if not {"image", "label"} <= set(features or ()):
        raise InputError(
            f"{name!r} is no image-classification set: it has {sorted(features or ())}, expected image and label."
        )
    splits = builder.info.splits
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise InputError(f"{name!r} has splits {sorted(splits)}, expected train, and test or validation.")
    train_arrays, test_arrays = _read_split(builder, "train", name), _read_split(builder, test, name)
    return from_arrays(*train_arrays, *test_arrays, num_classes=features["label"].num_classes, name=name)


def _prepared(name: str, data_dir: str | Path | None) -> bool:
    import tensorflow_datasets as tfds

    root = Path(data_dir if data_dir is not None else tfds.core.constants.DATA_DIR).expanduser()
    return (root / name.split(":")[0]).is_dir()


def _read_split(builder: Any, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split)
    images, labels = np.empty((0,), np.uint8), np.empty(len(source), np.int32)
    for i in range(len(source)):
        example = source[i]
        image = np.asarray(example["image"], np.uint8)
        if i == 0:
            images = np.empty((len(source), *image.shape), np.uint8)
        elif image.shape != images.shape[1:]:
            raise InputError(
                f"{name!r} has images of several sizes ({images.shape[1:]} and {image.shape}), expected one size. "
                "Resize them and give an .npz."
            )
        images[i], labels[i] = image, example["label"]
    return images, labels
