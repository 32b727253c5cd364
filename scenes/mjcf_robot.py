"""A RobotSpec as MJCF: links, joints, drives, hand and primitive shapes."""

from functools import singledispatch
from typing import Any

import mujoco

from scenes.bases import Base, Floating, Legged, Planar
from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.robot import GeomSpec, GripperSpec, LinkSpec
from scenes.contract.rotations import quat_to_matrix
from scenes.specs import Actuation, MountedArm

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
PAYLOAD = "payload"
GRIPPER_ACTUATOR = "gripper"
FLANGE_SITE = "flange"
FORCE_TORQUE = (
    ("force", mujoco.mjtSensor.mjSENS_FORCE),
    ("torque", mujoco.mjtSensor.mjSENS_TORQUE),
)
# Ours: of the ball that stands for a payload, about that of a tool between the fingers [m].
PAYLOAD_RADIUS = 0.03
_EE_LOOK: dict[str, Any] = {"size": [0.004] * 3, "rgba": [0.1, 0.8, 0.2, 0.5], "group": 4}


def add_arm(builder: mujoco.MjSpec, arm: MountedArm, *, actuation: Actuation) -> None:
    """Add an arm with its base, drives, hand and primitive shapes."""
    robot = arm.robot
    parent = builder.worldbody
    for i, link in enumerate(robot.links):
        parent = add_link(parent, link, name=arm.prefix + link.name, carried=_carried(arm))
        if i == 0:
            parent.pos, parent.quat = arm.base_pos, arm.base_quat
            add_base(arm.base, builder, parent, arm.prefix)
        else:
            _add_arm_joint(parent, arm, i - 1, driven=actuation == "position")
    if robot.gripper is None:
        _add_tool(parent, arm)
    else:
        _add_hand(parent, arm, robot.gripper)
    if robot.payload > 0:
        _add_payload(builder, arm)
    for i in range(robot.num_joints):
        _add_arm_actuator(builder, arm, i, actuation)
    if robot.gripper is not None:
        _add_gripper_drive(builder, arm, robot.gripper)
    for geom in robot.geoms:
        _add_robot_geom(builder, geom, arm)
    if arm.force_torque:
        _add_force_torque(builder, arm)


def _carried(arm: MountedArm) -> bool:
    """Whether nothing feels the arm's weight: legs do."""
    return not isinstance(arm.base, Legged)


@singledispatch
def add_base(base: Base, builder: mujoco.MjSpec, body: mujoco.MjsBody, prefix: str) -> None:
    """Give a base its joints and drives; a fixed one has none."""
    del base, builder, body, prefix


@add_base.register
def _floating(base: Floating, builder: mujoco.MjSpec, body: mujoco.MjsBody, prefix: str) -> None:
    del builder
    body.add_freejoint(name=prefix + base.joints[0])


@add_base.register
def _planar(base: Planar, builder: mujoco.MjSpec, body: mujoco.MjsBody, prefix: str) -> None:
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    shapes = ((slide, [1, 0, 0]), (slide, [0, 1, 0]), (hinge, [0, 0, 1]))
    for i, (name, (kind, axis)) in enumerate(zip(base.joints, shapes, strict=True)):
        body.add_joint(
            name=prefix + name,
            type=kind,
            axis=axis,
            limited=True,
            range=[base.low[i], base.high[i]],
            actfrclimited=True,
            actfrcrange=[-base.force_max[i], base.force_max[i]],
        )
        actuator = builder.add_actuator(
            name=prefix + name,
            target=prefix + name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True,
        )
        if base.drive == "position":
            actuator.set_to_position(kp=base.kp[i], kv=base.kd[i])
            actuator.ctrlrange = [base.low[i], base.high[i]]
        else:
            actuator.set_to_velocity(kv=base.kd[i])
            actuator.ctrlrange = [-base.speed_max[i], base.speed_max[i]]


def add_link(
    parent: mujoco.MjsBody, link: LinkSpec, *, name: str, carried: bool = True
) -> mujoco.MjsBody:
    """Add a rigid body; the robot's own controller carries the weight of one that is `carried`."""
    return parent.add_body(
        name=name,
        pos=link.pos,
        quat=link.quat,
        mass=link.mass,
        ipos=link.com,
        fullinertia=link.inertia,
        explicitinertial=True,
        # Then the simulated drives need not.
        gravcomp=1.0 if carried else 0.0,
    )


def _add_arm_joint(body: mujoco.MjsBody, arm: MountedArm, i: int, *, driven: bool) -> None:
    robot = arm.robot
    body.add_joint(
        name=arm.prefix + robot.joint_names[i],
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=[0, 0, 1],
        limited=True,
        range=[robot.q_min[i], robot.q_max[i]],
        armature=robot.armature[i],
        damping=robot.damping[i],
        frictionloss=robot.friction_loss[i] if robot.friction_loss else 0.0,
        actfrclimited=driven,
        actfrcrange=[-robot.tau_max[i], robot.tau_max[i]],
    )


def _add_arm_actuator(
    builder: mujoco.MjSpec, arm: MountedArm, i: int, actuation: Actuation
) -> None:
    robot = arm.robot
    actuator = builder.add_actuator(
        name=arm.prefix + robot.joint_names[i],
        target=arm.prefix + robot.joint_names[i],
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
    )
    if actuation == "position":
        actuator.set_to_position(kp=robot.kp[i], kv=robot.kd[i])
        actuator.ctrlrange = [robot.q_min[i], robot.q_max[i]]
    else:
        actuator.set_to_motor()
        actuator.ctrlrange = [-robot.tau_max[i], robot.tau_max[i]]


def _add_tool(flange: mujoco.MjsBody, arm: MountedArm) -> None:
    """Put the tool centre of an arm without a gripper on its last link."""
    robot = arm.robot
    tool = quat_to_matrix(robot.ee_quat) @ robot.ee_pos + robot.flange_pos
    flange.add_site(name=arm.prefix + EE_SITE, pos=tool, quat=robot.ee_quat, **_EE_LOOK)


def _add_hand(flange: mujoco.MjsBody, arm: MountedArm, gripper: GripperSpec) -> None:
    carried = _carried(arm)
    name = arm.prefix + gripper.hand.name
    hand = add_link(flange, gripper.hand, name=name, carried=carried)
    hand.add_site(name=arm.prefix + EE_SITE, pos=arm.robot.ee_pos, **_EE_LOOK)
    for name, quat in FINGERS:
        finger = add_link(hand, gripper.finger, name=arm.prefix + name, carried=carried)
        finger.quat = quat
        finger.add_joint(
            name=f"{arm.prefix}{name}_joint",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, 1, 0],
            limited=True,
            range=gripper.finger_range,
            armature=gripper.armature,
            actfrclimited=True,
            actfrcrange=[-gripper.force_max, gripper.force_max],
        )


def _add_payload(builder: mujoco.MjSpec, arm: MountedArm) -> None:
    """Add a mass at the tool centre whose weight the arm has to hold by its drives."""
    site = builder.site(arm.prefix + EE_SITE)
    body = site.parent.add_body(name=arm.prefix + PAYLOAD, pos=site.pos)
    body.mass = arm.robot.payload
    body.inertia = [ball_inertia(arm.robot.payload)] * 3
    body.explicitinertial = True


def ball_inertia(mass: float) -> float:
    """Moment of inertia of a solid ball of the payload's size [kg m^2]: 2/5 m r^2."""
    return 0.4 * mass * PAYLOAD_RADIUS**2


def _add_gripper_drive(builder: mujoco.MjSpec, arm: MountedArm, gripper: GripperSpec) -> None:
    left, right = (f"{arm.prefix}{name}_joint" for name, _ in FINGERS)
    coupling = builder.add_equality(
        name=f"{arm.prefix}fingers",
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
        name=arm.prefix + GRIPPER_ACTUATOR,
        target=left,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
        ctrlrange=gripper.finger_range,
    )
    actuator.set_to_position(kp=gripper.kp, kv=gripper.kd)


def _add_robot_geom(builder: mujoco.MjSpec, geom: GeomSpec, arm: MountedArm) -> None:
    targets = [name for name, _ in FINGERS] if geom.body == "finger" else [geom.body]
    for target in targets:
        body = find_body(builder, arm.prefix + target)
        name = f"{arm.prefix}{target}_pad" if geom.role == "pad" else ""
        added = add_primitive(body, geom, name=name)
        if geom.role == "pad":
            gripper = arm.robot.parallel_gripper
            added.friction = gripper.pad_friction
            added.solref = gripper.pad_solref
            added.solimp = [*gripper.pad_solimp, 0.5, 2.0]
            added.priority = 1


def add_primitive(body: mujoco.MjsBody, geom: GeomSpec, *, name: str = "") -> mujoco.MjsGeom:
    """Add a shape of a robot to its body."""
    contype, conaffinity = MASKS[geom.role]
    added = body.add_geom(
        name=name,
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
    return added


def _add_force_torque(builder: mujoco.MjSpec, arm: MountedArm) -> None:
    """Add a sensor in front of the hand: what it measures goes from the last link into the hand.

    An arm without a gripper has it at its flange; it then measures what its last joint carries.
    """
    gripper = arm.robot.gripper
    name = arm.robot.links[-1].name if gripper is None else gripper.hand.name
    site = f"{arm.prefix}{FLANGE_SITE}"
    at = arm.robot.flange_pos if gripper is None else (0.0, 0.0, 0.0)
    find_body(builder, arm.prefix + name).add_site(name=site, pos=at, group=4, size=[0.004] * 3)
    for reading, kind in FORCE_TORQUE:
        builder.add_sensor(
            name=arm.prefix + reading, type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=site
        )


def find_body(builder: mujoco.MjSpec, name: str) -> mujoco.MjsBody:
    """Return a body by name; raises KeyError naming the allowed ones."""
    body = builder.body(name)
    if body is None:
        raise UnknownNameError(unknown_name("body", name, [entry.name for entry in builder.bodies]))
    return body
