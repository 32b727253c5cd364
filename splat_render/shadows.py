"""Soft contact shadows: dark spots on the table below points of what moves.

Each spot is a flat dark splat on a row of `BodyPoses` of its own, which follows a point of a body
and fades as that point rises. A splat has one depth for all its pixels, so a spot that lay on the
table would be half hidden by it: it is drawn a little nearer to the camera, on the same line of
sight, and so each camera has its own poses.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from scenes.contract.rotations import UNIT_QUAT, quats_to_matrices
from splat_render.types import SH_C0, BodyPoses, CameraBatch, GaussianSet

_MOST_POINTS = 8  # of one body: the corners of a box
_INSET = 0.15  # of a point's way to the middle of its body
_SPREAD = 0.35  # of a body's middle extent: its spots melt into one shadow
_NARROWEST, _WIDEST = 0.008, 0.03  # [m] of a spot's deviation
_DARKEST = 0.4  # opacity of a spot right below a point that touches the table
_HEIGHT = 2.5  # times a spot's deviation: a point so high casts 1/e of the shadow
_FLAT = 1e-3  # [m] thickness
_SEEN = 2.0  # deviations of a spot, and of what it lies on, that its line of sight must clear
_FAINT, _DEEP = 0.3, 0.1  # strength of a spot that is put so far [m] below the table
_TOP = 0.01  # [m] of the table's top: splats so near belong to it
_NEAREST = 0.15  # of the way to the camera that a spot may be moved at most


@struct.dataclass
class Shadows:
    """Spots below P points, on a table.

    Attributes:
        body_id: of the body that each point is on.
        points: in the body's frame [m].
        spread: standard deviation of each spot [m].
        low, high: corners of the table's top, which is level [m].
        roughness: deviation of the splats that the table is drawn with [m]: its depth in a picture
            is theirs.
    """

    body_id: Int[Array, " P"]
    points: Float[Array, "P 3"]
    spread: Float[Array, " P"]
    low: Float[Array, " 3"]
    high: Float[Array, " 3"]
    roughness: Float[Array, ""]

    def added_to(self, splats: GaussianSet, num_bodies: int) -> GaussianSet:
        """Return the splats of a scene of B bodies and the spots, whose rows follow the bodies'."""
        count = len(self.spread)
        black = np.zeros((count, *splats.sh.shape[1:]), np.float32)
        black[:, 0] = -0.5 / SH_C0
        spots = GaussianSet(
            means=jnp.zeros((count, 3)),
            quats=jnp.tile(jnp.asarray(UNIT_QUAT, jnp.float32), (count, 1)),
            scales=jnp.stack([self.spread, self.spread, jnp.full(count, _FLAT)], axis=1),
            opacities=jnp.full(count, _DARKEST),
            sh=jnp.asarray(black),
            body_id=num_bodies + jnp.arange(count, dtype=jnp.int32),
        )
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), splats, spots)

    def lying(self, poses: BodyPoses) -> tuple[Float[Array, "*n P 3"], Float[Array, "*n P"]]:
        """Return where on the table the spots are [m], and how strong each is, in [0, 1]."""
        turn = quats_to_matrices(poses.xquat[..., self.body_id, :])
        turned = jnp.einsum("...ij,...j->...i", turn, self.points)
        points = poses.xpos[..., self.body_id, :] + turned
        inside = jnp.all((points[..., :2] > self.low[:2]) & (points[..., :2] < self.high[:2]), -1)
        height = jnp.maximum(points[..., 2] - self.low[2], 0.0) / (_HEIGHT * self.spread)
        strength = jnp.where(inside, jnp.exp(-height * height), 0.0)
        return points.at[..., 2].set(self.low[2]), strength

    def below(self, poses: BodyPoses, cameras: CameraBatch) -> BodyPoses:
        """Return the bodies' poses and the spots' [*n, C, B + P, ...] as each camera is to see it.

        Args:
            poses: of the bodies [*n, B, ...].
            cameras: [*n, C, ...].
        """
        ground, strength = self.lying(poses)
        ground = ground[..., None, :, :]
        rotation, shift = cameras.viewmats[..., :3, :3], cameras.viewmats[..., :3, 3]
        eyes = -jnp.einsum("...ji,...j->...i", rotation, shift)[..., None, :]
        sight = eyes - ground
        away, level = (jnp.linalg.norm(sight[..., :n], axis=-1) for n in (3, 2))
        nearer = _SEEN * (self.spread + self.roughness) * level / away + _FLAT
        spots = ground + sight * jnp.minimum(nearer / away, _NEAREST)[..., None]
        own = jnp.ones(poses.xpos.shape[:-1]) if poses.opacity is None else poses.opacity
        opacity = jnp.concatenate([own, strength], axis=-1)
        lead = cameras.viewmats.shape[:-2]
        xpos, xquat = (
            jnp.broadcast_to(x[..., None, :, :], (*lead, *x.shape[-2:]))
            for x in (poses.xpos, poses.xquat)
        )
        gain = poses.gain
        if gain is not None:
            gain = jnp.broadcast_to(gain[..., None, :, :], (*lead, *gain.shape[-2:]))
        return _with_spots(BodyPoses(xpos, xquat, gain=gain), spots).replace(
            opacity=jnp.broadcast_to(opacity[..., None, :], (*lead, opacity.shape[-1]))
        )

    def around(self, poses: BodyPoses) -> BodyPoses:
        """Return the bodies' poses and the spots' [*n, B + P, ...], for eyes that may be anywhere.

        The spots lie just above the table; faint ones are hidden below it.
        """
        ground, strength = self.lying(poses)
        spots = ground.at[..., 2].add(jnp.where(strength > _FAINT, _FLAT, -_DEEP))
        return _with_spots(poses, spots)


def _with_spots(poses: BodyPoses, spots: Float[Array, "*n P 3"]) -> BodyPoses:
    still = jnp.broadcast_to(jnp.asarray(UNIT_QUAT, jnp.float32), (*spots.shape[:-1], 4))
    gain = poses.gain
    if gain is not None:
        gain = jnp.concatenate([gain, jnp.ones_like(spots)], axis=-2)
    return BodyPoses(
        gain=gain,
        xpos=jnp.concatenate([poses.xpos, spots], axis=-2),
        xquat=jnp.concatenate([poses.xquat, still], axis=-2),
    )


def casting_bodies(
    body_parentid: Int[np.ndarray, " B"], body_weldid: Int[np.ndarray, " B"]
) -> list[int]:
    """Return the bodies that may come near a table, without mocap bodies; arrays are MjModel's.

    Those at the end of a chain, such as objects, fingers and feet, and what carries these.
    """
    groups = {int(group) for group in body_weldid} - {0}
    ends = groups - {int(body_weldid[body_parentid[group]]) for group in groups}
    carriers = {int(body_parentid[group]) for group in ends} - {0}
    near = [group in ends or b in carriers for b, group in enumerate(body_weldid)]
    return [b for b, group in enumerate(body_weldid) if group != 0 and near[b]]


def cast_shadows(
    splats: GaussianSet,
    bodies: Sequence[int],
    low: Float[np.ndarray, " 3"],
    high: Float[np.ndarray, " 3"],
) -> Shadows:
    """Return the shadows of bodies: below some of their splats, far from each other.

    Args:
        splats: of the scene.
        bodies: that cast shadows.
        low, high: corners of the table's top [m].
    """
    owner, means = np.asarray(splats.body_id), np.asarray(splats.means)
    widths = np.asarray(splats.scales).max(axis=1)
    ids, points, spread = [], [], []
    for body in bodies:
        own = means[owner == body]
        if not len(own):
            continue
        chosen = _spread_out(own)
        middle = chosen.mean(axis=0)
        ids.append(np.full(len(chosen), body))
        points.append(chosen + _INSET * (middle - chosen))
        extent = np.median(np.ptp(own, axis=0)) + np.median(widths[owner == body])
        spread.append(np.full(len(chosen), np.clip(_SPREAD * extent, _NARROWEST, _WIDEST)))
    joined = (np.concatenate(x) if x else np.zeros(0) for x in (ids, points, spread))
    body_id, at, deviation = joined
    return Shadows(
        body_id=jnp.asarray(body_id, jnp.int32),
        points=jnp.asarray(at.reshape(-1, 3), jnp.float32),
        spread=jnp.asarray(deviation, jnp.float32),
        low=jnp.asarray(low, jnp.float32),
        high=jnp.asarray(high, jnp.float32),
        roughness=jnp.asarray(_roughness(splats, low, high), jnp.float32),
    )


def _roughness(
    splats: GaussianSet, low: Float[np.ndarray, " 3"], high: Float[np.ndarray, " 3"]
) -> float:
    """Return the median deviation of the world's splats on top of the table [m]."""
    means = np.asarray(splats.means)
    inside = np.all((means > low - _TOP) & (means < high + _TOP), axis=1)
    own = np.asarray(splats.scales)[inside & (np.asarray(splats.body_id) == 0)]
    return float(np.median(own.max(axis=1))) if len(own) else 0.0


def _spread_out(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "M 3"]:
    """Return at most `_MOST_POINTS`, each the farthest from those before it."""
    chosen, distance = [], np.linalg.norm(points - points.mean(axis=0), axis=1)
    for _ in range(min(_MOST_POINTS, len(points))):
        chosen.append(int(distance.argmax()))
        step = np.linalg.norm(points - points[chosen[-1]], axis=1)
        distance = step if len(chosen) == 1 else np.minimum(distance, step)
    return points[chosen]
