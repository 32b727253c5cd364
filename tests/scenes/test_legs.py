"""A quadruped under an arm: its legs mirror each other and carry everything, the arm included."""

import dataclasses

import mujoco
import numpy as np
import pytest

from scenes.bases import Legged
from scenes.build import Scene, build_scene
from scenes.layouts import pick_cube
from scenes.robots.go2 import go2
from scenes.robots.piper import piper
from scenes.specs import MountedArm, SceneSpec

MOUNT = (0.0, 0.0, 0.057)


@pytest.fixture(scope="module")
def dog() -> Scene:
    base = Legged(robot=go2(), mount=MOUNT, pos=(0.0, 0.0, 0.2884 + MOUNT[2]))
    return build_scene(SceneSpec(name="dog", arms=(MountedArm(robot=piper(), base=base),)))


@pytest.fixture
def data(dog: Scene) -> mujoco.MjData:
    data = mujoco.MjData(dog.model)
    mujoco.mj_resetDataKeyframe(dog.model, data, 0)
    mujoco.mj_forward(dog.model, data)
    return data


def test_it_weighs_and_reaches_what_menagerie_says(dog: Scene):
    """go2.xml of unitree_go2: 15.2 kg; the rear right hip and calf, which are mirrored here."""
    model = dog.model
    legs = model.body("trunk").subtreemass[0]
    assert legs == pytest.approx(15.2064, abs=1e-4) == go2().mass
    hip, calf = model.body("RR_hip"), model.body("RR_calf")
    np.testing.assert_allclose(hip.pos, (-0.1934, -0.0465, 0.0))
    np.testing.assert_allclose(hip.ipos, (0.0054, -0.00194, -0.000105))
    np.testing.assert_allclose(calf.ipos, (0.00629595, 0.000622121, -0.141417))
    np.testing.assert_allclose(sorted(calf.inertia), sorted((0.0014901, 0.00146356, 5.31397e-05)))
    assert model.joint("RL_thigh").range.tolist() == [-0.5236, 4.5379]
    assert model.joint("FL_thigh").range.tolist() == [-1.5708, 3.4907]


def test_its_feet_are_on_the_ground_where_episodes_begin(dog: Scene, data: mujoco.MjData):
    feet = np.array([data.geom(f"{leg}_foot").xpos for leg in go2().LEGS])
    np.testing.assert_allclose(feet[:, 2], 0.022, atol=2e-4)
    np.testing.assert_allclose(
        feet[:, :2], feet[0, :2] * [[1, 1], [1, -1], [-1, 1], [-1, -1]], atol=0.005
    )
    assert len(dog.arm.base_qpos_ids) == 7 + 12 and len(dog.arm.base_ctrl_ids) == 12
    assert not set(dog.arm.base_ctrl_ids) & set(dog.arm.driven_ctrl_ids)


def test_the_ground_carries_legs_and_arm(dog: Scene, data: mujoco.MjData):
    """On a table an arm here weighs nothing; on legs it does, and nothing else holds it up."""
    mujoco.mj_step(dog.model, data, 400)
    force, total = np.zeros(6), 0.0
    for i in range(data.ncon):
        mujoco.mj_contactForce(dog.model, data, i, force)
        total += force[0]
    assert total == pytest.approx(9.81 * dog.model.body_mass.sum(), rel=0.01)
    assert data.body("trunk").xmat[8] > 0.999
    fixed = build_scene(pick_cube(piper())).model
    assert (fixed.body_gravcomp[1:-1] == 1.0).all() and not dog.model.body_gravcomp.any()


def test_a_stance_beyond_a_limit_is_refused():
    with pytest.raises(ValueError, match=r"'go2': stance 0.5 rad, allowed -2.7227..-0.83776"):
        dataclasses.replace(go2(), stance=(0.0, 0.9, 0.5))
