"""What rooms look like before they are splats: MuJoCo geoms with textures made by formulas.

The table's top is at z = 0, walls stand behind the robot (-x) and at its left (+y). Things stand
where no task of ours works: behind the robot's base, or beyond 0.65 m at its left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float
from scipy import ndimage

from scenes.contract.registry import Registry

Rgb = tuple[float, float, float]
Vec = tuple[float, float, float]
Picture = Float[np.ndarray, "H W 3"]

ROOMS: Registry[Callable[[], mujoco.MjModel]] = Registry("room")

TABLE_LOW, TABLE_HIGH = (-0.88, -1.2), (1.6, 0.93)  # [m]
# Nothing stands in here: tasks work there [m].
WORK_LOW, WORK_HIGH = (-0.2, -0.6, 0.03), (1.3, 0.6, 1.0)
TASK = "task"
_WALL_HEIGHT = 1.6  # [m] above the table
_TO_X, _TO_Y = (0.5**0.5, 0.0, 0.5**0.5, 0.0), (0.5**0.5, 0.5**0.5, 0.0, 0.0)  # z to +x, to -y


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something on the table.

    Attributes:
        kind: of geom.
        size: as MuJoCo's [m].
        pos: of its centre [m].
        rgb: its colour.
        yaw: about the vertical [rad].
        specular: in [0, 1].
    """

    kind: mujoco.mjtGeom
    size: Vec
    pos: Vec
    rgb: Rgb
    yaw: float = 0.0
    specular: float = 0.2


_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
_SPHERE = mujoco.mjtGeom.mjGEOM_SPHERE
_BOOKS = (
    Thing(kind=_BOX, size=(0.11, 0.08, 0.018), pos=(0.2, 0.76, 0.018), rgb=(0.55, 0.16, 0.14)),
    Thing(
        kind=_BOX, size=(0.10, 0.075, 0.013), pos=(0.2, 0.76, 0.049), rgb=(0.16, 0.3, 0.5), yaw=0.2
    ),
    Thing(
        kind=_BOX, size=(0.09, 0.07, 0.02), pos=(0.2, 0.76, 0.082), rgb=(0.85, 0.8, 0.68), yaw=-0.15
    ),
)
_MUG = (
    Thing(
        kind=_CYLINDER,
        size=(0.04, 0.05, 0.0),
        pos=(0.62, 0.75, 0.05),
        rgb=(0.2, 0.45, 0.5),
        specular=0.6,
    ),
    Thing(kind=_BOX, size=(0.02, 0.006, 0.026), pos=(0.678, 0.75, 0.052), rgb=(0.2, 0.45, 0.5)),
)
_BOTTLE = (
    Thing(
        kind=_CYLINDER,
        size=(0.035, 0.1, 0.0),
        pos=(-0.55, 0.5, 0.1),
        rgb=(0.2, 0.42, 0.24),
        specular=0.7,
    ),
    Thing(kind=_CYLINDER, size=(0.013, 0.03, 0.0), pos=(-0.55, 0.5, 0.23), rgb=(0.75, 0.72, 0.6)),
)
_TOOLBOX = (
    Thing(
        kind=_BOX,
        size=(0.09, 0.16, 0.07),
        pos=(-0.62, -0.55, 0.07),
        rgb=(0.72, 0.3, 0.12),
        yaw=0.25,
    ),
    Thing(
        kind=_BOX,
        size=(0.015, 0.07, 0.012),
        pos=(-0.62, -0.55, 0.155),
        rgb=(0.15, 0.15, 0.16),
        yaw=0.25,
    ),
)
_BALL = (Thing(kind=_SPHERE, size=(0.06, 0.0, 0.0), pos=(-0.5, 0.78, 0.06), rgb=(0.88, 0.7, 0.2)),)
_BINS = (
    Thing(kind=_BOX, size=(0.12, 0.1, 0.06), pos=(0.05, 0.76, 0.06), rgb=(0.15, 0.33, 0.62)),
    Thing(kind=_BOX, size=(0.12, 0.1, 0.06), pos=(0.35, 0.78, 0.06), rgb=(0.75, 0.62, 0.12)),
    Thing(kind=_BOX, size=(0.08, 0.08, 0.12), pos=(-0.64, -0.5, 0.12), rgb=(0.32, 0.35, 0.38)),
    Thing(kind=_CYLINDER, size=(0.05, 0.09, 0.0), pos=(-0.6, 0.45, 0.09), rgb=(0.62, 0.64, 0.66)),
)


@ROOMS.register("wood")
def wood() -> mujoco.MjModel:
    """A table of wooden planks before plastered walls, with books, a mug, a bottle, a toolbox."""
    rng = np.random.default_rng(1)
    things = (*_BOOKS, *_MUG, *_BOTTLE, *_TOOLBOX, *_BALL)
    plaster = _plaster(rng, (0.80, 0.77, 0.70))
    return _room(_planks(rng), plaster, things)


@ROOMS.register("lab")
def lab() -> mujoco.MjModel:
    """A speckled grey bench before walls of white brick, with bins and boxes."""
    rng = np.random.default_rng(2)
    return _room(_speckles(rng, (0.62, 0.64, 0.66)), _bricks(rng), (*_BINS, *_MUG, *_BALL))


def _room(table: Picture, wall: Picture, things: Sequence[Thing]) -> mujoco.MjModel:
    builder = mujoco.MjSpec()
    low, high = np.array(TABLE_LOW), np.array(TABLE_HIGH)
    half, center = (high - low) / 2, (high + low) / 2
    top = _WALL_HEIGHT / 2 - 0.1
    back, left = low[0] - 0.02, high[1] + 0.02
    _sheet(builder, "table", (*half, 0.1), (*center, 0.0), table)
    upright = wall.swapaxes(0, 1)  # the plane's own x points down there
    rise = (_WALL_HEIGHT + 0.2) / 2
    _sheet(builder, "back", (rise, 1.6, 0.1), (back, left - 1.6, top), upright, _TO_X)
    _sheet(builder, "left", (1.6, rise, 0.1), (back + 1.6, left, top), wall, _TO_Y)
    _add_task(builder)
    for number, thing in enumerate(things):
        material = builder.add_material(
            name=f"thing{number}", rgba=[*thing.rgb, 1.0], specular=thing.specular
        )
        builder.worldbody.add_geom(
            type=thing.kind,
            size=thing.size,
            pos=thing.pos,
            quat=[np.cos(thing.yaw / 2), 0.0, 0.0, np.sin(thing.yaw / 2)],
            material=material.name,
        )
    return builder.compile()


def _add_task(builder: mujoco.MjSpec) -> None:
    """Add a body in place of a task, so that splats are baked smallest below it."""
    body = builder.worldbody.add_body(name=TASK, pos=[0.45, 0.0, 0.01])
    body.add_freejoint()
    body.add_geom(type=_BOX, size=[0.4, 0.4, 0.01])


def _sheet(
    builder: mujoco.MjSpec,
    name: str,
    half: Sequence[float] | np.ndarray,
    center: Sequence[float] | np.ndarray,
    picture: Picture,
    quat: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0),
) -> None:
    """Add a plane that its picture covers once."""
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    height, width, channels = pixels.shape
    texture = builder.add_texture(
        name=name,
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        height=height,
        width=width,
        nchannel=channels,
    )
    texture.data = pixels.tobytes()
    material = builder.add_material(name=name, rgba=[1, 1, 1, 1], specular=0.1)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    builder.worldbody.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_PLANE, size=half, pos=center, quat=quat, material=name
    )


def _noise(
    rng: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]
) -> np.ndarray:
    """Return smooth noise of deviation 1 that varies over `sigma` [px] along each axis."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return field / field.std()


def _planks(rng: np.random.Generator, size: int = 1024, count: int = 12) -> Picture:
    """Return planks along x, each with a tone and grain of its own."""
    shape = (size, size)
    row = np.arange(size) * count // size
    tone = (1 + 0.10 * rng.normal(size=count))[row][:, None]
    bent = np.mgrid[:size, :size][0] + 14 * _noise(rng, shape, (20, 120))
    grain = np.sin(2 * np.pi * bent / 13.0) + 0.8 * _noise(rng, shape, (1.5, 60))
    seam = np.where(np.arange(size) % (size // count) < 3, 0.55, 1.0)[:, None]
    light = tone * seam * (1 + 0.07 * grain + 0.04 * _noise(rng, shape, (30, 30)))
    return light[..., None] * np.array([0.66, 0.46, 0.28])


def _plaster(rng: np.random.Generator, rgb: Rgb, size: int = 512) -> Picture:
    """Return a painted wall with faint unevenness."""
    light = (
        1 + 0.03 * _noise(rng, (size, size), (25, 25)) + 0.02 * _noise(rng, (size, size), (4, 4))
    )
    return light[..., None] * np.array(rgb)


def _speckles(rng: np.random.Generator, rgb: Rgb, size: int = 1024) -> Picture:
    """Return laminate with light and dark specks."""
    specks = _noise(rng, (size, size), (7, 7))
    light = 1 + 0.08 * (specks > 1.5) - 0.12 * (specks < -1.5)
    light = light + 0.03 * _noise(rng, (size, size), (60, 60))
    return light[..., None] * np.array(rgb)


def _bricks(rng: np.random.Generator, size: int = 512, rows: int = 16, columns: int = 8) -> Picture:
    """Return painted bricks, each of a tone of its own, with darker joints."""
    y, x = np.mgrid[:size, :size]
    row = y * rows // size
    shifted = x + (row % 2) * size // (2 * columns)
    column = (shifted * columns // size) % columns
    tone = (1 + 0.05 * rng.normal(size=(rows, columns)))[row, column]
    joint = (y % (size // rows) < 3) | (shifted % (size // columns) < 3)
    light = np.where(joint, 0.72, tone) * (1 + 0.02 * _noise(rng, (size, size), (3, 3)))
    return light[..., None] * np.array([0.84, 0.84, 0.82])
