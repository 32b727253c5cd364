"""What every renderer takes and gives: splats on bodies, body poses, cameras, pictures.

Names and shapes are gsplat's, poses are MuJoCo's (quaternions wxyz). Splats are stored once, in
the frame of the body they are attached to; worlds differ in the poses only.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from scenes.contract.errors import InputError

MAX_SH_DEGREE = 3
SH_C0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))


@struct.dataclass
class GaussianSet:
    """G Gaussians, each fixed to a body; activated values, never a .ply's logarithms.

    Attributes:
        means: in the body's frame [m].
        quats: in the body's frame (wxyz, unit).
        scales: standard deviations along the axes of `quats` [m].
        opacities: in [0, 1].
        sh: K = (degree + 1)^2 spherical harmonics of the colour minus 0.5, with directions in the
            body's frame.
        body_id: row of `BodyPoses`.
    """

    means: Float[Array, "G 3"]
    quats: Float[Array, "G 4"]
    scales: Float[Array, "G 3"]
    opacities: Float[Array, " G"]
    sh: Float[Array, "G K 3"]
    body_id: Int[Array, " G"]


@struct.dataclass
class BodyPoses:
    """World poses of all B bodies; row 0 is the world.

    Attributes:
        xpos: as MuJoCo's [m].
        xquat: as MuJoCo's (wxyz).
        opacity: factor in [0, 1] on the opacities of a body's splats; None is 1 everywhere.
        gain: factor on the red, green and blue of a body's splats; None is 1 everywhere.
    """

    xpos: Float[Array, "*n B 3"]
    xquat: Float[Array, "*n B 4"]
    opacity: Float[Array, "*n B"] | None = None
    gain: Float[Array, "*n B 3"] | None = None


@struct.dataclass
class CameraBatch:
    """C pinhole cameras.

    Attributes:
        viewmats: world to camera (OpenCV: +z ahead, +y down).
        Ks: intrinsics [px].
    """

    viewmats: Float[Array, "*n C 4 4"]
    Ks: Float[Array, "*n C 3 3"]


@struct.dataclass
class Background:
    """What C fixed cameras see of the things that never move, in V looks.

    A moving splat is drawn in a pixel only where it is nearer than the background's depth.

    Attributes:
        rgb: the finished picture in [0, 1].
        depth: median depth along the camera's z [m]; inf where nothing is.
    """

    rgb: Float[Array, "V C H W 3"]
    depth: Float[Array, "V C H W"]


@struct.dataclass
class Frame:
    """Pictures of C cameras in each world.

    Attributes:
        rgb: uint8, clipped and rounded to the nearest of 255 steps, or float32 (not clipped).
        depth: sum of weight * z over the splats [m], plus what is left of the light times the
            background's finite depth; with `RasterConfig.far` the median (`median_depth`).
        alpha: 1 - the light that passes all splats; with a `Background`, which fills the rest, 1
            everywhere.
    """

    rgb: Shaped[Array, "*n C H W 3"]
    depth: Float[Array, "*n C H W"]
    alpha: Float[Array, "*n C H W"]


@dataclass(frozen=True, kw_only=True)
class RasterConfig:
    """How splats become pixels; hashable, so it can be static under jit.

    Attributes:
        width, height: of a picture [px]; any size from 1 to 4096.
        antialiased: scale opacities by sqrt(det / det'), so that splats smaller than a pixel do
            not grow brighter (Mip-Splatting, arXiv 2311.16493); worth 6 to 9 dB below 200 px.
        rgb_dtype: of `Frame.rgb`.
        color: behind everything where there is no `Background`, in [0, 1].
        alpha_max: a splat's alpha is clipped to this. 0.999 is compiled into gsplat 1.5 and splax,
            so with it all backends draw the same picture (gsplat 1.6 and 3DGS: 0.99).
        alpha_min: alphas below it draw nothing.
        transmittance_min: a pixel is finished when a splat would leave this much light or less.
        blur: added to the diagonal of the projected covariance [px^2] (3DGS's low-pass).
        near: splats whose centre is nearer than this along z draw nothing [m].
        far: above 0, `Frame.depth` is the median, and this where nothing is [m]: what a sensor
            would say, while a sum of depths is too large where light passes through a surface.
            gsplat and splax, which know no median, take the mean of the splats for it.
    """

    width: int
    height: int
    antialiased: bool = True
    rgb_dtype: Literal["uint8", "float32"] = "uint8"
    color: tuple[float, float, float] = (0.0, 0.0, 0.0)
    alpha_max: float = 0.999
    alpha_min: float = 1.0 / 255.0
    transmittance_min: float = 1e-4
    blur: float = 0.3
    near: float = 0.01
    far: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if not 1 <= getattr(self, name) <= 4096:
                raise InputError(f"RasterConfig: {name} {getattr(self, name)}, allowed: 1 to 4096")
        if self.rgb_dtype not in ("uint8", "float32"):
            raise InputError(f"RasterConfig: rgb_dtype '{self.rgb_dtype}', allowed: uint8, float32")
        if not 0.0 < self.alpha_min < self.alpha_max < 1.0:
            raise InputError(
                f"RasterConfig: alpha_min {self.alpha_min}, alpha_max {self.alpha_max}; "
                "allowed: 0 < alpha_min < alpha_max < 1"
            )
        if not 0.0 <= self.transmittance_min < 1.0:
            raise InputError(
                f"RasterConfig: transmittance_min {self.transmittance_min}, allowed: 0 to below 1"
            )
        if not self.near > 0.0:
            raise InputError(f"RasterConfig: near {self.near}, allowed: above 0")
        for name in ("blur", "far"):
            if not getattr(self, name) >= 0.0:
                raise InputError(f"RasterConfig: {name} {getattr(self, name)}, allowed: 0 or more")


def as_dtype(rgb: Float[Array, "*n 3"], config: RasterConfig) -> Shaped[Array, "*n 3"]:
    """Return a picture as `config.rgb_dtype`; uint8 is rounded to the nearest step."""
    if config.rgb_dtype == "float32":
        return rgb
    return jnp.floor(255 * jnp.clip(rgb, 0.0, 1.0) + 0.5).astype(jnp.uint8)


def median_depth(
    median: Float[Array, "*n"], behind: Float[Array, "*n"] | float, config: RasterConfig
) -> Float[Array, "*n"]:
    """Return `Frame.depth` with `RasterConfig.far`; it has no gradient.

    Args:
        median: depth of the splat that takes the light below a half [m], inf where none does.
        behind: the background's depth [m], inf where nothing is.
        config: of the picture.
    """
    behind = jnp.where(jnp.isfinite(behind), behind, config.far)
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(median), median, behind))


def sh_degree(coefficients: int) -> int:
    """Return the degree of K = (degree + 1)^2 coefficients; ValueError unless it is 0 to 3."""
    degree = math.isqrt(coefficients) - 1
    if (degree + 1) ** 2 != coefficients or not 0 <= degree <= MAX_SH_DEGREE:
        raise InputError(f"sh has {coefficients} coefficients, allowed: 1, 4, 9 or 16")
    return degree
