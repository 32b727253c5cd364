"""A RobotSpec as MJCF: links, joints, drives, hand and primitive shapes."""

import mujoco

from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.robot import GeomSpec, LinkSpec, RobotSpec
from scenes.specs import SceneSpec

# Contact bits. A pair touches when either side's contype meets the other's conaffinity.
_TABLE, _OBJECT = 1, 2


MASKS = {  # role: (contype, conaffinity)
    "visual": (0, 0),
    "arm": (0, _TABLE),
    "hand": (0, _TABLE | _OBJECT),
    "pad": (0, _TABLE | _OBJECT),
    "table": (_TABLE, 0),
    "object": (_OBJECT, _TABLE | _OBJECT),
}
GEOM_TYPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
}


VISUAL_GROUP, _COLLISION_GROUP = 2, 3


FINGERS = (("left_finger", (1.0, 0.0, 0.0, 0.0)), ("right_finger", (0.0, 0.0, 0.0, 1.0)))
EE_SITE = "ee"
GRIPPER_ACTUATOR = "gripper"


def add_robot(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    """Add the arm with its drives, its hand and its primitive shapes."""
    robot = spec.robot
    parent = builder.worldbody
    for i, link in enumerate(robot.links):
        parent = _add_link(parent, link)
        if i == 0:
            parent.pos, parent.quat = robot.base_pos, robot.base_quat
        else:
            _add_arm_joint(parent, robot, i - 1, driven=spec.actuation == "position")
    _add_hand(builder, parent, robot)
    for i in range(robot.num_joints):
        _add_arm_actuator(builder, spec, i)
    _add_gripper_drive(builder, robot)
    for geom in robot.geoms:
        _add_robot_geom(builder, geom, robot)


def _add_link(parent: mujoco.MjsBody, link: LinkSpec, *, name: str = "") -> mujoco.MjsBody:
    return parent.add_body(
        name=name or link.name,
        pos=link.pos,
        quat=link.quat,
        mass=link.mass,
        ipos=link.com,
        fullinertia=link.inertia,
        explicitinertial=True,
        # The robot's own controller carries its weight, so the simulated drives need not.
        gravcomp=1.0,
    )


def _add_arm_joint(body: mujoco.MjsBody, robot: RobotSpec, i: int, *, driven: bool) -> None:
    body.add_joint(
        name=robot.joint_names[i],
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=[0, 0, 1],
        limited=True,
        range=[robot.q_min[i], robot.q_max[i]],
        armature=robot.armature[i],
        damping=robot.damping[i],
        actfrclimited=driven,
        actfrcrange=[-robot.tau_max[i], robot.tau_max[i]],
    )


def _add_arm_actuator(builder: mujoco.MjSpec, spec: SceneSpec, i: int) -> None:
    robot = spec.robot
    actuator = builder.add_actuator(
        name=robot.joint_names[i],
        target=robot.joint_names[i],
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
    )
    if spec.actuation == "position":
        actuator.set_to_position(kp=robot.kp[i], kv=robot.kd[i])
        actuator.ctrlrange = [robot.q_min[i], robot.q_max[i]]
    else:
        actuator.set_to_motor()
        actuator.ctrlrange = [-robot.tau_max[i], robot.tau_max[i]]


def _add_hand(builder: mujoco.MjSpec, flange: mujoco.MjsBody, robot: RobotSpec) -> None:
    gripper = robot.gripper
    hand = _add_link(flange, gripper.hand)
    hand.add_site(
        name=EE_SITE, pos=robot.ee_pos, size=[0.004] * 3, rgba=[0.1, 0.8, 0.2, 0.5], group=4
    )
    for name, quat in FINGERS:
        finger = _add_link(hand, gripper.finger, name=name)
        finger.quat = quat
        finger.add_joint(
            name=f"{name}_joint",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, 1, 0],
            limited=True,
            range=gripper.finger_range,
            armature=gripper.armature,
            actfrclimited=True,
            actfrcrange=[-gripper.force_max, gripper.force_max],
        )


def _add_gripper_drive(builder: mujoco.MjSpec, robot: RobotSpec) -> None:
    gripper = robot.gripper
    left, right = (f"{name}_joint" for name, _ in FINGERS)
    coupling = builder.add_equality(
        name="fingers",
        type=mujoco.mjtEq.mjEQ_JOINT,
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        name1=left,
        name2=right,
    )
    # Menagerie's stiffness, slowed to two steps of 5 ms, the shortest MuJoCo holds stable.
    coupling.solref = [0.01, 1.0]
    coupling.solimp = [0.95, 0.99, 0.001, 0.5, 2.0]
    coupling.data = [0.0, 1.0] + [0.0] * (len(coupling.data) - 2)
    actuator = builder.add_actuator(
        name=GRIPPER_ACTUATOR,
        target=left,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
        ctrlrange=gripper.finger_range,
    )
    actuator.set_to_position(kp=gripper.kp, kv=gripper.kd)


def _add_robot_geom(builder: mujoco.MjSpec, geom: GeomSpec, robot: RobotSpec) -> None:
    targets = [name for name, _ in FINGERS] if geom.body == "finger" else [geom.body]
    for target in targets:
        body = find_body(builder, target)
        contype, conaffinity = MASKS[geom.role]
        added = body.add_geom(
            name=f"{target}_pad" if geom.role == "pad" else "",
            type=GEOM_TYPES[geom.kind],
            size=[*geom.size, 0.0, 0.0][:3],
            pos=geom.pos,
            contype=contype,
            conaffinity=conaffinity,
            rgba=geom.rgba,
            # The pads are drawn and collide; the other colliders are hidden by default.
            group=_COLLISION_GROUP if geom.role in ("arm", "hand") else VISUAL_GROUP,
        )
        if geom.start is not None and geom.end is not None:
            added.fromto = [*geom.start, *geom.end]
        if geom.role == "pad":
            added.friction = robot.gripper.pad_friction
            added.solref = robot.gripper.pad_solref
            added.solimp = [*robot.gripper.pad_solimp, 0.5, 2.0]
            added.priority = 1


def find_body(builder: mujoco.MjSpec, name: str) -> mujoco.MjsBody:
    """Return a body by name; raises KeyError naming the allowed ones."""
    body = builder.body(name)
    if body is None:
        raise UnknownNameError(unknown_name("body", name, [entry.name for entry in builder.bodies]))
    return body
