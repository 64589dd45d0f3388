"""Lanczos and extreme eigenpairs: against numpy's eigenvalues and planted spectra."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscapes import THETA, form, planted
from variables import alive

import mcjax
from mcjax import InputError, supervised, trees
from mcjax.hessian.full_batch import full_batch_loss
from mcjax.hessian.lanczos import extreme_eigenpairs, lanczos
from mcjax.hessian.products import dense_hessian
from mcjax.runtime.mesh import make_mesh

SPECTRA = {
    "distinct": np.linspace(-2, 5, 12),
    "degenerate": np.repeat([-1.0, 0, 3], 4),
    "one apart": np.r_[np.zeros(11), 7],
    "zero": np.zeros(12),
    "multiple of the identity": np.full(12, -2.5),
    "wide": np.r_[1e6, np.linspace(1e-3, 1, 11)],
}


def flat(vectors):
    """Trees along a leading axis as the rows of a matrix."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(vectors)], 1)


@jax.jit
def reduce(a, start):
    return lanczos(lambda vector: a @ vector, start, 12)


def test_all_steps_have_the_spectrum_whatever_it_is():
    rng = np.random.default_rng(1)
    matrices = np.stack([planted(values) for values in SPECTRA.values()])
    with jax.enable_x64(True):
        for start in (rng.normal(size=12), np.zeros(12), np.eye(12)[3]):
            # Many at once under vmap, each breaking down in its own place.
            reached = jax.vmap(reduce, (0, None))(matrices, jnp.asarray(start))
            for i, (name, values) in enumerate(SPECTRA.items()):
                one = trees.index(reached, i)
                scale = max(1, np.abs(values).max())
                basis, dense = np.asarray(one.basis), np.asarray(one.dense())
                np.testing.assert_allclose(basis @ basis.T, np.eye(12), atol=1e-12, err_msg=name)
                np.testing.assert_allclose(basis @ matrices[i] @ basis.T, dense, atol=1e-10 * scale, err_msg=name)
                np.testing.assert_allclose(np.linalg.eigvalsh(dense), np.sort(values), atol=1e-10 * scale)
                if start.any():
                    np.testing.assert_allclose(basis[0], start / np.linalg.norm(start), atol=1e-14)


def test_float32_stays_orthogonal_on_a_wide_spectrum():
    a = planted(SPECTRA["wide"]).astype(np.float32)
    reached = reduce(a, jnp.ones(12))
    np.testing.assert_allclose(reached.basis @ reached.basis.T, np.eye(12), atol=1e-5)
    assert np.isfinite(np.asarray(reached.diagonal)).all()


def test_both_ends_are_those_of_numpy():
    a = planted(SPECTRA["distinct"])
    for which, expected in (
        ("both", [5, 5 - 7 / 11, -2, -2 + 7 / 11]),
        ("largest", [5, 5 - 7 / 11]),
        ("smallest", [-2, -2 + 7 / 11]),
    ):
        found = extreme_eigenpairs(jax.random.key(0), form(a), THETA, count=2, which=which)
        np.testing.assert_allclose(found.values, expected, atol=1e-5)
        assert found.vectors["u"].shape == (len(expected), 4, 2)
        vectors = flat(found.vectors)
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(expected)), atol=1e-5)
        np.testing.assert_allclose(vectors @ a, np.asarray(found.values)[:, None] * vectors, atol=1e-5)
        assert found.residuals.max() < 1e-5


def test_residuals_tell_of_too_few_steps():
    a = planted(np.linspace(0, 1, 12))
    found = extreme_eigenpairs(jax.random.key(0), form(a), THETA, steps=4)
    values = np.linalg.eigvalsh(a)
    for value, residual in zip(found.values, found.residuals, strict=True):
        nearest = np.abs(values - value).min()
        assert 1e-4 < nearest <= residual + 1e-6
    vectors = flat(found.vectors)
    expected = np.linalg.norm(vectors @ a - np.asarray(found.values)[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residuals, expected, atol=1e-5)


def test_networks_have_their_spectra_in_one_program_for_a_kind(key, line, compiled):
    points, model = line
    for i, split in enumerate((points, points.take(20, 20))):
        theta = alive(model, i)
        loss = full_batch_loss(supervised(model, split), examples=20)
        found = extreme_eigenpairs(key, loss, theta, curvature="gauss_newton")
    assert sum("_eigenpairs" in name for name in compiled) == 1
    matrix = np.asarray(dense_hessian(loss, theta, curvature="gauss_newton"), np.float64)
    values = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(found.values, [values[-1], values[0]], atol=1e-5)


def test_bad_arguments_are_refused(key):
    loss = form(np.eye(12))
    for named, call in (
        ("steps=13, .* 1 to 12", lambda: lanczos(lambda v: v, jnp.ones(12), 13)),
        (r"start.*\(3, 4\)", lambda: lanczos(lambda v: v, jnp.ones((3, 4)), 2)),
        ("int for a key", lambda: extreme_eigenpairs(0, loss, THETA)),
        ("'low'", lambda: extreme_eigenpairs(key, loss, THETA, which="low")),
        ("count=13", lambda: extreme_eigenpairs(key, loss, THETA, count=13)),
        ("steps=1, .* 2", lambda: extreme_eigenpairs(key, loss, THETA, count=2, steps=1)),
        ("fisher", lambda: extreme_eigenpairs(key, loss, THETA, curvature="fisher")),
    ):
        with pytest.raises(InputError, match=named):
            call()


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) >= 8, reason="this is it")
def test_on_eight_virtual_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", "spread", __file__]
    root = Path(mcjax.__file__).parents[1]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout, "the process did not have its eight devices"


@pytest.mark.skipif(len(jax.devices()) < 8, reason="run by test_on_eight_virtual_devices")
def test_examples_spread_over_all_devices_give_the_numbers_of_one(key, tiny_task, tiny_model):
    theta = alive(tiny_model)
    # 50 examples at most are 40 for three equal batches, five on each of eight devices.
    mesh = make_mesh(2, 4)
    one, many = (full_batch_loss(tiny_task, batch_size=50, mesh=each) for each in (None, mesh))
    images, _ = many.args[1].batches
    assert images.shape == (3, 40, 8, 8, 1)
    assert images.sharding.shard_shape(images.shape) == (3, 5, 8, 8, 1)
    compiled = jax.jit(lambda loss, theta: jax.grad(loss)(theta)).lower(many, theta).compile()
    assert "f32[5,64]" in compiled.as_text()
    assert "f32[40,64]" not in compiled.as_text()
    # 115 examples are three batches of 39, and on the devices two of 40 and a rest.
    uneven = full_batch_loss(tiny_task, examples=115, batch_size=50, mesh=mesh).args[1]
    assert (uneven.size, uneven.batches[0].shape[:2], len(uneven.rest[0])) == (115, (2, 40), 35)
    got, expected = (extreme_eigenpairs(key, loss, theta, steps=8).values for loss in (many, one))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=2e-5)
