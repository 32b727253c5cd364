"""Sets of splats on the host: take some, join several, move all of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from splat_render.assets.similarity import Similarity
from splat_render.backends.reference import spherical_harmonics
from splat_render.types import MAX_SH_DEGREE, GaussianSet, sh_degree

# numpy throughout: jax would compile each operation anew for every number of splats.


def take(splats: GaussianSet, index: Int[np.ndarray, " N"]) -> GaussianSet:
    """Return the splats at an index."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), splats)


def concatenate(parts: Sequence[GaussianSet]) -> GaussianSet:
    """Return the sets joined, sorted by body; lower degrees of harmonics are padded with zeros."""
    most = max(part.sh.shape[1] for part in parts)
    padded = [
        part.replace(sh=np.pad(part.sh, ((0, 0), (0, most - part.sh.shape[1]), (0, 0))))
        for part in parts
    ]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *padded)
    return take(joined, np.argsort(joined.body_id, kind="stable"))


def move_splats(splats: GaussianSet, motion: Similarity) -> GaussianSet:
    """Return splats as they look after the motion of space that carries them."""
    turn = Rotation.from_matrix(motion.rotation)
    quats = turn * Rotation.from_quat(np.asarray(splats.quats), scalar_first=True)
    return splats.replace(
        means=jnp.asarray(motion.apply(np.asarray(splats.means, np.float64)), jnp.float32),
        quats=jnp.asarray(quats.as_quat(scalar_first=True), jnp.float32),
        scales=splats.scales * motion.scale,
        sh=jnp.asarray(turn_harmonics(np.asarray(splats.sh), motion.rotation), jnp.float32),
    )


def turn_harmonics(
    sh: Float[np.ndarray, "G K 3"], rotation: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "G K 3"]:
    """Return coefficients whose colour at R d is the old colour at d.

    Turned harmonics are a linear map of the old ones, found by solving for it at more directions
    than there are coefficients: exact, and right for any convention of signs and order.
    """
    coefficients = sh.shape[1]
    if sh_degree(coefficients) == 0:
        return sh
    directions = np.random.default_rng(0).normal(size=(4 * (MAX_SH_DEGREE + 1) ** 2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before, after = (_basis(d, coefficients) for d in (directions, directions @ rotation.T))
    return np.einsum("kl,glc->gkc", np.linalg.lstsq(after, before, rcond=None)[0], sh)


def _basis(directions: Float[np.ndarray, "D 3"], coefficients: int) -> Float[np.ndarray, "D K"]:
    columns = []
    for k in range(coefficients):
        one = np.zeros((len(directions), coefficients, 3))
        one[:, k] = 1.0
        columns.append(spherical_harmonics(directions, one)[:, 0])
    return np.stack(columns, axis=-1)
