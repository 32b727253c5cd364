"""Rigid-body mathematics of one world, written to stay fast when batched on a CPU."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scenes.build import Scene
from scenes.contract.quaternions import conjugate, nearer, product
from scenes.contract.rotations import quats_to_matrices


def quat_to_mat(quat: Float[Array, "*n 4"]) -> Float[Array, "*n 3 3"]:
    """Rotation matrices of unit quaternions (wxyz)."""
    return quats_to_matrices(quat)


def rotation_error(
    target: Float[Array, "*n 3 3"], current: Float[Array, "*n 3 3"]
) -> Float[Array, "*n 3"]:
    """World-frame rotation vector from `current` to `target` [rad], exact for small angles."""
    d = target @ jnp.swapaxes(current, -1, -2)
    return 0.5 * jnp.stack(
        [d[..., 2, 1] - d[..., 1, 2], d[..., 0, 2] - d[..., 2, 0], d[..., 1, 0] - d[..., 0, 1]], -1
    )


def tool_quat(scene: Scene, xquat: Any) -> Any:
    """Orientation [4] of the end effector from those of the bodies [nbody, 4], wxyz.

    numpy or JAX: a simulated arm must say what the environment observes, to the last bit.
    """
    site = scene.arm.ee_site_id
    body = xquat[scene.model.site_bodyid[site]]
    return product(body, np.asarray(scene.model.site_quat[site], np.float32))


def rotation_vector(start: Float[Array, " 4"], end: Float[Array, " 4"]) -> Float[Array, " 3"]:
    """World-frame rotation vector from one orientation to another [rad], up to half a turn."""
    turn = nearer(product(end, conjugate(start)), jnp.array([1.0, 0.0, 0.0, 0.0]))
    sine = jnp.sqrt(jnp.sum(turn[1:] ** 2) + 1e-18)
    return turn[1:] * (2.0 * jnp.arctan2(sine, turn[0]) / sine)


def hinge_jacobian(
    xpos: Float[Array, "J 3"],
    xquat: Float[Array, "J 4"],
    axes: Float[Array, "J 3"],
    point: Float[Array, " 3"],
) -> Float[Array, "6 J"]:
    """Geometric Jacobian (linear over angular) of `point` for hinges at the bodies' origins.

    Args:
        xpos, xquat: world poses of the bodies that carry the hinges [m], wxyz.
        axes: hinge axes in the body frames.
        point: world point rigidly attached behind the last hinge [m].
    """
    z = jnp.einsum("jab,jb->ja", quat_to_mat(xquat), axes)
    return jnp.concatenate([jnp.cross(z, point - xpos), z], -1).T


def damped_gram(
    rows: Float[Array, "n J"], damping: float, weights: Float[Array, " J"] | None = None
) -> Float[Array, "n n"]:
    """A W A^T + damping I of the rows of A, with W diagonal and 1 by default.

    A sum of products: what a matrix product compiles to on a CPU takes one world after the other
    (6x7, 256 worlds: 10 times as long).
    """
    weighted = rows if weights is None else rows * weights
    return (weighted[:, None] * rows[None]).sum(-1) + damping * jnp.eye(rows.shape[0])


def factorize(a: Float[Array, "n n"]) -> tuple[list[list[Array]], Float[Array, " n"]]:
    """Return the rows below the diagonal of L, and D, of L D L^T = a, positive definite.

    LAPACK is called once per matrix of a batch on a CPU; unrolled arithmetic is vectorised
    across the batch instead (6x6, 256 worlds: about 20 times faster).
    """
    n = a.shape[0]
    low: list[list[Array]] = [[] for _ in range(n)]
    diag: list[Array] = []
    for i in range(n):
        for j in range(i):
            dot = sum((low[i][k] * diag[k] * low[j][k] for k in range(j)), jnp.zeros(()))
            low[i].append((a[i, j] - dot) / diag[j])
        diag.append(a[i, i] - sum((low[i][k] ** 2 * diag[k] for k in range(i)), jnp.zeros(())))
    return low, jnp.stack(diag)


def substitute(low: list[list[Array]], b: Float[Array, "n *k"]) -> Float[Array, "n *k"]:
    """Solve L y = b, rows of L below the diagonal as `factorize` returns them."""
    y: list[Array] = []
    for i, row in enumerate(low):
        y.append(b[i] - sum((row[k] * y[k] for k in range(i)), jnp.zeros(())))
    return jnp.stack(y)


def solve_spd(a: Float[Array, "n n"], b: Float[Array, " n"]) -> Float[Array, " n"]:
    """Solve a small symmetric positive definite system by `factorize`."""
    low, diag = factorize(a)
    y, n = substitute(low, b), len(low)
    x: list[Array] = [jnp.zeros(())] * n
    for i in reversed(range(n)):
        x[i] = y[i] / diag[i] - sum((low[k][i] * x[k] for k in range(i + 1, n)), jnp.zeros(()))
    return jnp.stack(x)
