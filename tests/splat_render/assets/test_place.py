"""A desk without a robot becomes the world of a scene that the simulated robot stands in."""

import contextlib
import io
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from phone_scan import write_model
from scipy.spatial.transform import Rotation

from mjx_serl.envs.observation import PixelConfig
from scenes.build import build_scene
from scenes.contract.command_line import BAD_INPUT
from scenes.layouts import pick_cube
from splat_render.assets import place
from splat_render.assets.bake import bake, pose
from splat_render.assets.formats.ply import save_ply
from splat_render.assets.scan import load_scan
from splat_render.assets.similarity import Similarity
from splat_render.assets.splat_sets import move_splats
from splat_render.types import GaussianSet

SCALE, NOISE = 2.7, 0.003
TO_SCAN = Similarity(SCALE, Rotation.random(random_state=3).as_matrix(), np.array([0.8, -2.0, 1.3]))
_DESK = """<mujoco><worldbody>
  <geom type="plane" size="0.6 0.5 0.02" pos="0.4 0 0" rgba="0.8 0.65 0.5 1"/>
  <geom type="box" size="0.05 0.08 0.12" pos="0.85 0.4 0.12" rgba="0.2 0.35 0.6 1"/>
  <geom type="box" size="0.02 1.0 0.5" pos="1.1 0 0.4" rgba="0.7 0.72 0.76 1"/>
</worldbody></mujoco>"""


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene(pick_cube()).model


@pytest.fixture(scope="module")
def desk() -> GaussianSet:
    """In the world, where the robot will stand at its origin and look along x."""
    made = bake(mujoco.MjModel.from_xml_string(_DESK), budget=1500)
    rng = np.random.default_rng(0)
    means = np.asarray(made.means) + NOISE * rng.normal(size=made.means.shape)
    return made.replace(means=jnp.asarray(means, jnp.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, desk: GaussianSet) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    save_ply(folder / "scan.ply", move_splats(desk, TO_SCAN))
    write_model(folder / "scene.xml")
    return folder


def picked(*points: tuple[float, float, float]) -> list[str]:
    """Points of the world as a person reads them off the scan."""
    return [f"{x:.4f}" for x in TO_SCAN.apply(np.array(points)).reshape(-1)]


def command(folder: Path, **changes: list[str]) -> list[str]:
    """The documented command line, some of its options changed."""
    options = {
        "model": [str(folder / "scene.xml")],
        "out": [str(folder / "my_scene")],
        "length": [*picked((-0.2, -0.5, 0.0), (1.0, -0.5, 0.0)), "1.2"],
        "base": picked((0.0, 0.0, 0.01)),
        "front": picked((0.5, 0.0, 0.0)),
    }
    given = [str(folder / "scan.ply")]
    for name, values in (options | changes).items():
        given += [f"--{name}", *values]
    return given


def test_the_documented_command_makes_a_scene_that_a_run_takes(
    folder: Path, desk: GaussianSet, model: mujoco.MjModel
) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert place.main(command(folder)) == 0
    said = output.getvalue()
    assert "scale 0.370" in said and "mm rms" in said and "of the splats within 0.8 m" in said
    assert (folder / "my_scene" / "overlay.png").is_file()
    world = load_scan(folder / "my_scene", model)
    assert set(np.asarray(world.body_id)) == {0}
    # What was kept lies where the desk is: the table at the height of the robot's base.
    at = np.asarray(world.means)
    table = at[(np.abs(at[:, 2]) < 0.03) & (at[:, 0] < 0.9)]
    assert len(table) > 300 and abs(np.median(table[:, 2])) < 0.003
    low, high = np.asarray(desk.means).min(axis=0), np.asarray(desk.means).max(axis=0)
    np.testing.assert_allclose(at.min(axis=0), low, atol=0.02)
    np.testing.assert_allclose(at.max(axis=0), high, atol=0.02)
    # The robot is not in the scan, and is baked.
    whole = PixelConfig(cameras=("front",), scan=folder / "my_scene", splats=500).splats_of(model)
    assert model.body("hand").id in np.asarray(whole.body_id)


def test_where_nothing_is_said_the_robot_looks_at_the_middle_of_the_table(
    desk: GaussianSet, model: mujoco.MjModel
) -> None:
    scan = move_splats(desk, TO_SCAN)
    base = TO_SCAN.apply(np.zeros((1, 3)))[0]
    done = place.place_scan(scan, model, pose(model), scale=1 / SCALE, base=base)
    back = done.motion.apply(TO_SCAN.apply(np.eye(3)))
    assert np.degrees(np.arccos(back[0, 0] / np.linalg.norm(back[0]))) < 3
    assert back[2, 2] == pytest.approx(1.0, abs=0.01)  # up is up


def test_what_cannot_be_placed_is_told_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = command(folder)
    other = ["--length", *picked((-0.2, -0.5, 0.0), (-0.2, 0.5, 0.0)), "1.2"]
    faults = {
        "the lengths disagree about the scale": [*side, *other],
        "is --length in metres?": command(folder, length=[*side[7:13], "1200"]),
        "a distance above 0": command(folder, length=[*side[7:13], "-1"]),
        "mm off the plane of the table, allowed: 30 mm": command(
            folder, base=picked((0.4, 0.0, 0.2))
        ),
        "splats lie within 0.8 m of --base, needed: 100": command(folder, base=["90", "0", "0"]),
        "--front is above --base": command(folder, front=picked((0.0, 0.0, 0.3))),
        "no model file": command(folder, model=["none.xml"]),
        "No such file": [str(folder / "none.ply"), *side[1:]],
    }
    for message, given in faults.items():
        assert place.main([*given, "--out", str(folder / "other")]) == BAD_INPUT, message
        lines = capsys.readouterr().err.strip().splitlines()
        assert message in lines[-1] and lines[-1].startswith("error: "), (message, lines)


def test_a_heap_is_no_table_and_a_plane_alone_has_no_upper_side() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match=r"no table at --base: \d+% of the splats"):
        place.find_plane(rng.normal(size=(2000, 3)) * 0.2, np.zeros(3), scale=1.0)
    flat = np.concatenate([rng.uniform(-0.5, 0.5, (2000, 2)), np.zeros((2000, 1))], axis=1)
    with pytest.raises(ValueError, match=r"which side of the table is up .* give --above X Y Z"):
        place.find_plane(flat, np.zeros(3), scale=1.0)
    plane = place.find_plane(flat, np.zeros(3), scale=1.0, above=np.array([0.1, 0, -0.4]))
    np.testing.assert_allclose(plane.normal, [0, 0, -1], atol=1e-6)


def test_lengths_are_needed() -> None:
    with pytest.raises(ValueError, match="--length is missing"):
        place.scale_of(np.zeros((0, 7)))
