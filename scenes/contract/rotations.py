"""Vectors, wxyz quaternions and inertias as plain tuples (stdlib and numpy only)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vec3 = tuple[float, float, float]
Quat = tuple[float, float, float, float]
Inertia = tuple[float, float, float, float, float, float]

UNIT_QUAT: Quat = (1.0, 0.0, 0.0, 0.0)


def quat_to_matrix(quat: Sequence[float]) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of a wxyz quaternion of any positive norm."""
    return np.array(_rotation_rows(*np.asarray(quat, dtype=np.float64) / np.linalg.norm(quat)))


def quats_to_matrices(quats: Any) -> Any:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4] (wxyz).

    Numpy or JAX arrays in, arrays of the same library and precision out.
    """
    xp = quats.__array_namespace__()
    rows = _rotation_rows(*xp.moveaxis(quats, -1, 0))
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def _rotation_rows(w: Any, x: Any, y: Any, z: Any) -> list[list[Any]]:
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]


def multiply_quats(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hamilton products [..., 4] of wxyz quaternions: the rotation `second`, then `first`."""
    aw, ax, ay, az = np.moveaxis(first, -1, 0)
    bw, bx, by, bz = np.moveaxis(second, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def full_inertia(quat: Sequence[float], principal: Vec3) -> Inertia:
    """Inertia (xx, yy, zz, xy, xz, yz) of principal moments whose axes `quat` turns into place."""
    axes = quat_to_matrix(quat)
    full = axes @ np.diag(principal) @ axes.T
    xx, yy, zz, xy, xz, yz = (
        float(full[i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    )
    return xx, yy, zz, xy, xz, yz
