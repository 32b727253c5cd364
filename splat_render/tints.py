"""Other colours for what never moves: each variant multiplies those of every kind of splat."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from splat_render.types import SH_C0, BodyPoses, GaussianSet


@dataclass(frozen=True, eq=False)
class Tints:
    """V variants of a scene's colours; the first is as given.

    Static splats of one body and colour are a kind, which has a row of its own after the bodies'
    in `BodyPoses`: the table changes as a whole and differently from the floor.

    Attributes:
        body: that the splats of each of K kinds are fixed to.
        gain: on the red, green and blue of each kind.
    """

    body: Int[np.ndarray, " K"]
    gain: Float[Array, "V K 3"]

    def variants(self, poses: BodyPoses, variant: Int[Array, "*n"]) -> BodyPoses:
        """Return poses [*n, B + K, ...] of worlds whose colours are those of their variant."""
        xpos, xquat = (
            jnp.concatenate([x, x[..., self.body, :]], axis=-2) for x in (poses.xpos, poses.xquat)
        )
        gain = jnp.concatenate([jnp.ones_like(poses.xpos), self.gain[variant]], axis=-2)
        return BodyPoses(xpos, xquat, gain=gain)

    def of_bodies(self, mask: Bool[np.ndarray, " B"]) -> Bool[np.ndarray, "B+K"]:
        """Return what is said of the bodies for their kinds too."""
        return np.concatenate([mask, mask[self.body]])


def tint(
    splats: GaussianSet,
    static: Bool[np.ndarray, " B"],
    *,
    variants: int,
    deviation: float,
    rng: np.random.Generator,
) -> tuple[GaussianSet, Tints]:
    """Return the splats, those of a kind together, and colours drawn for each variant.

    Args:
        splats: of the scene.
        static: which bodies never move.
        variants: how many, the unchanged one included.
        deviation: of the gains [1], which stay between 0.2 and 2.
        rng: draws them.
    """
    color = np.clip(np.asarray(splats.sh)[:, 0] * SH_C0 + 0.5, 0.0, 1.0)
    shares = color / np.maximum(color.sum(axis=1, keepdims=True), 1e-6)
    hue = np.unique(np.round(4 * shares).astype(int), axis=0, return_inverse=True)[1].reshape(-1)
    drawn = [
        np.clip(rng.normal(1.0, deviation, (hue.max() + 1, 3)), 0.2, 2.0)
        for _ in range(variants - 1)
    ]
    gains = np.stack([np.ones((hue.max() + 1, 3)), *drawn])
    body = np.asarray(splats.body_id)
    still = static[body]
    kinds, which = np.unique(
        np.stack([body[still], hue[still]], axis=1), axis=0, return_inverse=True
    )
    rows = body.copy()
    rows[still] = len(static) + which.reshape(-1)
    # Those of a body lie together: renderers take blocks of splats that share one faster.
    order = np.argsort(rows, kind="stable")
    placed = splats.replace(body_id=jnp.asarray(rows, jnp.int32))
    placed = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[order]), placed)
    return placed, Tints(kinds[:, 0], jnp.asarray(gains[:, kinds[:, 1]], jnp.float32))
