"""Turning: right, and in numpy what it is in XLA to the last bit."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from scenes.contract import quaternions
from scenes.contract.rotations import multiply_quats, quat_to_matrix

COUNT = 20_000
RNG = np.random.default_rng(0)
DOWN = np.array([0.0, 1.0, 0.0, 0.0], np.float32)


def units() -> np.ndarray:
    quats = RNG.normal(size=(COUNT, 4))
    return (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32)


A, B = units(), units()
VECTORS = RNG.normal(size=(COUNT, 3)).astype(np.float32)
TURNS = RNG.uniform(-1, 1, (COUNT, 3)).astype(np.float32)
ANGLES = np.linalg.norm(TURNS.astype(np.float64), axis=1)
HALF = 0.5 * ANGLES[:, None]
EXACT = np.hstack([np.cos(HALF), np.sin(HALF) * TURNS / ANGLES[:, None]])


def angle_to(quats: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Angle between orientations [rad]."""
    away = multiply_quats(quats.astype(np.float64), center.astype(np.float64) * [1, -1, -1, -1])
    return 2.0 * np.arctan2(np.linalg.norm(away[:, 1:], axis=1), np.abs(away[:, 0]))


def cut(quat: Any) -> Any:
    return quaternions.within(quat, DOWN, 0.7)


def chain(quat: Any, turn: Any, vector: Any) -> Any:
    """What a command does, one after the other, for a compiler to fuse as it likes."""
    turned = quaternions.normalized(quaternions.product(quaternions.exponential(turn), quat))
    return vector + quaternions.rotate(quaternions.within(turned, DOWN, 2.0), vector)


CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "product": (quaternions.product, (A, B)),
    "normalized": (quaternions.normalized, ((1.001 * A).astype(np.float32),)),
    "exponential": (quaternions.exponential, (TURNS,)),
    "rotate": (quaternions.rotate, (A, VECTORS)),
    "turn_between": (quaternions.turn_between, (A, B)),
    "nearer": (lambda quat: quaternions.nearer(quat, DOWN), (A,)),
    "columns": (quaternions.columns, (A,)),
    "within": (cut, (A,)),
    "chain": (chain, (A, TURNS, VECTORS)),
}


@pytest.mark.parametrize("name", CASES)
def test_numpy_and_xla_agree_to_the_last_bit(name: str) -> None:
    function, args = CASES[name]
    ours = function(*args)
    assert ours.dtype == np.float32
    for program in (function, jax.vmap(function)):
        np.testing.assert_array_equal(ours, np.asarray(jax.jit(program)(*args)))


def test_products_and_turned_vectors_are_those_of_matrices() -> None:
    np.testing.assert_allclose(quaternions.product(A, B), multiply_quats(A, B), atol=5e-7)
    turned = quaternions.rotate(A, VECTORS)
    for quat, vector, got in zip(A[:200], VECTORS, turned, strict=False):
        np.testing.assert_allclose(got, quat_to_matrix(quat.tolist()) @ vector, atol=3e-6)
    columns = quaternions.columns(A[:200])
    for quat, got in zip(A, columns, strict=False):
        wanted = quat_to_matrix(quat.tolist())[:, :2].T.ravel()
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_the_exponential_is_exact_to_float32_up_to_its_largest_turn() -> None:
    got = quaternions.exponential(TURNS)
    np.testing.assert_allclose(got, EXACT, atol=2.5e-7)
    np.testing.assert_allclose(np.linalg.norm(got.astype(np.float64), axis=1), 1.0, atol=3e-7)


def test_a_turn_between_orientations_is_along_its_axis() -> None:
    turn = quaternions.turn_between(A, quaternions.product(quaternions.exponential(TURNS), A))
    wanted = 2.0 * np.sin(HALF) * TURNS / ANGLES[:, None]
    np.testing.assert_allclose(turn, wanted, atol=2e-6)


def test_a_limit_to_turning_cuts_what_is_beyond_it_and_nothing_else() -> None:
    near = quaternions.normalized(quaternions.product(quaternions.exponential(0.3 * TURNS), DOWN))
    np.testing.assert_array_equal(cut(near), near)
    far = cut(A)
    assert angle_to(far, DOWN).max() < 0.7 + 1e-5
    # The cut orientation lies on the way from the one that was wanted to the centre.
    wanted, left = angle_to(A, DOWN), 2.0 * np.arccos(np.abs((far * A).sum(1)).clip(0, 1))
    beyond = (wanted > 0.75) & (wanted < 3.0)
    np.testing.assert_allclose(left[beyond] + 0.7, wanted[beyond], atol=2e-3)


def test_norms_do_not_drift() -> None:
    quat = A[0]
    for turn in TURNS[:2000]:
        quat = quaternions.normalized(quaternions.product(quaternions.exponential(turn), quat))
    assert abs(float(np.linalg.norm(quat.astype(np.float64))) - 1.0) < 5e-7
