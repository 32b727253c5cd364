"""The mobile robot: what is drawn of its right arm is where a second Piper would be."""

import mujoco
import numpy as np

from scenes.bases import Fixed, Planar
from scenes.build import build_scene
from scenes.robots.mobile_piper import left_base, mobile_piper
from scenes.robots.piper import piper
from scenes.specs import MountedArm, SceneSpec

RIGHT = (0.15 + 0.0675, -0.2577, -0.133 + 0.879)  # mobile_ai.xml [m]


def drawn(arm: MountedArm, q: tuple[float, ...]) -> np.ndarray:
    """Middles of the capsules and cylinders of a robot that are drawn [m]."""
    scene = build_scene(SceneSpec(name="one", arms=(arm,)))
    model, data = scene.model, mujoco.MjData(scene.model)
    data.qpos[scene.arm.qpos_ids] = q
    mujoco.mj_kinematics(model, data)
    kinds = (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER)
    return data.geom_xpos[np.isin(model.geom_type, kinds) & (model.geom_group == 2)]


def test_the_right_arm_is_drawn_where_one_at_zero_would_be():
    mobile = drawn(MountedArm(robot=mobile_piper(), base=Planar(pos=left_base())), piper().home)
    second = drawn(MountedArm(robot=piper(), base=Fixed(pos=RIGHT)), (0.0,) * 6)
    apart = np.linalg.norm(mobile[:, None] - second, axis=2).min(axis=0)
    assert len(second) > 8 and apart.max() < 1e-9


def test_the_arm_weighs_what_a_piper_does_and_its_base_much_more():
    links, plain = mobile_piper().links, piper().links
    assert links[1:] == plain[1:]
    assert links[0].mass > plain[0].mass + 30.0
    robot = mobile_piper()
    assert {field for field, _ in robot.sources} == {field for field, _ in piper().sources}
