"""Paths of orthonormal frames, and of matrices of full rank, along which the rank is constant."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.shown import short_repr

Array = Any


@short_repr
class Rotation(NamedTuple):
    """A one-parameter rotation of a frame: s in [0, 1] -> frame (m, n) with orthonormal rows.

    Attributes:
        frame: The frame at s = 0, (m, n).
        basis: An orthonormal basis, pairs of whose vectors span the planes of the rotation, (n, n).
        angles: The angle of rotation of each basis vector at s = 1, (n,); zero for a fixed one.
        swap: The generator of the rotation for unit angles: 1 and -1 for the two vectors of each plane, (n, n).
    """

    frame: Array
    basis: Array
    angles: Array
    swap: Array

    def __call__(self, s: Any) -> jax.Array:
        """The frame at s."""
        rotated = jnp.diag(jnp.cos(s * self.angles)) + jnp.sin(s * self.angles)[:, None] * self.swap
        return self.frame @ self.basis @ rotated @ self.basis.T


def orientation(frame: np.ndarray) -> int:
    """The sign of the determinant of a square matrix, 1 or -1; 0 for a wide matrix."""
    return int(np.sign(np.linalg.slogdet(frame)[0])) if frame.shape[0] == frame.shape[1] else 0


def rotation(start: np.ndarray, end: np.ndarray) -> Rotation:
    """The rotation from one frame to another, float64 (m, n). Square frames must have the same orientation."""
    # It takes a sixth of the time that the import of mcjax takes.
    import scipy.linalg

    m, n = start.shape
    # Complete both frames to bases of one orientation. The added rows are as close as possible (Procrustes problem).
    rest_1, rest_2 = (scipy.linalg.null_space(frame).T.reshape(n - m, n) for frame in (start, end))
    if n > m:
        u, _, v = np.linalg.svd(rest_1 @ rest_2.T)
        rest_2 = u @ v @ rest_2
        if np.linalg.det(np.concatenate([start, rest_1]).T @ np.concatenate([end, rest_2])) < 0:
            rest_2[-1] *= -1
    whole = np.concatenate([start, rest_1]).T @ np.concatenate([end, rest_2])
    # The rotation that maps one basis to the other. The real Schur form of an orthogonal matrix is block diagonal:
    # rotations of planes (2 x 2), and 1 or -1.
    blocks, basis = scipy.linalg.schur(whole, output="real")
    angles, swap = np.zeros(n), np.zeros((n, n))
    reflected = []
    i = 0
    while i < n:
        if i + 1 < n and abs(blocks[i + 1, i]) > 1e-12:
            angles[i : i + 2] = np.arctan2(blocks[i + 1, i], blocks[i, i])
            swap[i + 1, i], swap[i, i + 1] = 1, -1
            i += 2
        else:
            if blocks[i, i] < 0:
                reflected.append(i)
            i += 1
    # The number of -1 is even for bases of one orientation: each pair is a rotation by pi.
    assert len(reflected) % 2 == 0, "frames of different orientations"
    for i, j in zip(reflected[::2], reflected[1::2], strict=True):
        angles[[i, j]] = np.pi
        swap[j, i], swap[i, j] = 1, -1
    return Rotation(start, basis, angles, swap)


@short_repr
class FullRankPath(NamedTuple):
    """A path of matrices of full row rank: a positive definite factor on a straight line, times a rotating frame.

    Attributes:
        start: The factor at s = 0, (m, m).
        end: The factor at s = 1, (m, m).
        frame: The rotation of the frame.
    """

    start: Array
    end: Array
    frame: Rotation

    def __call__(self, s: Any) -> jax.Array:
        """The matrix at s in [0, 1], (m, n)."""
        return self._factor(s) @ self.frame(s)

    def solve(self, s: Any, right: jax.Array) -> jax.Array:
        """The pseudo-inverse of the matrix at s times `right` (m, k): (n, k)."""
        return self.frame(s).T @ jnp.linalg.solve(self._factor(s), right)

    def _factor(self, s: Any) -> jax.Array:
        return (1 - s) * self.start + s * self.end


def full_rank_path(start: np.ndarray, end: np.ndarray) -> FullRankPath:
    """The path between two matrices of full row rank, float64 (m, n), by their polar decompositions.

    Its smallest singular value is at least the smaller of those of the ends. Square matrices must have the same
    orientation.
    """
    (frame_1, factor_1), (frame_2, factor_2) = (polar(matrix) for matrix in (start, end))
    return FullRankPath(factor_1, factor_2, rotation(frame_1, frame_2))


def polar(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The polar decomposition: frame (m, n) and positive semidefinite factor (m, m), with matrix = factor @ frame."""
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    return u @ v, (u * values) @ u.T
