"""Fitted splats as small columns: 25 bytes a splat with harmonics of degree 1, before zip."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from splat_render.types import GaussianSet

_UNIT = 2e-5  # [m] of a coordinate: int16 spans 1.3 m
_SMALLEST, _LARGEST = 1e-5, 0.3  # [m] of a deviation; 256 steps of 4 %
_STEP = 1 / 64  # of a harmonic; of a colour that is 1/227


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedSplats:
    """Splats of a robot, lit, for pictures of one fineness.

    Attributes:
        splats: of G Gaussians; `body_id` is a row of the surface's bodies.
        pixel: what a pixel of the pictures spans that they were fitted to, on the robot [m].
    """

    splats: GaussianSet
    pixel: float

    def __len__(self) -> int:
        return len(self.splats.means)

    def columns(self) -> dict[str, np.ndarray]:
        """Return what is stored, rounded."""
        s = {name: np.asarray(value) for name, value in vars(self.splats).items()}
        span = np.log(_LARGEST / _SMALLEST)
        scales = np.log(s["scales"].clip(_SMALLEST, _LARGEST) / _SMALLEST) / span
        return {
            "means": np.round(s["means"] / _UNIT).astype(np.int16),
            "quats": np.round(s["quats"] * 127).astype(np.int8),
            "scales": np.round(scales * 255).astype(np.uint8),
            "opacities": np.round(s["opacities"] * 255).astype(np.uint8),
            "sh": np.round(s["sh"] / _STEP).clip(-128, 127).astype(np.int8),
            "body_id": s["body_id"].astype(np.uint8),
            "pixel": np.array(self.pixel, np.float32),
        }


def from_columns(stored: Mapping[str, np.ndarray]) -> FittedSplats:
    """Return what `FittedSplats.columns` stored."""
    quats = stored["quats"].astype(np.float32)
    span = np.log(_LARGEST / _SMALLEST)
    columns = {
        "means": stored["means"].astype(np.float32) * np.float32(_UNIT),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": (_SMALLEST * np.exp(span / 255 * stored["scales"])).astype(np.float32),
        "opacities": stored["opacities"].astype(np.float32) / 255,
        "sh": stored["sh"].astype(np.float32) * np.float32(_STEP),
        "body_id": stored["body_id"].astype(np.int32),
    }
    splats = GaussianSet(**{name: jnp.asarray(column) for name, column in columns.items()})
    return FittedSplats(splats=splats, pixel=float(stored["pixel"]))
