"""Data sets by name: scikit-learn's digits, TFDS sets, .npz files and folders of texts."""

import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from mcjax.data.datasets import ARRAYS, Dataset, from_arrays
from mcjax.data.text import read_corpus
from mcjax.errors import InputError, RunError, unknown_name

KNOWN = ("digits", "cifar10", "cifar100", "stl10", "mnist", "fashion_mnist")
"""Names listed by the command line's help; every other TFDS image-classification set can be loaded too."""


def load(
    name: str | Path, data_dir: str | Path | None = None, *, sequence_length: int = 20, vocabulary: int | None = None
) -> Dataset:
    """Load a data set by name.

    Args:
        name: "digits" (scikit-learn's); a TFDS image-classification set; the path of an `.npz` with the arrays of
            `from_arrays`, and optionally num_classes, mean and std; or a folder with one file each of training,
            validation and test text (`mcjax.data.text`), for predicting each word from those before it.
        data_dir: The folder of TFDS. None: the default of TFDS.
        sequence_length: Words per sequence of a text.
        vocabulary: Size of a text's vocabulary, with `<unk>`, which replaces all rarer words. None: all words.

    Returns:
        The data set.

    Raises:
        InputError: If there is no such set (the message names the nearest), or it does not have the expected form.
        RunError: If TFDS has not prepared the set and cannot prepare it here.

    Example::

        data = load("digits")
        print(data.image_shape, data.num_classes, len(data.train_labels))
    """
    name = str(name)
    if name == "digits":
        return _digits()
    if name.endswith(".npz"):
        return _npz(Path(name))
    if _is_folder(name):
        return _text(Path(name), sequence_length, vocabulary)
    return _tfds(name, data_dir)


def _text(folder: Path, length: int, vocabulary: int | None) -> Dataset:
    corpus = read_corpus(folder, vocabulary)
    parts = {split: _sequences(folder, tokens, length) for split, tokens in corpus.tokens.items()}
    return Dataset(
        *parts["train"],
        *parts["test"],
        num_classes=len(corpus.vocabulary),
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
    # Shuffle before splitting, since the file is ordered by writer.
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return from_arrays(images[train], digits.target[train], images[test], digits.target[test], 10, "digits")


def _npz(path: Path) -> Dataset:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := set(ARRAYS) - set(file.files):
                raise InputError(
                    f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(file.files) or 'nothing'}."
                )
            arrays = {name: file[name] for name in ARRAYS}
            options = {name: file[name] for name in ("num_classes", "mean", "std") if name in file.files}
    except FileNotFoundError:
        raise InputError(f"no data set at {path}: the file does not exist.") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an .npz with the arrays {', '.join(ARRAYS)}: {error}") from error
    return from_arrays(**arrays, **options, name=path.stem)


def _tfds(name: str, data_dir: str | Path | None) -> Dataset:
    import tensorflow_datasets as tfds

    if not _of_tfds(name) and not _prepared(name, data_dir):
        expected = (
            f"{', '.join(KNOWN)}, another TFDS image-classification set, the path of an .npz or of a folder of texts"
        )
        raise unknown_name("data set", name, [*KNOWN, *tfds.list_builders(with_community_datasets=False)], expected)
    source = None if data_dir is None else str(data_dir)
    try:
        builder = tfds.builder(name, data_dir=source, file_format="array_record")
        if not builder.is_prepared() and find_spec("tensorflow") is None:
            raise ImportError("TensorFlow, which TFDS needs to prepare its sets, is not installed")
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # TFDS passes on any error of the download, of TensorFlow and of the disk
        directory = "" if data_dir is None else f", data_dir={source!r}"
        raise RunError(
            f"the data set {name!r} is not prepared under {source or tfds.core.constants.DATA_DIR} and could not be "
            f"prepared here ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}).\n"
            "Prepare it once, on a machine with internet:\n"
            "  pip install 'mcjax[prepare]'\n"
            f'  python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{directory}, '
            "file_format='array_record').download_and_prepare()\"\n"
            "or give the path of an .npz with the arrays " + ", ".join(ARRAYS) + "."
        ) from error
    features = builder.info.features
    if not {"image", "label"} <= set(features or ()):
        raise InputError(
            f"{name!r} is not an image-classification set: it has {sorted(features or ())}, expected image and label."
        )
    splits = builder.info.splits
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise InputError(f"{name!r} has splits {sorted(splits)}, expected train, and test or validation.")
    train_arrays, test_arrays = _read_split(builder, "train", name), _read_split(builder, test, name)
    return from_arrays(*train_arrays, *test_arrays, num_classes=features["label"].num_classes, name=name)


def runs_no_code(name: str) -> bool:
    """Whether a set is read by the code that is installed alone: a prepared one of another name can bring its own."""
    return name == "digits" or name.endswith(".npz") or _is_folder(name) or _of_tfds(name)


def _is_folder(name: str) -> bool:
    # A bare name of a folder without texts is taken as the name of a TFDS set.
    return Path(name).is_dir() and (len(Path(name).parts) > 1 or any(Path(name).glob("*.txt")))


def _of_tfds(name: str) -> bool:
    import tensorflow_datasets as tfds

    return name.split("/")[0].split(":")[0] in tfds.list_builders(with_community_datasets=False)


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
