"""Parametric objects."""

from scenes.contract.robot import Rgba
from scenes.specs import ObjectSpec

RED: Rgba = (0.80, 0.16, 0.15, 1.0)


def cube(
    name: str = "cube",
    *,
    half_size: float = 0.02,
    mass: float = 0.1,
    rgba: Rgba = RED,
    xy: tuple[float, float] = (0.5, 0.0),
) -> ObjectSpec:
    """A cube resting on the table at `xy` [m]; half_size [m] and mass [kg] default to gym-hil's."""
    return ObjectSpec(
        name=name,
        half_size=(half_size, half_size, half_size),
        mass=mass,
        rgba=rgba,
        pos=(*xy, half_size),
    )
