"""Parametric objects."""

import math

from scenes.contract.robot import Rgba
from scenes.contract.rotations import UNIT_QUAT, Quat, Vec3
from scenes.shapes import Box, Compound, FixedMount, Mount, Part
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
    base: float | None = None,
    quat: Quat = UNIT_QUAT,
    mass: float = 1.0,
    rgba: Rgba = GREY,
    friction: Vec3 = (0.3, 0.005, 0.0001),
) -> ObjectSpec:
    """A block with a rectangular hole, from above unless it is turned; it does not move.

    Its frame is in the middle of the hole's floor, z out of the hole.

    Args:
        name: of the object.
        hole: half widths of the hole along x and y [m].
        depth: of the hole [m].
        seat: where the middle of the hole's floor is in the world [m].
        wall: how thick the block is around the hole [m].
        base: how thick it is behind the hole's floor [m]; None for down to the table.
        quat: its axes in the world, wxyz.
        mass: [kg].
        rgba: colour.
        friction: slide [1], spin [m], roll [m].
    """
    x, y = hole
    up, floor = depth / 2, seat[2] if base is None else base
    sides = [
        Part(shape=Box((wall / 2, y + wall, up)), pos=(side * (x + wall / 2), 0.0, up))
        for side in (-1.0, 1.0)
    ] + [
        Part(shape=Box((x, wall / 2, up)), pos=(0.0, side * (y + wall / 2), up))
        for side in (-1.0, 1.0)
    ]
    behind = Part(shape=Box((x + wall, y + wall, floor / 2)), pos=(0.0, 0.0, -floor / 2))
    return ObjectSpec(
        name=name,
        mass=mass,
        shape=Compound((behind, *sides)),
        mount=FixedMount(),
        rgba=rgba,
        friction=friction,
        pos=seat,
        quat=quat,
    )


def frying_pan(
    name: str = "pan",
    *,
    half_width: float,
    rim: float,
    slope: float,
    handle: float,
    mount: Mount,
    pos: Vec3,
    quat: Quat,
    mass: float = 0.2,
    friction: Vec3 = (0.2, 0.005, 0.0001),
) -> ObjectSpec:
    """A square pan of boxes with sloped rims; its handle goes along -x.

    Its frame is in the middle of the floor's top, z up.

    Args:
        name: of the object.
        half_width: of the floor along x and y [m].
        rim: length of the rims up their slope [m].
        slope: of the rims, away from upright [rad].
        handle: from the floor's edge along -x [m].
        mount: how it is held.
        pos, quat: of its frame, where the mount says [m], wxyz.
        mass: [kg].
        friction: slide [1], spin [m], roll [m].
    """
    thick = 0.003  # half of every wall's [m]
    out, up = math.sin(slope) * rim / 2, math.cos(slope) * rim / 2
    far, c, s = half_width + out, math.cos(slope / 2), math.sin(slope / 2)
    length = half_width + 2 * out
    walls = [
        Part(shape=Box((thick, length, rim / 2)), pos=(far, 0.0, up), quat=(c, 0.0, s, 0.0)),
        Part(shape=Box((thick, length, rim / 2)), pos=(-far, 0.0, up), quat=(c, 0.0, -s, 0.0)),
        Part(shape=Box((length, thick, rim / 2)), pos=(0.0, far, up), quat=(c, -s, 0.0, 0.0)),
        Part(shape=Box((length, thick, rim / 2)), pos=(0.0, -far, up), quat=(c, s, 0.0, 0.0)),
    ]
    floor = Part(shape=Box((half_width, half_width, thick)), pos=(0.0, 0.0, -thick))
    grip = Part(shape=Box((handle / 2, 0.008, 0.006)), pos=(-half_width - handle / 2, 0.0, -0.006))
    return ObjectSpec(
        name=name,
        mass=mass,
        shape=Compound((floor, *walls, grip)),
        mount=mount,
        rgba=GREY,
        friction=friction,
        pos=pos,
        quat=quat,
    )
