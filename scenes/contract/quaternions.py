"""Turning, the same in numpy and in XLA to the last bit.

The simulator traces these functions, the robot bridge calls them on numpy, and a policy must not be
able to tell which. Sums of products are where the two differ: XLA may fuse a product into an
addition, which rounds once instead of twice, and chooses which by itself. So every product here
loses its last bit by way of integers (`times`): there is nothing left that could be fused, and
each remaining operation is rounded as IEEE 754 says, on either side. Sines come from polynomials.

Arrays are float32 with the components last; quaternions are wxyz and of norm 1.
"""

import math
from typing import Any

import numpy as np

Array = Any  # numpy's or JAX's

# Largest turn about one axis for which `exponential` is as exact as float32 is [rad].
LARGEST_TURN = 1.0

_CLEARED = np.int32(-2)  # all bits but the last
# Taylor: cos x and sin x / x in x^2, up to where float32 ends for |x| <= sqrt(3) / 2.
_COSINE = tuple(np.float32((-1) ** k / math.factorial(2 * k)) for k in range(6))
_SINC = tuple(np.float32((-1) ** k / math.factorial(2 * k + 1)) for k in range(6))
_CONJUGATE = np.array([1.0, -1.0, -1.0, -1.0], np.float32)


def times(a: Array, b: Array) -> Array:
    """Products whose last bit is 0: rounded alike whatever is computed of them."""
    return _cleared(a * b)


def stacked(*parts: Array) -> Array:
    """Arrays side by side along a new last axis."""
    return _namespace(parts[0]).stack(parts, -1)


def product(first: Array, second: Array) -> Array:
    """Hamilton products [..., 4]: the rotation `second`, then `first`."""
    aw, ax, ay, az = _parts(first)
    bw, bx, by, bz = _parts(second)
    return stacked(
        times(aw, bw) - times(ax, bx) - times(ay, by) - times(az, bz),
        times(aw, bx) + times(ax, bw) + times(ay, bz) - times(az, by),
        times(aw, by) - times(ax, bz) + times(ay, bw) + times(az, bx),
        times(aw, bz) + times(ax, by) - times(ay, bx) + times(az, bw),
    )


def conjugate(quat: Array) -> Array:
    """The rotations [..., 4] back."""
    return quat * _CONJUGATE


def normalized(quat: Array) -> Array:
    """Quaternions [..., 4] of norm 1, from such whose norm rounding has moved."""
    # One step of Newton's: a square root and a division would be rounded as the compiler likes.
    return times(quat, (1.5 - 0.5 * _dot(quat, quat))[..., None])


def exponential(vector: Array) -> Array:
    """Quaternions [..., 4] of rotation vectors [..., 3] [rad], at most `LARGEST_TURN` per axis."""
    half = 0.5 * vector
    square = _dot(half, half)
    x, y, z = _parts(times(half, _polynomial(_SINC, square)[..., None]))
    return normalized(stacked(_polynomial(_COSINE, square), x, y, z))


def rotate(quat: Array, vector: Array) -> Array:
    """Vectors [..., 3] turned by quaternions [..., 4]."""
    w, axis = quat[..., :1], quat[..., 1:]
    across = 2.0 * _cross(axis, vector)
    return vector + times(w, across) + _cross(axis, across)


def turn_between(start: Array, end: Array) -> Array:
    """Vectors [..., 3] along the axis from one orientation to another, 2 sin(angle / 2) long.

    For a small turn that is its angle [rad]; it is continuous up to half a turn.
    """
    turn = nearer(product(end, conjugate(start)), np.array([1.0, 0.0, 0.0, 0.0], np.float32))
    return 2.0 * turn[..., 1:]


def nearer(quat: Array, to: Array) -> Array:
    """Of the two quaternions [..., 4] of each rotation the one nearer to `to` [4]."""
    return quat * (1.0 - 2.0 * (_dot(quat, to) < 0.0).astype(np.float32))[..., None]


def columns(quat: Array) -> Array:
    """The first two columns [..., 6] of the rotation matrices of quaternions [..., 4]."""
    w, x, y, z = _parts(quat)
    return stacked(
        1.0 - 2.0 * (times(y, y) + times(z, z)),
        2.0 * (times(x, y) + times(w, z)),
        2.0 * (times(x, z) - times(w, y)),
        2.0 * (times(x, y) - times(w, z)),
        1.0 - 2.0 * (times(x, x) + times(z, z)),
        2.0 * (times(y, z) + times(w, x)),
    )


def within(quat: Array, center: Array, angle: float) -> Array:
    """Orientations [..., 4], turned back to within `angle` [rad] of the one of `center` [4]."""
    away = nearer(product(quat, conjugate(center)), np.array([1.0, 0.0, 0.0, 0.0], np.float32))
    cosine, sine = np.float32(math.cos(0.5 * angle)), np.float32(math.sin(0.5 * angle))
    axis = away[..., 1:]
    namespace = _namespace(axis)
    length = _cleared(namespace.sqrt(_dot(axis, axis) + np.float32(1e-20)))
    x, y, z = _parts(times(axis, _cleared(sine / length)[..., None]))
    edge = normalized(product(stacked(cosine + 0.0 * x, x, y, z), center + 0.0 * quat))
    return namespace.where(away[..., :1] < cosine, edge, quat)


def _cleared(x: Array) -> Array:
    return (x.view(np.int32) & _CLEARED).view(np.float32)


def _dot(a: Array, b: Array) -> Array:
    parts = _parts(times(a, b))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _cross(a: Array, b: Array) -> Array:
    (ax, ay, az), (bx, by, bz) = _parts(a), _parts(b)
    return stacked(
        times(ay, bz) - times(az, by),
        times(az, bx) - times(ax, bz),
        times(ax, by) - times(ay, bx),
    )


def _polynomial(coefficients: tuple[np.float32, ...], x: Array) -> Array:
    """Horner's rule, the lowest coefficient first."""
    total = coefficients[-1] + 0.0 * x
    for coefficient in coefficients[-2::-1]:
        total = coefficient + times(x, total)
    return total


def _parts(vector: Array) -> tuple[Array, ...]:
    return tuple(vector[..., i] for i in range(vector.shape[-1]))


def _namespace(x: Array) -> Any:
    """The module whose functions take such arrays: numpy or jax.numpy, which is not imported."""
    return np if isinstance(x, (np.ndarray, np.generic)) else x.__array_namespace__()
