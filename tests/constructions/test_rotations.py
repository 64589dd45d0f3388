"""Frames that turn, and matrices that keep their rank on the way."""

import jax
import numpy as np
import pytest
from scipy.linalg import expm, logm

from mcjax.constructions.rotations import full_rank_path, orientation, polar, rotation

TS = np.linspace(0, 1, 41)


def frame(rng, m, n):
    return np.linalg.qr(rng.normal(size=(n, n)))[0][:m]


def along(path):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(lambda t: path(t)))(TS))


@pytest.mark.parametrize(("m", "n"), [(1, 2), (1, 1), (2, 2), (2, 5), (3, 4), (4, 4), (3, 9)])
def test_a_frame_turns(m, n):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        start, end = frame(rng, m, n), frame(rng, m, n)
        if orientation(start) != orientation(end):
            end[0] *= -1
        frames = along(rotation(start, end))
        np.testing.assert_allclose(frames[[0, -1]], [start, end], atol=1e-12)
        squares = frames @ frames.swapaxes(1, 2)
        np.testing.assert_allclose(squares, np.broadcast_to(np.eye(m), (len(TS), m, m)), atol=1e-12)
        # At one speed: equal steps.
        steps = np.linalg.norm(np.diff(frames, axis=0), axis=(1, 2))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9, atol=1e-12)


def test_it_is_the_exponential_of_the_logarithm():
    rng = np.random.default_rng(0)
    end = frame(rng, 4, 4)
    end[0] *= orientation(end)
    generator = np.real(logm(end))
    frames = along(rotation(np.eye(4), end))
    np.testing.assert_allclose(frames[20], expm(0.5 * generator), atol=1e-9)


def test_half_turns_come_in_pairs():
    start, end = np.eye(5), np.diag([-1.0, 1, -1, -1, -1])
    frames = along(rotation(start, end))
    np.testing.assert_allclose(frames[-1], end, atol=1e-12)
    assert np.linalg.det(frames).min() > 0.999
    with pytest.raises(AssertionError, match="orientations"):
        rotation(np.eye(3), np.diag([1.0, 1, -1]))


@pytest.mark.parametrize(("m", "n"), [(1, 3), (3, 3), (3, 5)])
def test_no_rank_is_lost(m, n):
    rng = np.random.default_rng(1)
    start, end = rng.normal(size=(m, n)), rng.normal(size=(m, n))
    if m == n and orientation(start) != orientation(end):
        end[0] *= -1
    path = full_rank_path(start, end)
    matrices = along(path)
    np.testing.assert_allclose(matrices[[0, -1]], [start, end], atol=1e-12)
    least = np.linalg.svd(matrices, compute_uv=False)[:, -1]
    assert least.min() >= min(least[0], least[-1]) - 1e-12
    right = rng.normal(size=(m, 2))
    solved = along(lambda t: path.solve(t, right))
    np.testing.assert_allclose(solved, np.linalg.pinv(matrices) @ right, atol=1e-9)


def test_the_polar_decomposition():
    matrix = np.random.default_rng(0).normal(size=(3, 5))
    rows, factor = polar(matrix)
    np.testing.assert_allclose(factor @ rows, matrix, atol=1e-12)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(factor, factor.T, atol=1e-12)
    assert np.linalg.eigvalsh(factor).min() > 0
    assert orientation(np.diag([1.0, -2])) == -1
    assert orientation(matrix) == 0
