"""The definition of a picture: 3D Gaussian splatting in float64 numpy, one splat at a time.

Equations of 3DGS (arXiv 2308.04079) with EWA projection (Zwicker et al. 2001), in the conventions
of gsplat 1.5.3: see `project` and `_Canvas.blend`. Written to be read and to test every other
backend, not to be fast: 10,000 splats at 64 px take about half a second.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from scenes.contract.rotations import quats_to_matrices
from splat_render.types import (
    Background,
    BodyPoses,
    CameraBatch,
    Frame,
    GaussianSet,
    RasterConfig,
    sh_degree,
)

TRACEABLE = False
DIFFERENTIABLE = False

# gsplat (_persp_proj): the Jacobian is taken at most this far outside the picture, in parts of
# half its size, because the linearisation explodes for splats at the side of the camera.
_FOV_MARGIN = 0.3


@dataclass(frozen=True)
class Projected:
    """Splats as one camera sees them, nearest first; V of them are visible.

    Attributes:
        means2d: [px].
        covars2d: with blur [px^2].
        opacities: with the antialiasing factor.
        depths: along z [m].
        colors: not clipped from above.
        index: in the set.
    """

    means2d: Float[np.ndarray, "V 2"]
    covars2d: Float[np.ndarray, "V 2 2"]
    opacities: Float[np.ndarray, " V"]
    depths: Float[np.ndarray, " V"]
    colors: Float[np.ndarray, "V 3"]
    index: Int[np.ndarray, " V"]


def unavailable() -> str | None:
    """Return None: it runs everywhere."""
    return None


def rasterize(
    splats: GaussianSet,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    background: Background | None = None,
    look: Int[Array, "*n"] | None = None,
) -> Frame:
    """Return the pictures; see `backend.Rasterize`."""
    exact = rasterize_float64(splats, poses, cameras, config, background, look)
    rgb = np.asarray(exact.rgb)
    if config.rgb_dtype == "uint8":
        rgb = np.floor(np.clip(rgb, 0.0, 1.0) * 255 + 0.5)
    return Frame(
        rgb=jnp.asarray(rgb, config.rgb_dtype),
        depth=jnp.asarray(exact.depth, jnp.float32),
        alpha=jnp.asarray(exact.alpha, jnp.float32),
    )


def rasterize_float64(
    splats: GaussianSet,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    background: Background | None = None,
    look: Int[Array, "*n"] | None = None,
) -> Frame:
    """The same in numpy's float64, whatever `config.rgb_dtype` is; for finite differences."""
    splats, poses, cameras, background = _exact((splats, poses, cameras, background))
    lead = cameras.viewmats.shape[:-2]
    shape = (*lead, config.height, config.width)
    parts: list[Any] = [np.zeros((*shape, 3)), np.zeros(shape), np.zeros(shape)]
    for index in np.ndindex(*lead):
        world, camera = index[:-1], index[-1]
        behind = None
        if background is not None:
            row = 0 if look is None else int(np.asarray(look)[world])
            behind = Background(background.rgb[row, camera], background.depth[row, camera])
        one = CameraBatch(cameras.viewmats[index], cameras.Ks[index])
        bodies = jax.tree.map(lambda x, world=world: x[world], poses)
        canvas = draw(splats, bodies, one, config, behind)
        for part, pixels in zip(parts, canvas.finish(config, behind), strict=True):
            part[index] = pixels
    return Frame(*parts)


def draw(
    splats: GaussianSet,
    poses: BodyPoses,
    camera: CameraBatch,
    config: RasterConfig,
    behind: Background | None = None,
) -> "_Canvas":
    """Draw one camera (matrices without batch axes) of one world, `behind` being [H, W, ...]."""
    canvas = _Canvas(config.height, config.width)
    if behind is not None:
        canvas.limit[:] = behind.depth
    seen = project(splats, poses, camera, config)
    for i in range(len(seen.depths)):
        canvas.blend(seen, i, config)
    return canvas


def project(
    splats: GaussianSet, poses: BodyPoses, camera: CameraBatch, config: RasterConfig
) -> Projected:
    """Return splats as seen by one camera of one world; those nearer than `near` are left out.

    Sorted by the depth of their centres; equal depths keep the order of the set.
    """
    blobs, world, view = _exact((splats, poses, camera))
    body = quats_to_matrices(world.xquat)[blobs.body_id]
    means = _apply(body, blobs.means) + world.xpos[blobs.body_id]
    rotation, shift = view.viewmats[:3, :3], view.viewmats[:3, 3]
    points = means @ rotation.T + shift
    ahead = np.flatnonzero(points[:, 2] >= config.near)
    order = ahead[np.argsort(points[ahead, 2], kind="stable")]
    to_camera = rotation @ body[order]
    covars = to_camera @ covariances(blobs.quats[order], blobs.scales[order])
    covars = covars @ to_camera.swapaxes(-1, -2)
    means2d, sharp = project_camera(points[order], covars, view.Ks, config.width, config.height)
    covars2d = sharp + config.blur * np.eye(2)
    opacities = blobs.opacities[order]
    if world.opacity is not None:
        opacities = opacities * world.opacity[blobs.body_id[order]]
    if config.antialiased:
        shrink = np.linalg.det(sharp) / np.linalg.det(covars2d)
        opacities = opacities * np.sqrt(np.maximum(shrink, 0.0))
    # Directions are those of the body's frame, in which the harmonics are stored.
    rays = means[order] + rotation.T @ shift
    rays = _apply(body[order].swapaxes(-1, -2), rays / np.linalg.norm(rays, axis=-1, keepdims=True))
    colors = np.maximum(spherical_harmonics(rays, blobs.sh[order]) + 0.5, 0.0)
    if world.gain is not None:
        colors = colors * world.gain[blobs.body_id[order]]
    return Projected(means2d, covars2d, opacities, points[order, 2], colors, order)


def covariances(
    quats: Float[np.ndarray, "G 4"], scales: Float[np.ndarray, "G 3"]
) -> Float[np.ndarray, "G 3 3"]:
    """R diag(scales^2) R^T [m^2] of unit quaternions (wxyz) and standard deviations [m]."""
    axes = quats_to_matrices(quats) * scales[:, None, :]
    return axes @ axes.swapaxes(-1, -2)


def project_camera(
    points: Float[np.ndarray, "G 3"],
    covars: Float[np.ndarray, "G 3 3"],
    K: Float[np.ndarray, "3 3"],
    width: int,
    height: int,
) -> tuple[Float[np.ndarray, "G 2"], Float[np.ndarray, "G 2 2"]]:
    """EWA projection: pixels and covariances [px^2] of Gaussians in the camera's frame [m]."""
    focal, center = K[[0, 1], [0, 1]], K[:2, 2]
    size = np.array([width, height])
    slope = points[:, :2] / points[:, 2:]
    margin = _FOV_MARGIN * 0.5 * size / focal
    near_side, far_side = -center / focal - margin, (size - center) / focal + margin
    at = np.clip(slope, near_side, far_side)
    jacobian = np.zeros((len(points), 2, 3))
    jacobian[:, [0, 1], [0, 1]] = focal / points[:, 2:]
    jacobian[:, :, 2] = -focal * at / points[:, 2:]
    return focal * slope + center, jacobian @ covars @ jacobian.swapaxes(-1, -2)


def spherical_harmonics(
    directions: Float[np.ndarray, "G 3"], sh: Float[np.ndarray, "G K 3"]
) -> Float[np.ndarray, "G 3"]:
    """Sum of the real harmonics up to K's degree at unit directions, in 3DGS's order and signs."""
    degree = sh_degree(sh.shape[1])
    x, y, z = directions.T
    basis = [np.full_like(x, 0.28209479177387814)]
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
    return np.einsum("kg,gkc->gc", np.stack(basis), sh)


@dataclass
class _Canvas:
    """What a picture's pixels have gathered so far.

    Attributes:
        height: [px].
        width: [px].
        rgb: sum of the colours, weighted.
        depth: sum of the depths, weighted [m].
        light: the transmittance.
        median: depth at which half of the light is left [m].
        limit: depth of what hides all behind it [m].
        unfinished: pixels that the next splat may still change.
    """

    height: int
    width: int
    rgb: Float[np.ndarray, "H W 3"] = field(init=False)
    depth: Float[np.ndarray, "H W"] = field(init=False)
    light: Float[np.ndarray, "H W"] = field(init=False)
    median: Float[np.ndarray, "H W"] = field(init=False)
    limit: Float[np.ndarray, "H W"] = field(init=False)
    unfinished: Bool[np.ndarray, "H W"] = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.height, self.width)
        self.rgb, self.depth = np.zeros((*shape, 3)), np.zeros(shape)
        self.light, self.unfinished = np.ones(shape), np.ones(shape, bool)
        self.median, self.limit = np.full(shape, np.inf), np.full(shape, np.inf)

    def blend(self, seen: Projected, i: int, config: RasterConfig) -> None:
        """Lay splat `i` behind those already drawn, in the pixels where its alpha counts."""
        (a, b), (_, c) = seen.covars2d[i]
        det, opacity, z = a * c - b * b, seen.opacities[i], seen.depths[i]
        if not (det > 0 and opacity >= config.alpha_min):
            return
        reach = 2 * np.log(opacity / config.alpha_min)
        (u, v), (x, y) = seen.means2d[i], np.sqrt(reach * np.array([a, c]))
        columns, rows = _span(u, x, self.width), _span(v, y, self.height)
        box = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        dx, dy = np.array(columns) + 0.5 - u, np.array(rows)[:, None] + 0.5 - v
        sigma = (0.5 * (c * dx * dx + a * dy * dy) - b * dx * dy) / det
        alpha = np.minimum(opacity * np.exp(-sigma), config.alpha_max)
        light = self.light[box]
        drawn = self.unfinished[box] & (alpha >= config.alpha_min) & (z < self.limit[box])
        rest = light * (1 - alpha)
        # A splat that would finish the pixel is not drawn itself, and nothing after it.
        finishes = drawn & (rest <= config.transmittance_min)
        self.unfinished[box] &= ~finishes
        drawn &= ~finishes
        weight = np.where(drawn, alpha * light, 0.0)
        self.rgb[box] += weight[..., None] * seen.colors[i]
        self.depth[box] += weight * z
        self.median[box][drawn & (light > 0.5) & (rest <= 0.5)] = z
        light[drawn] = rest[drawn]

    def finish(
        self, config: RasterConfig, behind: Background | None
    ) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
        """Fill what light is left; return rgb, depth [m] and alpha."""
        light = self.light[..., None]
        if behind is None:
            depth = self._median(np.inf, config) if config.far else self.depth
            return self.rgb + light * np.array(config.color), depth, 1 - self.light
        far = np.where(np.isfinite(behind.depth), behind.depth, 0.0)
        depth = self.depth + self.light * far
        if config.far:
            depth = self._median(behind.depth, config)
        return self.rgb + light * behind.rgb, depth, np.ones_like(far)

    def _median(self, behind: Any, config: RasterConfig) -> Float[np.ndarray, "H W"]:
        """Depth of what is seen first: splats, else what is behind, else `far` [m]."""
        last = np.where(np.isfinite(behind), behind, config.far)
        return np.where(np.isfinite(self.median), self.median, last)


def _span(center: float, reach: float, size: int) -> range:
    """Return pixels of a row or column whose centres are within reach, those outside left out."""
    low = max(np.ceil(center - reach - 0.5), 0.0)
    high = min(np.floor(center + reach - 0.5), size - 1.0)
    return range(int(low), int(high) + 1) if high >= low else range(0)


def _apply(
    matrices: Float[np.ndarray, "G 3 3"], vectors: Float[np.ndarray, "G 3"]
) -> Float[np.ndarray, "G 3"]:
    return np.einsum("gij,gj->gi", matrices, vectors)


def _exact(tree: Any) -> Any:
    """Return arrays of any kind as numpy's: floating ones in float64, indices as they are."""

    def leaf(x: Any) -> np.ndarray:
        x = np.asarray(x)
        # jnp's test, for it knows bfloat16 as well.
        return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, tree)
