"""Splats brought before a camera, in jax.numpy: `reference.project` with gradients.

float32 loses the determinant of a needle's covariance (a c - b^2 of nearly equal products), so it
is computed from the 2x3 square root of that covariance, as the squared area its rows span.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from scenes.contract.rotations import quats_to_matrices
from splat_render.types import (
    SH_C0,
    BodyPoses,
    CameraBatch,
    GaussianSet,
    RasterConfig,
    sh_degree,
)

# gsplat (_persp_proj): the Jacobian is taken at most this far outside the picture, in parts of
# half its size.
_FOV_MARGIN = 0.3
_HOLD = jax.lax.Precision.HIGHEST


@struct.dataclass
class Projected:
    """G splats as one camera sees them, nearest first; the invisible ones have opacity 0.

    Attributes:
        means2d: [px].
        conics: xx, xy, yy of the inverse covariance [1/px^2].
        opacities: with the antialiasing factor.
        depths: along z [m]; inf where invisible.
        colors: not clipped from above.
    """

    means2d: Float[Array, "G 2"]
    conics: Float[Array, "G 3"]
    opacities: Float[Array, " G"]
    depths: Float[Array, " G"]
    colors: Float[Array, "G 3"]


@struct.dataclass
class BodySplats:
    """What does not depend on poses.

    Attributes:
        splats: in the frames of their bodies.
        axes: rotation * scales [m], in the body's frame.
    """

    splats: GaussianSet
    axes: Float[Array, "G 3 3"]


def shape_splats(splats: GaussianSet) -> BodySplats:
    """Return what all cameras and worlds share."""
    return BodySplats(splats, quats_to_matrices(splats.quats) * splats.scales[:, None, :])


def project(
    shaped: BodySplats, poses: BodyPoses, camera: CameraBatch, config: RasterConfig
) -> Projected:
    """Return splats as seen by one camera (matrices without batch axes) of one world."""
    splats = shaped.splats
    rotation, shift, centre = _bodies_before_camera(poses, camera)
    rotation, shift, centre = (x[splats.body_id] for x in (rotation, shift, centre))
    points = _apply(rotation, splats.means) + shift
    visible = points[:, 2] >= config.near
    # Invisible splats get harmless numbers, for their gradients must not be 0 * nan.
    points = jnp.where(visible[:, None], points, jnp.array([0.0, 0.0, 1.0]))
    means2d, axes2d = _onto_picture(points, rotation, shaped.axes, camera.Ks, config)
    conics, factor, solid = _conics(axes2d, config)
    rays = jnp.where(visible[:, None], splats.means - centre, jnp.array([0.0, 0.0, 1.0]))
    rays = rays / jnp.linalg.norm(rays, axis=-1, keepdims=True)
    colors = jnp.maximum(spherical_harmonics(rays, splats.sh) + 0.5, 0.0)
    visible &= solid
    if poses.opacity is not None:
        factor = factor * poses.opacity[splats.body_id]
    if poses.gain is not None:
        colors = colors * poses.gain[splats.body_id]
    seen = Projected(
        means2d=means2d,
        conics=conics,
        opacities=jnp.where(visible, splats.opacities * factor, 0.0),
        depths=jnp.where(visible, points[:, 2], jnp.inf),
        colors=colors,
    )
    order = jnp.argsort(seen.depths, stable=True)
    return jax.tree.map(lambda x: x[order], seen)


def _bodies_before_camera(
    poses: BodyPoses, camera: CameraBatch
) -> tuple[Float[Array, "B 3 3"], Float[Array, "B 3"], Float[Array, "B 3"]]:
    """Rotation and shift [m] from each body to the camera, and where the camera is in the body."""
    body = quats_to_matrices(poses.xquat)
    to_camera, at = camera.viewmats[:3, :3], camera.viewmats[:3, 3]
    rotation = jnp.einsum("ij,bjk->bik", to_camera, body, precision=_HOLD)
    shift = jnp.einsum("ij,bj->bi", to_camera, poses.xpos, precision=_HOLD) + at
    return rotation, shift, -jnp.einsum("bji,bj->bi", rotation, shift, precision=_HOLD)


def _onto_picture(
    points: Float[Array, "G 3"],
    rotation: Float[Array, "G 3 3"],
    axes: Float[Array, "G 3 3"],
    K: Float[Array, "3 3"],
    config: RasterConfig,
) -> tuple[Float[Array, "G 2"], Float[Array, "G 2 3"]]:
    """Return pixels, and the square root of the covariance: Jacobian * rotation * axes [px]."""
    focal, center = jnp.diagonal(K)[:2], K[:2, 2]
    size = jnp.array([config.width, config.height], points.dtype)
    slope = points[:, :2] / points[:, 2:]
    margin = _FOV_MARGIN * 0.5 * size / focal
    at = jnp.clip(slope, -center / focal - margin, (size - center) / focal + margin)
    scale = focal / points[:, 2:]
    jacobian = scale[..., None] * (rotation[:, :2] - at[..., None] * rotation[:, 2:])
    axes2d = jnp.einsum("gij,gjk->gik", jacobian, axes, precision=_HOLD)
    return focal * slope + center, axes2d


def _conics(
    axes2d: Float[Array, "G 2 3"], config: RasterConfig
) -> tuple[Float[Array, "G 3"], Float[Array, " G"], Bool[Array, " G"]]:
    """Inverse of the blurred covariance, the opacity's factor, and whether there is an inverse."""
    x, y = axes2d[:, 0], axes2d[:, 1]
    a, b, c = (x * x).sum(-1), (x * y).sum(-1), (y * y).sum(-1)
    sharp = (jnp.cross(x, y) ** 2).sum(-1)
    det = sharp + config.blur * (a + c) + config.blur**2
    solid = det > 0
    safe = jnp.where(solid, det, 1.0)
    conics = jnp.stack([c + config.blur, -b, a + config.blur], axis=-1) / safe[:, None]
    if not config.antialiased:
        return conics, jnp.ones_like(det), solid
    flat = sharp <= 0
    return conics, jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, sharp) / safe)), solid


def spherical_harmonics(
    directions: Float[Array, "G 3"], sh: Float[Array, "G K 3"]
) -> Float[Array, "G 3"]:
    """Sum of the real harmonics up to K's degree at unit directions, in 3DGS's order and signs."""
    degree = sh_degree(sh.shape[1])
    x, y, z = directions.T
    basis = [jnp.full_like(x, SH_C0)]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * z * z - x * x - y * y),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
            0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return jnp.einsum("kg,gkc->gc", jnp.stack(basis), sh, precision=_HOLD)


def _apply(matrices: Float[Array, "G 3 3"], vectors: Float[Array, "G 3"]) -> Float[Array, "G 3"]:
    return jnp.einsum("gij,gj->gi", matrices, vectors, precision=_HOLD)
