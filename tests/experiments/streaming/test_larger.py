"""Images that are made anew: the same in every pass, of classes that a network learns, and the rows of a small run."""

import jax
import numpy as np
import optax

from experiments.streaming.larger import CLASSES, Images, larger_than_memory, patches_task
from mcjax import TrainConfig, evaluate, train_endpoints


def test_every_pass_has_the_same_images_which_are_brighter_by_their_class():
    source = Images(3, 8)
    one, two = list(source), list(source)
    assert len(one) == len(source)
    assert all(
        np.array_equal(a, b) for first, second in zip(one, two, strict=True) for a, b in zip(first, second, strict=True)
    )
    images, labels = map(np.concatenate, zip(*one, strict=True))
    assert images.shape == (24, 64, 64, 3)
    assert images.dtype == np.uint8
    assert not np.array_equal(images[0], images[8])
    # Noise from 0 to 127, whose mean is 63.5, on 32 for every class.
    np.testing.assert_allclose(images.mean((1, 2, 3)), 63.5 + 32 * labels, atol=2)


def test_the_classes_are_learned_from_the_stream():
    task = patches_task(Images(20, 16))
    config = TrainConfig(epochs=2, batch_size=16, optimizer=optax.adam(1e-2))
    ends = train_endpoints(jax.random.split(jax.random.key(0)), task, config)
    assert (evaluate(task, ends.theta)[0]["loss"] < np.log(CLASSES) / 2).all()


def test_rows_of_a_small_run():
    rows = larger_than_memory(1e-3, 16, 1 << 20)
    assert [row[0] for row in rows] == ["source alone", "epoch", "evaluate", "match"]
    assert [row[1] for row in rows] == ["80", "80", "80", "16"]
