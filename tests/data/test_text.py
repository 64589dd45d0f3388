"""Texts as tokens: words counted by hand, sequences put together again, folders that are refused."""

import jax
import numpy as np
import optax
import pytest
from refusals import says

from mcjax import InputError, TrainConfig, match_activations, models, supervised, train_endpoints, trees
from mcjax.data import load
from mcjax.data.text import read_corpus
from mcjax.training import Criterion

TRAIN = "the cat saw the dog\nthe dog saw a cat\n"
VALID = "a cat saw a dog\n"
TEST = "the dog saw the cat\nthe cat\n"


def folder(path, train=TRAIN, valid=VALID, test=TEST, names=("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")):
    for name, text in zip(names, (train, valid, test), strict=True):
        if text is not None:
            (path / name).write_text(text)
    return path


def test_words_are_numbered_by_how_often_they_occur(tmp_path):
    corpus = read_corpus(folder(tmp_path))
    # the 3; <eos>, cat, dog, saw 2; a 1
    assert corpus.vocabulary == ("the", "<eos>", "cat", "dog", "saw", "a")
    assert corpus.tokens["train"].tolist() == [0, 2, 4, 0, 3, 1, 0, 3, 4, 5, 2, 1]
    assert corpus.tokens["validation"].tolist() == [5, 2, 4, 5, 3, 1]
    assert corpus.tokens["test"].tolist() == [0, 3, 4, 0, 2, 1, 0, 2, 1]
    assert all(tokens.dtype == np.int32 for tokens in corpus.tokens.values())


@pytest.mark.parametrize(
    "names", [("train.txt", "validation.txt", "test.txt"), ("a-train.txt", "a_dev.txt", "a.TEST.txt")]
)
def test_files_may_be_called_otherwise(tmp_path, names):
    assert len(read_corpus(folder(tmp_path, names=names)).tokens["test"]) == 9


def test_every_word_is_to_be_told_from_those_before(tmp_path):
    data = load(folder(tmp_path), sequence_length=5)
    tokens = read_corpus(tmp_path).tokens
    assert data.num_classes == 6
    assert data.image_shape == (5,)
    assert data.name == tmp_path.name
    for split, count in (("train", 2), ("validation", 1), ("test", 1)):
        x, y = (getattr(data, f"{split}_{what}") for what in ("images", "labels"))
        assert x.shape == y.shape == (count, 5)
        np.testing.assert_array_equal(x.ravel(), tokens[split][: 5 * count])
        np.testing.assert_array_equal(y.ravel(), tokens[split][1 : 5 * count + 1])


def test_a_vocabulary_that_is_limited(tmp_path):
    corpus = read_corpus(folder(tmp_path), vocabulary=4)
    assert corpus.vocabulary == ("the", "<eos>", "cat", "<unk>")
    assert corpus.tokens["validation"].tolist() == [3, 2, 3, 3, 3, 1]
    assert load(str(tmp_path), sequence_length=2, vocabulary=4).num_classes == 4
    # Where the text has the word itself, it keeps its place.
    folder(tmp_path, train="<unk> <unk> <unk> a b b\n", valid="c\n", test="c\n")
    with says(InputError, "'c'", "line 1"):
        read_corpus(tmp_path)
    assert read_corpus(tmp_path, vocabulary=2).vocabulary == ("<unk>", "b")


def test_a_vocabulary_that_is_given(tmp_path):
    folder(tmp_path)
    (tmp_path / "vocabulary.txt").write_text("dog\ncat\n\nthe\na\nsaw\n<eos>\nbird\n")
    corpus = read_corpus(tmp_path)
    assert corpus.vocabulary[:2] == ("dog", "cat")
    assert len(corpus.vocabulary) == 7
    (tmp_path / "vocabulary.txt").write_text("dog\ncat\nthe\na\nsaw\n")
    assert read_corpus(tmp_path).vocabulary[-1] == "<eos>"
    assert corpus.tokens["validation"].tolist() == [3, 1, 4, 3, 0, 5]


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"valid": None}, {}, ("ptb.test.txt, ptb.train.txt", "validation", "valid.txt")),
        ({"train": "", "test": "a\n"}, {}, ("ptb.train.txt",)),
        ({"test": "the bird saw\n"}, {}, ("test", "'bird'", "line 1", "6 words")),
        ({"valid": "a cat\nthe\na fox\n"}, {}, ("validation", "'fox'", "line 3", "vocabulary.txt")),
        ({"train": None, "valid": None, "test": None}, {}, ("no .txt file", "train")),
        ({}, {"sequence_length": 20}, ("12 tokens", "sequence_length=20")),
        ({}, {"sequence_length": 0}, ("sequence_length=0",)),
        ({}, {"vocabulary": 1}, ("vocabulary=1",)),
        ({"other.train.txt": b"a\n"}, {}, ("other.train.txt, ptb.train.txt", "train")),
        ({"vocabulary.txt": b"dog\ncat\ndog\n"}, {}, ("vocabulary.txt", "'dog'")),
        ({"vocabulary.txt": b"\xff\xfe\xff"}, {}, ("vocabulary.txt", "UTF-8")),
    ],
)
def test_bad_folders_are_refused(tmp_path, changes, options, words):
    texts = {name: text for name, text in changes.items() if not name.endswith(".txt")}
    for name in changes.keys() - texts.keys():
        (tmp_path / name).write_bytes(changes[name])
    with says(InputError, *words):
        load(str(folder(tmp_path, **texts)), **{"sequence_length": 4, **options})


def test_a_folder_by_the_name_of_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "cat").mkdir()
    assert load("digits").image_shape == (8, 8, 1)
    with says(InputError, "'cat'"):
        load("cat")
    folder(tmp_path / "cat")
    assert load("cat", sequence_length=3).image_shape == (3,)


def test_a_language_is_learnt_and_units_are_matched(tmp_path, key):
    # Four words that always follow one another: perplexity can fall to almost 1.
    text = "a b c d a b c d a b c d\n" * 30
    data = load(str(folder(tmp_path, text, text, text)), sequence_length=6)
    model = models.create("lstm", data.num_classes, data.image_shape, width=0.03, layers=1)
    task = supervised(model, data)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05))
    config = TrainConfig(epochs=40, batch_size=10, optimizer=optimizer)
    perplexity = Criterion("perplexity", "validation")
    found = train_endpoints(jax.random.split(key, 2), task, config, target=2.0, criterion=perplexity)
    assert (found.criterion <= 2.0).all()
    ends = [trees.index(found.theta, i) for i in range(2)]
    match = match_activations(task, *ends)
    assert match.P.keys() == {"embedding", "lstm_0"}
    assert match.info["after"]["lstm_0"] > match.info["before"]["lstm_0"]
