"""MuJoCo's own toolbox, whose package hides which of its imports is missing."""

from typing import Any

import numpy as np
from jaxtyping import Float

from scenes.contract.extras import require

_NEEDS = ("absl", "colorama", "tabulate", "yaml")


def toolbox() -> Any:
    """Return `mujoco.sysid`; MissingPackageError names the extra that brings what it needs."""
    for module in _NEEDS:
        require(module, "sysid", purpose="System identification")
    return require("mujoco.sysid", "sysid")


# Rows of a product at once: few enough that BLAS does them in one thread. Its threads spin where
# they have to wait for a core, six times as long as the product takes.
_ROWS = 512


def product(a: Float[np.ndarray, "R N"], b: Float[np.ndarray, "R M"]) -> Float[np.ndarray, "N M"]:
    """The product a^T b of matrices with many rows."""
    blocks = range(0, len(a), _ROWS)
    return sum((a[i : i + _ROWS].T @ b[i : i + _ROWS] for i in blocks), np.zeros((1, 1)))


class Squares:
    """Half the sum of squares, which is `mujoco.minimize`'s own norm, by `product`."""

    def value(self, r: Float[np.ndarray, "R 1"]) -> np.float64:
        """The norm of residuals."""
        return np.float64(0.5 * product(r, r).item())

    def grad_hess(
        self, r: Float[np.ndarray, "R 1"], proj: Float[np.ndarray, "R P"]
    ) -> tuple[Float[np.ndarray, "P 1"], Float[np.ndarray, "P P"]]:
        """Gradient and Hessian by parameters, of which `proj` is the Jacobian."""
        return product(proj, r), product(proj, proj)
