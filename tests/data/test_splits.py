"""Data sets divided by class: every image once, the shares of every class, data that cannot be divided."""

from dataclasses import replace

import numpy as np
import pytest
from refusals import says

from mcjax import InputError
from mcjax.data import regression, split_by_class


@pytest.fixture
def numbered(tiny_data):
    """Images whose first pixel is their number, five classes of 20 to 28 images."""
    images = np.zeros((120, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(120)
    labels = np.repeat(np.arange(5), (20, 22, 24, 26, 28)).astype(np.int32)
    order = np.random.default_rng(1).permutation(120)
    return replace(
        tiny_data,
        train_images=images,
        train_labels=labels[order],
        test_images=images,
        test_labels=labels,
        num_classes=5,
    )


def numbers(data):
    return data.train_images[:, 0, 0, 0]


def test_every_image_is_in_exactly_one_with_its_label(numbered):
    first, second = split_by_class(numbered)
    np.testing.assert_array_equal(np.sort(np.concatenate([numbers(first), numbers(second)])), np.arange(120))
    for part in (first, second):
        np.testing.assert_array_equal(part.train_labels, numbered.train_labels[numbers(part)])
        assert (np.diff(numbers(part).astype(int)) > 0).all()
        for name in ("test_images", "test_labels", "mean", "std", "num_classes", "name"):
            assert getattr(part, name) is getattr(numbered, name)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.0, 1.0])
def test_shares_of_every_class(numbered, share):
    counts = [np.bincount(part.train_labels, minlength=5) for part in split_by_class(numbered, share)]
    # Of five classes three are the first half.
    first = [round(share * 20), round(share * 22), round(share * 24), round((1 - share) * 26), round((1 - share) * 28)]
    np.testing.assert_array_equal(counts[0], first)
    np.testing.assert_array_equal(counts[0] + counts[1], (20, 22, 24, 26, 28))


def test_the_seed_chooses_the_images(numbered):
    one, again, other = (split_by_class(numbered, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(numbers(one), numbers(again))
    assert set(numbers(one)) != set(numbers(other))


def test_data_that_cannot_be_divided_are_refused(numbered):
    numbers = regression(np.ones((4, 2)), np.ones((4, 1)), np.ones((1, 2)), np.ones((1, 1)))
    for data, options, words in (
        *(
            (numbered, {"share": share}, (f"share={share!r}", "[0, 1]"))
            for share in (-0.1, 1.1, float("nan"), "0.8", None)
        ),
        (numbered, {"seed": -1}, ("seed=-1",)),
        (replace(numbered, train_labels=np.zeros(120, np.int32)), {"share": 1.0}, ("share=1.0", "bars", "120")),
        (numbers, {}, ("float32 (4, 1)",)),
        (
            replace(numbered, **dict.fromkeys(("train_labels", "test_labels"), np.zeros((120, 3), np.int32))),
            {},
            ("int32 (120, 3)",),
        ),
    ):
        with says(InputError, *words):
            split_by_class(data, **options)
