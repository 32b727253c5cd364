"""SceneSpec -> MjModel, with the tables that turn names into indices."""

import copy
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.robot import RobotSpec
from scenes.mjcf import to_mjspec
from scenes.mjcf_robot import EE_SITE, FINGERS, GRIPPER_ACTUATOR
from scenes.specs import SceneSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class ArmIndex:
    """Where the arm and its gripper are in the model; arrays in joint order."""

    joint_ids: Int[np.ndarray, " J"]
    qpos_ids: Int[np.ndarray, " J"]
    dof_ids: Int[np.ndarray, " J"]
    body_ids: Int[np.ndarray, " J"]
    ctrl_ids: Int[np.ndarray, " J"]
    finger_qpos_ids: Int[np.ndarray, " 2"]
    finger_body_ids: Int[np.ndarray, " 2"]
    pad_geom_ids: Int[np.ndarray, " 2"]
    gripper_ctrl_id: int
    hand_body_id: int
    ee_site_id: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectIndex:
    """Where a free object is: qpos_adr starts its 7 qpos entries, dof_adr its 6 velocities."""

    body_id: int
    qpos_adr: int
    dof_adr: int
    geom_id: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """A compiled scene: the model and the name-to-index tables."""

    spec: SceneSpec
    model: mujoco.MjModel
    arm: ArmIndex
    objects: dict[str, ObjectIndex]
    cameras: dict[str, int]

    def object(self, name: str) -> ObjectIndex:
        """Return the indices of an object; raises KeyError naming the allowed ones."""
        if name not in self.objects:
            raise UnknownNameError(unknown_name("object", name, self.objects))
        return self.objects[name]

    def camera_id(self, name: str) -> int:
        """Return the id of a camera; raises KeyError naming the allowed ones."""
        if name not in self.cameras:
            raise UnknownNameError(unknown_name("camera", name, self.cameras))
        return self.cameras[name]


def build_scene(spec: SceneSpec) -> Scene:
    """Compile a scene. Raises KeyError where a camera or geom names a body that is not there."""
    return _index(spec, to_mjspec(spec).compile())


def warp_model(model: mujoco.MjModel) -> mujoco.MjModel:
    """Copy a scene's model for MJX-Warp, which never resets by itself and refuses that flag."""
    copied = copy.copy(model)
    copied.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    return copied


def _ids(values: list[int]) -> NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64)


def _index(spec: SceneSpec, model: mujoco.MjModel) -> Scene:
    return Scene(
        spec=spec,
        model=model,
        arm=_index_arm(spec.robot, model),
        objects={entry.name: _index_object(entry.name, model) for entry in spec.objects},
        cameras={camera.name: int(model.camera(camera.name).id) for camera in spec.cameras},
    )


def _index_arm(robot: RobotSpec, model: mujoco.MjModel) -> ArmIndex:
    joints = [model.joint(name) for name in robot.joint_names]
    fingers = [model.joint(f"{name}_joint") for name, _ in FINGERS]
    return ArmIndex(
        joint_ids=_ids([joint.id for joint in joints]),
        qpos_ids=_ids([int(joint.qposadr[0]) for joint in joints]),
        dof_ids=_ids([int(joint.dofadr[0]) for joint in joints]),
        body_ids=_ids([int(model.jnt_bodyid[joint.id]) for joint in joints]),
        ctrl_ids=_ids([model.actuator(name).id for name in robot.joint_names]),
        finger_qpos_ids=_ids([int(joint.qposadr[0]) for joint in fingers]),
        finger_body_ids=_ids([model.body(name).id for name, _ in FINGERS]),
        pad_geom_ids=_ids([model.geom(f"{name}_pad").id for name, _ in FINGERS]),
        gripper_ctrl_id=int(model.actuator(GRIPPER_ACTUATOR).id),
        hand_body_id=int(model.body(robot.gripper.hand.name).id),
        ee_site_id=int(model.site(EE_SITE).id),
    )


def _index_object(name: str, model: mujoco.MjModel) -> ObjectIndex:
    body = model.body(name).id
    joint = int(model.body_jntadr[body])
    return ObjectIndex(
        body_id=int(body),
        qpos_adr=int(model.jnt_qposadr[joint]),
        dof_adr=int(model.jnt_dofadr[joint]),
        geom_id=int(model.geom(name).id),
    )
