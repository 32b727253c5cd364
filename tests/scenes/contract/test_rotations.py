"""Quaternions to matrices: one formula for numpy and JAX, checked against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from scenes.contract.rotations import quat_to_matrix, quats_to_matrices

QUATS = Rotation.random(24, random_state=0).as_quat(scalar_first=True).reshape(2, 3, 4, 4)


def test_matrices_are_scipys_and_keep_the_precision():
    want = Rotation.from_quat(QUATS.reshape(-1, 4), scalar_first=True).as_matrix()
    got = quats_to_matrices(QUATS)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want.reshape(2, 3, 4, 3, 3), atol=1e-14)
    single = quats_to_matrices(QUATS.astype(np.float32))
    assert single.dtype == np.float32


def test_jax_arrays_stay_jax_arrays_also_when_traced():
    quats = jnp.asarray(QUATS, jnp.float32)
    for function in (quats_to_matrices, jax.jit(quats_to_matrices)):
        got = function(quats)
        assert isinstance(got, jax.Array) and got.dtype == jnp.float32
        np.testing.assert_allclose(got, quats_to_matrices(QUATS), atol=1e-6)


def test_one_quaternion_of_any_length_is_the_unit_ones_matrix():
    quat = QUATS[0, 0, 0]
    np.testing.assert_allclose(quat_to_matrix(2.5 * quat), quats_to_matrices(quat), atol=1e-14)
