"""Parametric objects."""

from scenes.contract.robot import Rgba
from scenes.contract.rotations import Vec3
from scenes.shapes import Box, Compound, FixedMount, Part
from scenes.specs import ObjectSpec

RED: Rgba = (0.80, 0.16, 0.15, 1.0)
GREY: Rgba = (0.45, 0.47, 0.50, 1.0)


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


def socket(
    name: str = "socket",
    *,
    hole: tuple[float, float],
    depth: float,
    seat: Vec3,
    wall: float = 0.02,
    mass: float = 1.0,
    rgba: Rgba = GREY,
    friction: Vec3 = (0.3, 0.005, 0.0001),
) -> ObjectSpec:
    """A block on the table with a rectangular hole from above; it does not move.

    Its frame is in the middle of the hole's floor, z up.

    Args:
        name: of the object.
        hole: half widths of the hole along x and y [m].
        depth: of the hole [m].
        seat: where the middle of the hole's floor is in the world [m]; the block stands below it.
        wall: how thick the block is around the hole [m].
        mass: [kg].
        rgba: colour.
        friction: slide [1], spin [m], roll [m].
    """
    (x, y), (_, _, floor) = hole, seat
    up = depth / 2
    sides = [
        Part(shape=Box((wall / 2, y + wall, up)), pos=(side * (x + wall / 2), 0.0, up))
        for side in (-1.0, 1.0)
    ] + [
        Part(shape=Box((x, wall / 2, up)), pos=(0.0, side * (y + wall / 2), up))
        for side in (-1.0, 1.0)
    ]
    base = Part(shape=Box((x + wall, y + wall, floor / 2)), pos=(0.0, 0.0, -floor / 2))
    return ObjectSpec(
        name=name,
        mass=mass,
        shape=Compound((base, *sides)),
        mount=FixedMount(),
        rgba=rgba,
        friction=friction,
        pos=seat,
    )
