"""Domain randomisation of the appearance: what a picture of a world may look like.

Each episode draws a `Look`: one of `variants` prepared backgrounds with their own camera
mounting (a camera that moved needs another background picture, so jitter comes in variants), and
colours and a light of its own.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from mjx_serl.types import PRNGKey
from scenes.contract.ranges import check_ranges, ranged
from splat_render.cameras import CameraRig, jittered
from splat_render.tints import Tints, tint
from splat_render.types import GaussianSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookConfig:
    """How much the appearance varies; all zero is one fixed look.

    Attributes:
        variants: backgrounds with camera mountings of their own, prepared once.
        background: standard deviation of each variant's colour gains on what never moves [1].
        camera_position: standard deviation of a variant's camera position along each axis [m].
        camera_angle: standard deviation of its rotation about each axis [deg].
        color: half-width of each world's uniform gain on each of red, green and blue [1].
        light: half-width of each world's brightness slope across the picture [1].
    """

    variants: int = ranged(1, least=1, most=1024)
    background: float = ranged(0.0, least=0, below=90)
    camera_position: float = ranged(0.0, least=0, below=90)
    camera_angle: float = ranged(0.0, least=0, below=90)
    color: float = ranged(0.0, least=0, below=90)
    light: float = ranged(0.0, least=0, below=90)

    def __post_init__(self) -> None:
        check_ranges(self)


@struct.dataclass
class Look:
    """Appearance of worlds [*n].

    Attributes:
        variant: index of the background and its camera mounting.
        gain: of red, green and blue [1].
        slope: of the brightness across the picture, along x and y [1].
    """

    variant: Int[Array, "*n"]
    gain: Float[Array, "*n 3"]
    slope: Float[Array, "*n 2"]


def draw_looks(config: LookConfig, key: PRNGKey, num: int) -> Look:
    """Return the appearance of `num` episodes."""
    k_variant, k_gain, k_slope = jax.random.split(key, 3)
    return Look(
        variant=jax.random.randint(k_variant, (num,), 0, config.variants),
        gain=1.0 + config.color * jax.random.uniform(k_gain, (num, 3), minval=-1.0),
        slope=config.light * jax.random.uniform(k_slope, (num, 2), minval=-1.0),
    )


def apply_look(
    config: LookConfig, look: Look, rgb: UInt8[Array, "N C H W 3"]
) -> UInt8[Array, "N C H W 3"]:
    """Return finished pictures tinted and lit; as they are where the config varies neither."""
    if config.color == 0.0 and config.light == 0.0:
        return rgb
    y = jnp.linspace(-1.0, 1.0, rgb.shape[-3])[:, None]
    x = jnp.linspace(-1.0, 1.0, rgb.shape[-2])
    slope = look.slope[:, :, None, None]
    light = 1.0 + slope[:, 0] * x + slope[:, 1] * y
    gain = light[:, None, :, :, None] * look.gain[:, None, None, None, :]
    return jnp.clip(rgb.astype(jnp.float32) * gain + 0.5, 0.0, 255.0).astype(jnp.uint8)


def jitter_rigs(config: LookConfig, rig: CameraRig, *, seed: int) -> CameraRig:
    """Return the rig once per variant (leaves [V, C, ...]); the first is not moved."""
    return jittered(
        rig,
        config.variants,
        position=config.camera_position,
        angle=config.camera_angle,
        rng=np.random.default_rng(seed),
    )


def tinted(
    config: LookConfig, splats: GaussianSet, static: Bool[np.ndarray, " B"], *, seed: int
) -> tuple[GaussianSet, Tints | None]:
    """Return the splats with the colours of each variant; None where there is one look."""
    if config.variants == 1 or config.background == 0.0:
        return splats, None
    rng = np.random.default_rng(seed)
    return tint(splats, static, variants=config.variants, deviation=config.background, rng=rng)
