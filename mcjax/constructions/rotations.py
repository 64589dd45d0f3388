"""Paths of orthonormal frames and of matrices of full rank: nothing on the way loses rank."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

Array = Any


class Rotation(NamedTuple):
    """The one-parameter rotations that carry a frame to another: frame float (m, n), basis and swap (n, n).

    In `basis` they turn planes, each by s times its angle, float (n,); `swap` pairs the axes of every plane.
    """

    frame: Array
    basis: Array
    angles: Array
    swap: Array

    def __call__(self, s: Any) -> jax.Array:
        """The frame at s in [0, 1], its rows orthonormal: (m, n)."""
        turned = jnp.diag(jnp.cos(s * self.angles)) + jnp.sin(s * self.angles)[:, None] * self.swap
        return self.frame @ self.basis @ turned @ self.basis.T


def orientation(frame: np.ndarray) -> int:
    """1 or -1, the sign of the determinant, for a square frame; 0 for a wide one, which has none."""
    return int(np.sign(np.linalg.slogdet(frame)[0])) if frame.shape[0] == frame.shape[1] else 0


def rotation(start: np.ndarray, end: np.ndarray) -> Rotation:
    """The rotation from one frame, float64 (m, n), rows orthonormal, to another; of one orientation, if square."""
    m, n = start.shape
    # Completed to bases, the added rows as near to each other as can be.
    rest_1, rest_2 = (scipy.linalg.null_space(frame).T.reshape(n - m, n) for frame in (start, end))
    if n > m:
        u, _, v = np.linalg.svd(rest_1 @ rest_2.T)
        rest_2 = u @ v @ rest_2
        if np.linalg.det(np.concatenate([start, rest_1]).T @ np.concatenate([end, rest_2])) < 0:
            rest_2[-1] *= -1
    whole = np.concatenate([start, rest_1]).T @ np.concatenate([end, rest_2])
    turned, basis = scipy.linalg.schur(whole, output="real")
    angles, swap = np.zeros(n), np.zeros((n, n))
    single = []
    i = 0
    while i < n:
        if i + 1 < n and abs(turned[i + 1, i]) > 1e-12:
            angles[i : i + 2] = np.arctan2(turned[i + 1, i], turned[i, i])
            swap[i + 1, i], swap[i, i + 1] = 1, -1
            i += 2
        else:
            if turned[i, i] < 0:
                single.append(i)
            i += 1
    # Axes that are mirrored come in pairs, since the orientations are one: half a turn each.
    assert len(single) % 2 == 0, "frames of different orientations"
    for i, j in zip(single[::2], single[1::2], strict=True):
        angles[[i, j]] = np.pi
        swap[j, i], swap[i, j] = 1, -1
    return Rotation(start, basis, angles, swap)


class FullRank(NamedTuple):
    """A path of matrices of full row rank: (m, m) positive definite factors of both ends, times a rotating frame."""

    start: Array
    end: Array
    turning: Rotation

    def __call__(self, s: Any) -> jax.Array:
        """The matrix at s in [0, 1], (m, n)."""
        return self._factor(s) @ self.turning(s)

    def solve(self, s: Any, right: jax.Array) -> jax.Array:
        """The pseudo-inverse of the matrix at s times `right` (m, k): (n, k)."""
        return self.turning(s).T @ jnp.linalg.solve(self._factor(s), right)

    def _factor(self, s: Any) -> jax.Array:
        return (1 - s) * self.start + s * self.end


def full_rank(start: np.ndarray, end: np.ndarray) -> FullRank:
    """The path from one matrix of full row rank to another, float64 (m, n), by their polar decompositions.

    Its smallest singular value is at least the smaller one of the ends'. Square ones have to be of one orientation.
    """
    (frame_1, factor_1), (frame_2, factor_2) = (polar(matrix) for matrix in (start, end))
    return FullRank(factor_1, factor_2, rotation(frame_1, frame_2))


def polar(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frame (m, n) and positive semidefinite factor (m, m) whose product, factor first, the matrix is."""
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    return u @ v, (u * values) @ u.T
