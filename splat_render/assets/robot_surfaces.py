"""A robot's real surface as a small data file: what its visual meshes look like, body by body.

A surface is stored as points, not as splats: any budget of splats can be made from them, and light
is added in the scene they stand in. Beside them may lie splats that were fitted to photographs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, Int

from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from splat_render.assets.fitting.stored import FittedSplats, from_columns
from splat_render.assets.surface import Samples

_DATA = Path(__file__).parent / "data"
_UNIT = 2e-5  # [m] of a stored coordinate: int16 spans 1.3 m and is 0.01 mm off at most
_FRAME_TOLERANCE = 1e-4  # [m] and [1]: a surface fits only the kinematics it was made from


@dataclass(frozen=True, eq=False, kw_only=True)
class RobotSurface:
    """Surface points of a robot's bodies and the frames they hang in.

    Attributes:
        bodies: names.
        parents: row of `bodies` that each one hangs on, -1 for the first.
        frame_pos: of a body in its parent, as MuJoCo's `body_pos` [m].
        frame_quat: of a body in its parent (wxyz), as MuJoCo's `body_quat`.
        samples: points; `samples.body_id` is a row of `bodies`.
        source: where the meshes come from.
        fitted: splats made from photographs of it, the fewest first.
    """

    bodies: tuple[str, ...]
    parents: Int[np.ndarray, " B"]
    frame_pos: Float[np.ndarray, "B 3"]
    frame_quat: Float[np.ndarray, "B 4"]
    samples: Samples
    source: str
    fitted: tuple[FittedSplats, ...] = ()

    def fits(self, model: mujoco.MjModel) -> bool:
        """Return whether the model has these bodies, each in the same place on its parent.

        Body names alone are not enough: every other robot has a link1.
        """
        ids = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name) for name in self.bodies]
        if min(ids) < 0:
            return False
        return all(
            model.body_parentid[ids[row]] == ids[parent]
            and _same_frame(model, ids[row], self.frame_pos[row], self.frame_quat[row])
            for row, parent in enumerate(self.parents)
            if parent >= 0
        )

    def samples_for(self, model: mujoco.MjModel, *, first_geom: int) -> Samples:
        """Return the points with the model's body ids; geoms are counted from `first_geom`."""
        ids = self.rows_in(model)
        columns = vars(self.samples) | {
            "body_id": ids[self.samples.body_id],
            "geom_id": self.samples.geom_id + first_geom,
        }
        return Samples(**columns)

    def rows_in(self, model: mujoco.MjModel) -> Int[np.ndarray, " B"]:
        """Return the model's body ids."""
        return np.array([model.body(name).id for name in self.bodies])


def _same_frame(model: mujoco.MjModel, body: int, pos: np.ndarray, quat: np.ndarray) -> bool:
    turned = abs(float(np.dot(model.body_quat[body], quat)))
    moved = float(np.abs(model.body_pos[body] - pos).max())
    return moved <= _FRAME_TOLERANCE and np.sqrt(max(0.0, 1 - turned**2)) <= _FRAME_TOLERANCE


def make_surface(model: mujoco.MjModel, samples: Samples, *, source: str) -> RobotSurface:
    """Return the bodies that the samples lie on, with their frames in the model."""
    ids, rows = np.unique(samples.body_id, return_inverse=True)
    _, geoms = np.unique(samples.geom_id, return_inverse=True)
    parents = [np.flatnonzero(ids == model.body_parentid[body]) for body in ids]
    return RobotSurface(
        bodies=tuple(model.body(body).name for body in ids),
        parents=np.array([found[0] if len(found) else -1 for found in parents]),
        frame_pos=model.body_pos[ids].copy(),
        frame_quat=model.body_quat[ids].copy(),
        samples=Samples(**(vars(samples) | {"body_id": rows, "geom_id": geoms})),
        source=source,
    )


def surface_names() -> tuple[str, ...]:
    """Return the names of the surfaces that ship with the package."""
    return tuple(sorted(path.stem for path in _DATA.glob("*.npz")))


def save_surface(surface: RobotSurface, path: Path) -> None:
    """Write a surface, rounded to 0.02 mm, 1/127 of a normal and 1/255 of a colour."""
    samples = surface.samples
    _, first = np.unique(samples.geom_id, return_index=True)
    fitted: dict[str, Any] = {
        f"fit{i}_{name}": column
        for i, splats in enumerate(surface.fitted)
        for name, column in splats.columns().items()
    }
    np.savez_compressed(
        path,
        bodies=np.array(surface.bodies),
        parents=surface.parents.astype(np.int16),
        frame_pos=surface.frame_pos,
        frame_quat=surface.frame_quat,
        points=np.round(samples.points / _UNIT).astype(np.int16),
        normals=np.round(samples.normals * 127).astype(np.int8),
        rgba=np.round(samples.rgba * 255).astype(np.uint8),
        geom_area=samples.area[first].astype(np.float32),
        geom_body=samples.body_id[first].astype(np.uint8),
        geom_id=samples.geom_id.astype(np.uint8),
        source=np.array(surface.source),
        **fitted,
    )


def load_surface(name: str) -> RobotSurface:
    """Return a shipped surface by its name, or a file of yours by its path (it ends in .npz).

    Raises KeyError for an unknown name and FileNotFoundError for a missing file.
    """
    path = Path(name)
    if path.suffix != ".npz" and not path.exists():
        if name not in surface_names():
            raise UnknownNameError(unknown_name("robot surface", name, surface_names()))
        path = _DATA / f"{name}.npz"
    with np.load(path, allow_pickle=False) as file:
        stored = dict(file)
    return _from_stored(stored)


def _from_stored(stored: dict[str, np.ndarray]) -> RobotSurface:
    geom = stored["geom_id"].astype(np.int64)
    normals = stored["normals"].astype(np.float64)
    samples = Samples(
        points=stored["points"] * _UNIT,
        normals=normals / np.linalg.norm(normals, axis=1, keepdims=True),
        rgba=stored["rgba"] / 255.0,
        area=stored["geom_area"].astype(np.float64)[geom],
        body_id=stored["geom_body"].astype(np.int64)[geom],
        geom_id=geom,
    )
    return RobotSurface(
        bodies=tuple(str(name) for name in stored["bodies"]),
        parents=stored["parents"].astype(np.int64),
        frame_pos=stored["frame_pos"],
        frame_quat=stored["frame_quat"],
        samples=samples,
        source=str(stored["source"]),
        fitted=tuple(_fitted(stored)),
    )


def _fitted(stored: dict[str, np.ndarray]) -> Iterator[FittedSplats]:
    i = 0
    while f"fit{i}_means" in stored:
        mark = f"fit{i}_"
        yield from_columns(
            {name.removeprefix(mark): x for name, x in stored.items() if name.startswith(mark)}
        )
        i += 1
