"""SceneSpec -> MjModel, with the tables that turn names into indices."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import mujoco
import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.mjcf import to_mjspec
from scenes.mjcf_objects import geom_name
from scenes.mjcf_robot import EE_SITE, FINGERS, GRIPPER_ACTUATOR
from scenes.shapes import Chain, MarkerMount, parts_of
from scenes.specs import MountedArm, ObjectSpec, SceneSpec, only


@dataclass(frozen=True, eq=False, kw_only=True)
class ArmIndex:
    """Where an arm, its base and its gripper are in the model.

    Attributes:
        joint_ids: of the arm's joints, in their order; so are the next four.
        qpos_ids: their places in qpos.
        dof_ids: their places in qvel.
        body_ids: the bodies they move.
        ctrl_ids: their actuators.
        finger_qpos_ids: places in qpos that add up to the opening [m].
        finger_body_ids: the fingers.
        pad_geom_ids: what grips.
        gripper_ctrl_id: the gripper's actuator; None without one.
        gripper_opened: its control where the gripper is open.
        gripper_closed: its control where it is closed.
        hand_body_id: the hand, or what carries the tool centre.
        ee_site_id: the tool centre.
        base_qpos_ids: places in qpos of a base that moves.
        base_dof_ids: its places in qvel.
        base_ctrl_ids: its actuators.
    """

    joint_ids: Int[np.ndarray, " J"]
    qpos_ids: Int[np.ndarray, " J"]
    dof_ids: Int[np.ndarray, " J"]
    body_ids: Int[np.ndarray, " J"]
    ctrl_ids: Int[np.ndarray, " J"]
    finger_qpos_ids: Int[np.ndarray, " F"]
    finger_body_ids: Int[np.ndarray, " F"]
    pad_geom_ids: Int[np.ndarray, " P"]
    gripper_ctrl_id: int | None
    gripper_opened: float
    gripper_closed: float
    hand_body_id: int
    ee_site_id: int
    base_qpos_ids: Int[np.ndarray, " B"]
    base_dof_ids: Int[np.ndarray, " D"]
    base_ctrl_ids: Int[np.ndarray, " C"]

    @property
    def driven_ctrl_ids(self) -> Int[np.ndarray, " K"]:
        """The actuators of its joints and, where it has one, of its gripper."""
        gripper = [] if self.gripper_ctrl_id is None else [self.gripper_ctrl_id]
        return np.append(self.ctrl_ids, as_ids(gripper))


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectIndex:
    """Where an object is in the model.

    Attributes:
        body_id: its body, the first link of a chain.
        geom_ids: its solids.
        qpos_ids: its places in qpos: seven of a free object, one of a hinged or sliding one, two of
            each bend of a chain, none of one that is fixed or a marker.
        dof_ids: its places in qvel: six, one, two of each bend, or none.
    """

    body_id: int
    geom_ids: Int[np.ndarray, " G"]
    qpos_ids: Int[np.ndarray, " Q"]
    dof_ids: Int[np.ndarray, " V"]

    @property
    def geom_id(self) -> int:
        """Its first solid."""
        return int(self.geom_ids[0])

    @property
    def qpos_adr(self) -> int:
        """Where its qpos entries start; raises ValueError for one that does not move."""
        return self._first(self.qpos_ids)

    @property
    def dof_adr(self) -> int:
        """Where its velocities start; raises ValueError for one that does not move."""
        return self._first(self.dof_ids)

    def _first(self, ids: NDArray[np.integer]) -> int:
        if not len(ids):
            raise InputError(f"Body {self.body_id} has a fixed mount: it has no joint.")
        return int(ids[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """A compiled scene: the model and the name-to-index tables.

    Attributes:
        spec: what it was built from.
        model: MuJoCo's model; its first keyframe is home.
        arms: by role.
        objects: by name.
        cameras: ids by name.
        sensors: places in sensordata by name, for example "force", "left/torque".
        notes: what was changed or assumed of a model that is not ours, to be shown to its owner.
    """

    spec: SceneSpec
    model: mujoco.MjModel
    arms: Mapping[str, ArmIndex]
    objects: dict[str, ObjectIndex]
    cameras: dict[str, int]
    sensors: Mapping[str, Int[np.ndarray, " S"]]
    notes: tuple[str, ...] = ()

    @property
    def arm(self) -> ArmIndex:
        """The only arm; raises KeyError naming the roles where there are several."""
        return only(tuple(self.arms.values()), list(self.arms), where="scene.arms[role]")

    def of_arm(self, role: str) -> "Scene":
        """Return the scene as what handles one arm sees it: the same model, that arm alone.

        Raises KeyError naming the allowed roles.
        """
        arm = self.spec.arm_of(role)
        alone = replace(arm, home=self.spec.home_of(arm))
        spec = replace(self.spec, arms=(alone,), home=None)
        return replace(self, spec=spec, arms={role: self.arms[role]})

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

    def marker(self, name: str) -> ObjectIndex:
        """Return the indices of a marker; raises KeyError naming the scene's markers."""
        markers = [x.name for x in self.spec.objects if isinstance(x.mount, MarkerMount)]
        if name not in markers:
            raise UnknownNameError(unknown_name("marker", name, markers))
        return self.objects[name]

    def sensor(self, name: str) -> NDArray[np.int64]:
        """Return the places of a reading in sensordata; raises KeyError naming the allowed ones."""
        if name not in self.sensors:
            raise UnknownNameError(unknown_name("sensor", name, self.sensors))
        return self.sensors[name]


class SceneSource(Protocol):
    """A scene from elsewhere, for example `scenes.imported.ImportedScene`."""

    def build(self) -> Scene:
        """The compiled scene."""
        ...


def build_scene(spec: SceneSpec | SceneSource) -> Scene:
    """Compile a scene. Raises KeyError where a camera or geom names a body that is not there."""
    if not isinstance(spec, SceneSpec):
        return spec.build()
    model = to_mjspec(spec).compile()
    return Scene(
        spec=spec,
        model=model,
        arms={arm.role: _index_arm(arm, model) for arm in spec.arms},
        objects={entry.name: _index_object(entry, model) for entry in spec.objects},
        cameras={camera.name: int(model.camera(camera.name).id) for camera in spec.cameras},
        sensors=index_sensors(model),
    )


def warp_model(model: mujoco.MjModel) -> mujoco.MjModel:
    """Copy a scene's model for MJX-Warp, which never resets by itself and refuses that flag."""
    copied = copy.copy(model)
    copied.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    return copied


def index_joints(
    model: mujoco.MjModel, joints: Sequence[str] | Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in qpos and in qvel of joints of any kind, by name or id, in their order."""
    qpos: list[int] = []
    dofs: list[int] = []
    for entry in joints:
        joint = model.joint(entry)
        q, v = int(joint.qposadr[0]), int(joint.dofadr[0])
        width, degrees = _JOINT_SIZES.get(int(joint.type[0]), (1, 1))
        qpos += range(q, q + width)
        dofs += range(v, v + degrees)
    return as_ids(qpos), as_ids(dofs)


_JOINT_SIZES = {
    int(mujoco.mjtJoint.mjJNT_FREE): (7, 6),
    int(mujoco.mjtJoint.mjJNT_BALL): (4, 3),
}


def as_ids(values: Sequence[int]) -> NDArray[np.int64]:
    """Indices as an array."""
    return np.asarray(values, dtype=np.int64)


def index_sensors(model: mujoco.MjModel) -> dict[str, NDArray[np.int64]]:
    """Places in sensordata of every sensor that has a name."""
    return {
        model.sensor(i).name: np.arange(model.sensor_dim[i]) + model.sensor_adr[i]
        for i in range(model.nsensor)
        if model.sensor(i).name
    }


def index_body(model: mujoco.MjModel, body: int, geom_ids: Sequence[int]) -> ObjectIndex:
    """Where a body and its own joints are."""
    first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
    qpos_ids, dof_ids = index_joints(model, range(first, first + count))
    return ObjectIndex(body_id=body, geom_ids=as_ids(geom_ids), qpos_ids=qpos_ids, dof_ids=dof_ids)


def _index_arm(arm: MountedArm, model: mujoco.MjModel) -> ArmIndex:
    robot, gripper = arm.robot, arm.robot.gripper
    names = [arm.prefix + name for name in robot.joint_names]
    fingers = [arm.prefix + name for name, _ in FINGERS if gripper is not None]
    hand = robot.links[-1].name if gripper is None else gripper.hand.name
    closed, opened = (0.0, 0.0) if gripper is None else gripper.finger_range
    base = [arm.prefix + name for name in arm.base.joints]
    joints = [model.joint(name) for name in names]
    qpos_ids, dof_ids = index_joints(model, names)
    base_qpos_ids, base_dof_ids = index_joints(model, base)
    return ArmIndex(
        joint_ids=as_ids([joint.id for joint in joints]),
        qpos_ids=qpos_ids,
        dof_ids=dof_ids,
        body_ids=as_ids([int(model.jnt_bodyid[joint.id]) for joint in joints]),
        ctrl_ids=as_ids([model.actuator(name).id for name in names]),
        finger_qpos_ids=index_joints(model, [f"{name}_joint" for name in fingers])[0],
        finger_body_ids=as_ids([model.body(name).id for name in fingers]),
        pad_geom_ids=as_ids([model.geom(f"{name}_pad").id for name in fingers]),
        gripper_ctrl_id=_gripper_ctrl(arm, model),
        gripper_opened=opened,
        gripper_closed=closed,
        hand_body_id=int(model.body(arm.prefix + hand).id),
        ee_site_id=int(model.site(arm.prefix + EE_SITE).id),
        base_qpos_ids=base_qpos_ids,
        base_dof_ids=base_dof_ids,
        base_ctrl_ids=_actuators(model, base),
    )


def _gripper_ctrl(arm: MountedArm, model: mujoco.MjModel) -> int | None:
    if arm.robot.gripper is None:
        return None
    return int(model.actuator(arm.prefix + GRIPPER_ACTUATOR).id)


def _actuators(model: mujoco.MjModel, names: Sequence[str]) -> NDArray[np.int64]:
    there = [model.actuator(i).name for i in range(model.nu)]
    return as_ids([there.index(name) for name in names if name in there])


def _index_object(entry: ObjectSpec, model: mujoco.MjModel) -> ObjectIndex:
    names = [geom_name(entry.name, i) for i in range(len(parts_of(entry.solid)))]
    geoms = [int(model.geom(name).id) for name in names]
    first = index_body(model, int(model.body(entry.name).id), geoms)
    if not isinstance(entry.shape, Chain):
        return first
    joints = [f"{name}_{axis}" for name in names[1:] for axis in "xy"]
    qpos_ids, dof_ids = index_joints(model, joints)
    return replace(first, qpos_ids=qpos_ids, dof_ids=dof_ids)
