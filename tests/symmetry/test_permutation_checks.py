"""Permutations from files, and soft ones: what comes back, and what is refused by name."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says

from mcjax import SpecError
from mcjax.symmetry import load_permutation, project_birkhoff, save_permutation
from mcjax.symmetry.permutation import check_doubly_stochastic


def test_saved_permutations_come_back(tmp_path):
    soft = np.eye(2, dtype=np.float32)
    P = {"conv_0": np.array([1, 2, 0], np.int32), "Block_0/inner": np.array([1, 0], np.int32), "soft": soft}
    for name in ("P.npz", "P"):  # the very path, whatever its ending
        save_permutation(tmp_path / name, P)
        again = load_permutation(tmp_path / name)
        chex.assert_trees_all_equal(again, P)
        chex.assert_trees_all_equal_dtypes(again, P)


def spoilt(path):
    """Files that are no saved permutations, one after the other."""
    save_permutation(path, {"g": np.arange(50)})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        yield path.write_bytes(content), ""
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    yield "one array", ""
    for group, array in {
        "pickled": np.array([None, 1], object),
        "images": np.zeros((2, 8, 8, 1), np.uint8),
        "floats": np.zeros(3, np.float32),
        "whole": np.zeros((3, 3), np.int32),
    }.items():
        np.savez(path, **{group: array})
        yield group, "" if array.dtype == object else f"'{group}' is {array.dtype} of shape {array.shape}"
    yield path.unlink(), ""


def test_files_without_a_permutation_are_refused(tmp_path):
    for _, named in spoilt(tmp_path / "P.npz"):
        with says(SpecError, "P.npz", named):
            load_permutation(tmp_path / "P.npz")


def near_uniform(off=0.0, least=0.25):
    """4x4, its least entry as given, its first row's and first column's sums off by so much."""
    M = np.full((4, 4), 0.25)
    M[1:3, 1:3] += (0.25 - least) * np.array([[1, -1], [-1, 1]])
    M[0, 0] += off
    return M


ROWS = np.array([[0.5, 0.5], [0.9, 0.1]])


def test_nearly_doubly_stochastic_matrices_pass():
    for p in (
        near_uniform(),
        near_uniform(off=9e-4),
        near_uniform(off=-9e-4),
        near_uniform(least=-0.09),
        np.eye(4, dtype=np.float32)[[2, 0, 1, 3]],
        np.stack([near_uniform(), np.eye(4)]),
        jax.jit(project_birkhoff)(np.random.default_rng(0).normal(size=(50, 16, 16)).astype(np.float32)),
        np.array([0, 0, 7]),  # hard ones are another check's
        np.array([[1, 0, 2], [2, 1, 0]]),
    ):
        check_doubly_stochastic({"g": p, "h": jnp.eye(3)})
    jax.eval_shape(lambda p: check_doubly_stochastic({"g": p}), np.ones((3, 3)))  # traced: not looked into


@pytest.mark.parametrize(
    ("p", "named"),
    [
        (near_uniform(off=0.0011), "g: sums off by 0.0011, "),
        (near_uniform(off=-0.2), "g: sums off by 0.2, "),
        (near_uniform(least=-0.11), "g: sums off by 0, least entry -0.11"),
        (np.stack([near_uniform(), 2 * near_uniform()]), "g: sums off by 1, "),
        (np.eye(4)[[0, 0, 1, 2]], "g: sums off by 1, "),
        (ROWS, "g: sums off by 0.4"),
        (ROWS.T, "g: sums off by 0.4"),
        (np.full((4, 4), np.nan), "g: sums off by nan"),
        (np.full((4, 4), np.inf), "g: sums off by inf"),
    ],
)
def test_matrices_that_are_not_doubly_stochastic_are_named(p, named):
    with pytest.raises(SpecError) as caught:
        check_doubly_stochastic({"good": np.eye(3), "g": p, "also": ROWS})
    assert named in str(caught.value)
    assert "also: sums off by 0.4" in str(caught.value)
    assert "good" not in str(caught.value)
