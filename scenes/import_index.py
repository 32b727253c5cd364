"""Where what was named in a robot file is in its compiled model, and what a spec says of it."""

import mujoco
import numpy as np

from scenes.build import ArmIndex, ObjectIndex, as_ids, index_body, index_joints
from scenes.contract.specs import CameraSpec
from scenes.derived_robot import ArmReader
from scenes.roles import ArmRoles, GripperRole
from scenes.shapes import Box, FixedMount, FreeMount, MarkerMount, Mount
from scenes.specs import ObjectSpec


def arm_actuators(model: mujoco.MjModel, roles: ArmRoles) -> list[int]:
    """Actuators of an arm's joints, in their order."""
    if roles.actuators:
        return [int(model.actuator(name).id) for name in roles.actuators]
    joints = [int(model.joint(name).id) for name in roles.joints]
    by_joint = {int(model.actuator_trnid[i, 0]): i for i in reversed(range(model.nu))}
    return [by_joint[joint] for joint in joints]


def gripper_controls(model: mujoco.MjModel, gripper: GripperRole) -> tuple[int, float, float]:
    """Actuator of the gripper, and its controls where it is open and closed."""
    actuator = int(model.actuator(gripper.actuator or gripper.fingers[0]).id)
    low, high = model.actuator_ctrlrange[actuator].tolist()
    opened = high if gripper.opened is None else gripper.opened
    return actuator, opened, low if gripper.closed is None else gripper.closed


def index_arm(model: mujoco.MjModel, reader: ArmReader) -> ArmIndex:
    """Where an arm is."""
    roles, gripper = reader.roles, reader.roles.gripper
    joints = [model.joint(name) for name in roles.joints]
    fingers = () if gripper is None else gripper.fingers
    pads = () if gripper is None else gripper.pads
    qpos_ids, dof_ids = index_joints(model, roles.joints)
    actuator, opened, closed = (
        (None, 0.0, 0.0) if gripper is None else gripper_controls(model, gripper)
    )
    site = int(model.site(reader.tool).id)
    return ArmIndex(
        joint_ids=as_ids([joint.id for joint in joints]),
        qpos_ids=qpos_ids,
        dof_ids=dof_ids,
        body_ids=as_ids([int(model.jnt_bodyid[joint.id]) for joint in joints]),
        ctrl_ids=as_ids(list(reader.actuators)),
        finger_qpos_ids=index_joints(model, fingers)[0],
        finger_body_ids=as_ids([int(model.jnt_bodyid[model.joint(f).id]) for f in fingers]),
        pad_geom_ids=as_ids([int(model.geom(name).id) for name in pads]),
        gripper_ctrl_id=actuator,
        gripper_opened=opened,
        gripper_closed=closed,
        hand_body_id=int(model.site_bodyid[site]),
        ee_site_id=site,
        base_qpos_ids=as_ids([]),
        base_dof_ids=as_ids([]),
        base_ctrl_ids=as_ids([]),
    )


def index_object(model: mujoco.MjModel, name: str) -> ObjectIndex:
    """Where a body is, with its geoms that touch, or all where none does."""
    body = int(model.body(name).id)
    first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
    geoms = [first + i for i in range(count)]
    touching = [g for g in geoms if model.geom_contype[g] or model.geom_conaffinity[g]]
    return index_body(model, body, touching or geoms)


def described_object(model: mujoco.MjModel, name: str, body_name: str) -> ObjectSpec:
    """An object of the file as a box around its first solid: what a spec can say of it."""
    index = index_object(model, body_name)
    half = np.maximum(model.geom_aabb[index.geom_id, 3:], 1e-4)
    x, y, z = half.tolist()
    px, py, pz = model.body_pos[index.body_id].tolist()
    w, qx, qy, qz = model.body_quat[index.body_id].tolist()
    mount: Mount = FreeMount() if len(index.qpos_ids) == 7 else FixedMount()
    return ObjectSpec(
        name=name,
        shape=Box((x, y, z)),
        mass=max(float(model.body_mass[index.body_id]), 1e-6),
        mount=MarkerMount() if model.body_mocapid[index.body_id] >= 0 else mount,
        pos=(px, py, pz),
        quat=(w, qx, qy, qz),
    )


def described_camera(model: mujoco.MjModel, name: str) -> CameraSpec:
    """What a spec says of a camera."""
    camera = model.camera(name)
    body = int(camera.bodyid[0])
    x, y, z = camera.pos.tolist()
    w, qx, qy, qz = camera.quat.tolist()
    width, height = (int(n) for n in model.cam_resolution[camera.id])
    return CameraSpec(
        name=name,
        body=model.body(body).name if body else None,
        pos=(x, y, z),
        quat=(w, qx, qy, qz),
        fovy=float(camera.fovy[0]),
        width=max(width, 64),
        height=max(height, 64),
    )
