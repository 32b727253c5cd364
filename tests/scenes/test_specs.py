"""Specs are plain data: light to import, strict about what they are given."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scenes.build import Scene, build_scene
from scenes.contract.rotations import full_inertia, quat_to_matrix
from scenes.contract.specs import ActionSpec, CameraSpec, ObsField, ObsSpec
from scenes.layouts import pick_cube
from scenes.objects import cube
from scenes.robots import ROBOTS, robot_named
from scenes.specs import ObjectSpec

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["scenes.specs", "scenes.robots", "scenes.layouts"])
def test_specs_need_numpy_only(module: str) -> None:
    """The bridge imports these; a fresh interpreter must not load a simulator or JAX."""
    code = (
        f"import sys, {module}; "
        "print(*sorted({m.split('.')[0] for m in sys.modules} & "
        "{'jax', 'flax', 'mujoco', 'jaxtyping', 'torch', 'mjx_serl'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == ""


def test_building_a_scene_needs_no_jax() -> None:
    code = "import sys, scenes.build, scenes.layouts; print('jax' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_every_number_of_a_robot_has_a_source(name: str) -> None:
    robot = robot_named(name)
    sourced = [field for field, _ in robot.sources]
    numeric = {f.name for f in dataclasses.fields(robot)} - {"name", "joint_names", "sources"}
    # What is nothing was measured by nobody: system identification gives these their values.
    unstated = {field for field in ("friction_loss", "payload") if not getattr(robot, field)}
    assert set(sourced) == numeric - unstated
    assert len(sourced) == len(set(sourced))


def test_unknown_names_say_what_is_allowed(panda_scene: Scene) -> None:
    with pytest.raises(KeyError, match=r"Unknown robot 'pandas'. Did you mean 'panda'.*fr3"):
        robot_named("pandas")
    with pytest.raises(KeyError, match=r"Unknown camera 'wirst'. Did you mean 'wrist'"):
        panda_scene.camera_id("wirst")
    with pytest.raises(KeyError, match=r"Unknown object 'ball'. Allowed: cube"):
        panda_scene.object("ball")
    with pytest.raises(KeyError, match=r"Unknown camera 'side'"):
        panda_scene.spec.camera("side")
    with pytest.raises(KeyError, match=r"Unknown object 'ball'"):
        panda_scene.spec.object("ball")
    with pytest.raises(KeyError, match=r"Unknown observation 'imge'. Did you mean 'image'"):
        _ = ObsSpec(fields=(ObsField(name="image", shape=(64, 64, 3), dtype="uint8"),))["imge"]


def test_camera_on_an_unknown_body_is_refused_when_built() -> None:
    camera = CameraSpec(name="tool", body="hnad", pos=(0, 0, 0), quat=(1, 0, 0, 0), fovy=60)
    spec = dataclasses.replace(pick_cube(), cameras=(camera,))
    with pytest.raises(KeyError, match=r"Unknown body 'hnad'. Did you mean 'hand'"):
        build_scene(spec)


@pytest.mark.parametrize("size", [-0.02, 0.0, float("nan"), float("inf")])
def test_impossible_sizes_are_refused(size: float) -> None:
    with pytest.raises(ValueError, match=r"ObjectSpec 'cube': half_size must be positive"):
        cube(half_size=size)


def test_other_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="mass must be positive"):
        cube(mass=-1.0)
    with pytest.raises(ValueError, match="shape must be 'box', got 'ball'"):
        ObjectSpec(name="ball", shape="ball", half_size=(1, 1, 1), mass=1)
    with pytest.raises(ValueError, match="fovy must be positive"):
        CameraSpec(name="c", pos=(0, 0, 0), quat=(1, 0, 0, 0), fovy=0)
    with pytest.raises(ValueError, match="actuation must be 'position' or 'torque'"):
        pick_cube(actuation="velocity")
    with pytest.raises(ValueError, match="object names must be unique, got twice: cube"):
        dataclasses.replace(pick_cube(), objects=(cube(), cube()))
    with pytest.raises(ValueError, match="sim_dt must be positive"):
        dataclasses.replace(pick_cube(), sim_dt=0.0)


def test_a_pose_outside_the_limits_names_the_joint() -> None:
    """The Panda's q6 may be below 0.5445 rad, the FR3's may not."""
    low_wrist = (0.0, -0.7, 0.0, -2.3, 0.0, 0.5, 0.0)
    assert dataclasses.replace(pick_cube(), home=low_wrist).home_q == low_wrist
    with pytest.raises(ValueError, match=r"fr3: home .* of joint6 is 0.5 rad, allowed 0.5445"):
        dataclasses.replace(pick_cube(robot_named("fr3")), home=low_wrist)
    with pytest.raises(ValueError, match="has 3 joints, allowed 7"):
        dataclasses.replace(pick_cube(), home=(0.0, 0.0, 0.0))


def test_a_joint_table_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="tau_max has 2 entries, allowed 7"):
        dataclasses.replace(robot_named("panda"), tau_max=(87.0, 87.0))


def test_action_and_observation_specs_describe_themselves() -> None:
    spec = ActionSpec(
        mode="ee_delta", names=("dx", "dy", "dz", "gripper"), scale=(0.025,) * 3 + (1.0,), rate=10
    )
    assert (spec.dim, spec.low, spec.high, spec.base) == (4, -1.0, 1.0, "target")
    with pytest.raises(ValueError, match="2 names but 1 scales"):
        ActionSpec(mode="ee_delta", names=("dx", "dy"), scale=(0.1,), rate=10)
    obs = ObsSpec(fields=(ObsField(name="q", shape=(7,), unit="rad"), ObsField(name="t", shape=())))
    assert obs.names == ("q", "t")
    assert obs["q"].unit == "rad"


def test_specs_are_hashable_values() -> None:
    assert hash(pick_cube()) == hash(pick_cube())
    assert pick_cube() != pick_cube(robot_named("fr3"))


def test_full_inertia_of_a_quarter_turn_swaps_the_axes() -> None:
    half = np.sqrt(0.5)
    got = full_inertia((half, 0, 0, half), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(got, (2.0, 1.0, 3.0, 0.0, 0.0, 0.0), atol=1e-15)
    turn = quat_to_matrix((2 * half, 0, 0, 2 * half))
    np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-15)
