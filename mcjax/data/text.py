"""Texts as tokens, for language models."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mcjax.errors import InputError
from mcjax.shown import short_repr

SPLITS = {"train": ("train",), "validation": ("valid", "validation", "dev"), "test": ("test",)}
"""Parts of a file name, between dots, dashes and underscores, that mark the text of a split."""

END, UNKNOWN = "<eos>", "<unk>"
"""The token at the end of every line, and the token that replaces words outside the vocabulary."""


@short_repr
class Corpus(NamedTuple):
    """The tokens of each split, int32 (tokens,), and the vocabulary: the word of each token."""

    tokens: dict[str, np.ndarray]
    vocabulary: tuple[str, ...]


def read_corpus(folder: Path, vocabulary: int | None = None) -> Corpus:
    """Read the three texts of a folder as tokens. Words are separated by whitespace, and every line ends with `<eos>`.

    The vocabulary is that of the training text, by decreasing frequency and then alphabetically. If the folder has a
    file `vocabulary.txt`, it is the lines of this file, and `<eos>`.

    Args:
        folder: A folder with one `.txt` file for each split, such as `ptb.train.txt`, `valid.txt` and `test.txt`.
        vocabulary: Size of the vocabulary, with `<unk>`, which replaces all words after the first. None: all words.

    Returns:
        The corpus.

    Raises:
        InputError: If a file is missing, ambiguous or not text, or a word is not in the vocabulary.
    """
    texts = {split: _read(_file(folder, split, marks)) for split, marks in SPLITS.items()}
    # The vocabulary: from the file if there is one, otherwise from the training text.
    given = folder / "vocabulary.txt"
    if given.exists():
        words = [line.strip() for line in _text(given).splitlines() if line.strip()]
        words += [END] * (END not in words)
        if twice := [word for word, count in Counter(words).items() if count > 1]:
            raise InputError(f"{given} has {twice[0]!r} twice, expected every word on one line.")
    else:
        counts = Counter(word for line in texts["train"] for word in line)
        words = sorted(counts, key=lambda word: (-counts[word], word))
    if vocabulary is not None:
        if vocabulary < 2:
            raise InputError(f"got vocabulary={vocabulary}, expected at least 2 words.")
        words = words[:vocabulary] if UNKNOWN in words[:vocabulary] else [*words[: vocabulary - 1], UNKNOWN]
        known = set(words)
        texts = {
            split: [[word if word in known else UNKNOWN for word in line] for line in lines]
            for split, lines in texts.items()
        }
    numbers = {word: number for number, word in enumerate(words)}
    tokens = {split: _numbered(folder, split, lines, numbers) for split, lines in texts.items()}
    return Corpus(tokens, tuple(words))


def _file(folder: Path, split: str, marks: tuple[str, ...]) -> Path:
    def parts(path: Path) -> set[str]:
        return set(path.stem.lower().replace("-", ".").replace("_", ".").split("."))

    files = sorted(folder.glob("*.txt"))
    found = [path for path in files if parts(path) & set(marks)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(path.name for path in (found or files)) or "no .txt file"
    raise InputError(
        f"{folder} has {there}: expected one {split} text, called {marks[0]}.txt or NAME.{marks[0]}.txt, beside "
        f"those of {' and '.join(other for other in SPLITS if other != split)}."
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}.") from error


def _read(path: Path) -> list[list[str]]:
    lines = [[*line.split(), END] for line in _text(path).splitlines()]
    if not lines:
        raise InputError(f"{path} is empty, expected lines of words.")
    return lines


def _numbered(folder: Path, split: str, lines: list[list[str]], numbers: dict[str, int]) -> np.ndarray:
    for at, line in enumerate(lines):
        for word in line:
            if word not in numbers:
                raise InputError(
                    f"{folder}: the {split} text has {word!r} in line {at + 1}, which is not in the vocabulary of "
                    f"{len(numbers)} words. Add it to vocabulary.txt (one word a line), or give "
                    f"vocabulary={len(numbers)}: words beyond these are then {UNKNOWN}."
                )
    return np.array([numbers[word] for line in lines for word in line], np.int32)
