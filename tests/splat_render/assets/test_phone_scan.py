"""docs/scans.md, followed on a synthetic phone scan with a room that the model knows nothing of.

Training on it takes minutes: `train.py --preset pixels_frozen --pixels.scan my_scene`.
"""

from pathlib import Path

import mujoco
import numpy as np
import pytest
from phone_scan import JOINTS, PhoneScan, make_scan, write_scan

from scenes.build import build_scene
from scenes.layouts import pick_cube
from splat_render.assets import align
from splat_render.assets.bake import pose
from splat_render.assets.load import load_splats
from splat_render.assets.scan import load_scan
from splat_render.assets.thin_scan import likeness, thin

BUDGET = 4000


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene(pick_cube()).model


@pytest.fixture(scope="module")
def made() -> PhoneScan:
    return make_scan(budget=BUDGET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, made: PhoneScan) -> Path:
    folder = tmp_path_factory.mktemp("phone")
    write_scan(folder, made)
    return folder


def test_the_documented_commands_make_a_scene(
    folder: Path, made: PhoneScan, model: mujoco.MjModel, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(folder / "scan.ply"), "--model", str(folder / "scene.xml")]
    command += ["--joints", *map(str, JOINTS), "--pairs", str(folder / "pairs.txt")]
    assert align.main([*command, "--out", str(folder / "my_scene"), "--keep-unknown"]) == 0
    said = capsys.readouterr().out
    assert "LOOK AT" not in said and (folder / "my_scene" / align.OVERLAY).is_file()
    scene = load_scan(folder / "my_scene", model)
    owner, means = np.asarray(scene.body_id), np.asarray(scene.means)
    assert set(np.unique(owner)) == {0, *np.flatnonzero(np.arange(model.nbody) > 0)} - _bare(model)
    # The wall behind the robot and the ball are kept, the fog in mid-air is not.
    room = means[owner == 0]
    assert (np.abs(room[:, 0] + 0.9) < 0.05).sum() > 50
    assert (np.linalg.norm(room - [0.35, 0.7, 0.05], axis=1) < 0.08).sum() > 10
    in_the_air = (room[:, 2] > 0.3) & (np.abs(room[:, 0]) < 0.7) & (np.abs(room[:, 1]) < 0.8)
    assert in_the_air.sum() < 0.005 * len(room)
    # Every link is where the arm was.
    data = pose(model, align.joints_to_qpos(model, JOINTS))
    samples = align.scene_samples(model, data, points=20_000)
    raw = load_splats(folder / "scan.ply")
    centres = np.asarray(raw.means, np.float64)
    surface = align.in_world(samples.points, samples.body_id, data)
    motion, _ = align.register(centres, surface, made.pairs)
    error = np.linalg.norm(motion.apply(centres) - made.to_world.apply(centres), axis=1)
    assert error.mean() < 0.004

    # Half of its splats look the same at 64 px.
    count = len(scene.means) // 2
    thinned = thin(scene, model, data, most=count, poses=8)
    assert len(thinned.means) <= count
    assert min(likeness(thinned, scene, model, data, poses=3).values()) >= 35


def _bare(model: mujoco.MjModel) -> set[int]:
    """Bodies without anything that is drawn."""
    return {b for b in range(1, model.nbody) if model.body_geomnum[b] == 0}
