"""A synthetic scan of a cell, as a phone and a splat trainer would leave it, with its clicks.

    python tests/splat_render/assets/phone_scan.py FOLDER

writes scan.ply, scene.xml and pairs.txt: robot, cube, a textured table, walls and clutter that the
model knows nothing of, 3 mm noise, 2 % floaters, fog, clicks up to 1.5 cm off, in a frame and unit
of its own. It is made from other splats than the aligner bakes.
"""

import dataclasses
import sys
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from scenes.build import build_scene
from scenes.layouts import pick_cube
from scenes.mjcf import to_mjspec
from splat_render.assets import align
from splat_render.assets.bake import bake, pose, scene_splats
from splat_render.assets.formats.ply import save_ply
from splat_render.assets.pick_pairs import write_pairs
from splat_render.assets.similarity import Similarity
from splat_render.assets.splat_sets import concatenate, move_splats, take
from splat_render.types import SH_C0, GaussianSet

JOINTS = (0.0, 0.2, 0.0, -2.0, 0.0, 2.3, 0.8, 0.04, 0.04)
SCALE, NOISE, FLOATERS, CLICK = 2.7, 0.003, 0.02, 0.015
_SHIFT = np.array([0.8, -2.0, 1.3])
_ROOM = """<mujoco><worldbody>
  <geom type="box" size="0.02 1.2 0.9" pos="-0.9 0 0.3" rgba="0.75 0.74 0.68 1"/>
  <geom type="box" size="1.2 0.02 0.9" pos="0.1 0.95 0.3" rgba="0.70 0.72 0.76 1"/>
  <geom type="box" size="0.05 0.08 0.12" pos="0.95 0.45 0.12" rgba="0.2 0.35 0.6 1"/>
  <geom type="cylinder" size="0.04 0.1" pos="0.9 -0.45 0.1" rgba="0.25 0.55 0.3 1"/>
  <geom type="box" size="0.1 0.06 0.03" pos="0.15 0.62 0.03" rgba="0.55 0.3 0.2 1"/>
  <geom type="sphere" size="0.05" pos="0.35 0.7 0.05" rgba="0.85 0.75 0.2 1"/>
</worldbody></mujoco>"""


@dataclasses.dataclass(frozen=True, eq=False)
class PhoneScan:
    """The scan, what only its maker knows, and what a person clicks.

    Attributes:
        splats: in the scan's frame.
        to_world: the similarity that the aligner should find.
        pairs: a point in the scan, the same one in the world [m].
    """

    splats: GaussianSet
    to_world: Similarity
    pairs: Float[np.ndarray, "P 6"]


def make_scan(*, budget: int = 12_000, seed: int = 3) -> PhoneScan:
    """Return a scan of the cell of `pick_cube`, its arm at JOINTS."""
    rng = np.random.default_rng(seed)
    model = build_scene(pick_cube()).model
    data = pose(model, align.joints_to_qpos(model, JOINTS))
    cell = _in_world(scene_splats(model, data.qpos, budget=budget, seed=7), data)
    room = mujoco.MjModel.from_xml_string(_ROOM)
    whole = concatenate([_textured(cell), bake(room, budget=budget // 2, seed=8)])
    # Nobody films behind the walls and under the floor.
    filmed = np.abs(np.asarray(whole.means)).max(axis=1) < 1.6
    whole = take(whole, np.flatnonzero(filmed))
    means = np.asarray(whole.means, np.float64)
    noisy = whole.replace(means=jnp.asarray(means + NOISE * rng.normal(size=means.shape)))
    splats = concatenate([noisy, _floaters(noisy, rng)])
    turn = Rotation.random(random_state=seed).as_matrix()
    to_scan = Similarity(SCALE, turn, _SHIFT)
    robot = _in_world(bake(model, data.qpos, budget=3000), data)
    corners = np.asarray(robot.means, np.float64)[rng.choice(len(robot.means), 4, replace=False)]
    clicks = corners + CLICK * rng.uniform(-1, 1, corners.shape)
    return PhoneScan(
        splats=move_splats(splats, to_scan),
        to_world=Similarity(1 / SCALE, turn.T, -turn.T @ to_scan.shift / SCALE),
        pairs=np.concatenate([to_scan.apply(corners), clicks], axis=1),
    )


def _in_world(splats: GaussianSet, data: mujoco.MjData) -> GaussianSet:
    """All splats where their bodies are, on the world."""
    parts = []
    owner = np.asarray(splats.body_id)
    for body in np.unique(owner):
        motion = Similarity(1.0, data.xmat[body].reshape(3, 3), data.xpos[body])
        part = move_splats(take(splats, np.flatnonzero(owner == body)), motion)
        parts.append(part.replace(body_id=jnp.zeros_like(part.body_id)))
    return concatenate(parts)


def _textured(splats: GaussianSet) -> GaussianSet:
    """The table of wood: rings and grain over its colour."""
    means, sh = np.asarray(splats.means, np.float64), np.asarray(splats.sh).copy()
    on_table = np.abs(means[:, 2]) < 0.02
    grain = np.sin(60 * means[:, 1] + 4 * np.sin(5 * means[:, 0])) * 0.06
    sh[on_table, 0] += (grain[on_table, None] / SH_C0).astype(np.float32)
    return splats.replace(sh=jnp.asarray(sh))


def _floaters(splats: GaussianSet, rng: np.random.Generator) -> GaussianSet:
    count = int(FLOATERS * len(splats.means))
    some = take(splats, rng.choice(len(splats.means), count))
    means = rng.uniform([-1.0, -1.0, 0.1], [1.2, 0.9, 1.2], (count, 3))
    fog = rng.uniform(size=count) < 0.5
    return some.replace(
        means=jnp.asarray(means),
        scales=jnp.asarray(np.where(fog[:, None], 0.04, 0.004) * np.ones((count, 3))),
        opacities=jnp.asarray(np.where(fog, 0.03, 0.6)),
    )


def write_model(path: Path) -> None:
    """Write the scene that the scan shows, as docs/scans.md says."""
    builder = to_mjspec(pick_cube())
    builder.compile()
    path.write_text(builder.to_xml())


def write_scan(folder: Path, scan: PhoneScan) -> None:
    """Write what a user has after filming: the splats, the model and the clicked pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    save_ply(folder / "scan.ply", scan.splats)
    write_model(folder / "scene.xml")
    write_pairs(folder / "pairs.txt", list(scan.pairs))


if __name__ == "__main__":
    write_scan(Path(sys.argv[1]), make_scan())
