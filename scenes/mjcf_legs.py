"""A legged base as MJCF: trunk and legs under the arm's base, a position drive per joint."""

from dataclasses import replace

import mujoco

from scenes.bases import Legged
from scenes.contract.quadruped import QuadrupedSpec
from scenes.contract.robot import GeomSpec
from scenes.mjcf_robot import MASKS, VISUAL_GROUP, add_link, add_primitive

_AXES = {"hip": (1, 0, 0), "thigh": (0, 1, 0), "calf": (0, 1, 0)}


def add_legs(base: Legged, builder: mujoco.MjSpec, body: mujoco.MjsBody, prefix: str) -> None:
    """Let an arm's base float and hang the trunk on it; `mjcf_robot.add_base` of a legged one."""
    robot = base.robot
    body.add_freejoint(name=prefix + base.joints[0])
    trunk = add_link(body, robot.trunk, name=prefix + robot.trunk.name, carried=False)
    trunk.pos = [-x for x in base.mount]
    _add_shape(trunk, robot, robot.trunk.name, left=1.0)
    for leg in robot.LEGS:
        _add_leg(builder, trunk, robot, leg, prefix)


def _add_leg(
    builder: mujoco.MjSpec, trunk: mujoco.MjsBody, robot: QuadrupedSpec, leg: str, prefix: str
) -> None:
    parent, (_, left) = trunk, robot.side(leg)
    low, high = robot.limits(leg)
    for i, part in enumerate(robot.PARTS):
        name = f"{prefix}{leg}_{part}"
        parent = add_link(parent, robot.link(leg, part), name=name, carried=False)
        most = robot.tau_max[i]
        parent.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=_AXES[part],
            limited=True,
            range=[low[i], high[i]],
            armature=robot.armature,
            damping=robot.damping,
            actfrclimited=True,
            actfrcrange=[-most, most],
        )
        drive = builder.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True,
            # What is asked for beyond a joint's end presses against the ground.
            ctrlrange=[low[i] - most / robot.kp, high[i] + most / robot.kp],
        )
        drive.set_to_position(kp=robot.kp, kv=robot.kd)
        _add_shape(parent, robot, part, left=left)
    contype, conaffinity = MASKS["hand"]
    parent.add_geom(
        name=f"{prefix}{leg}_foot",
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[robot.foot_radius, 0, 0],
        pos=robot.foot_pos,
        friction=robot.foot_friction,
        solref=robot.foot_solref,
        priority=1,
        contype=contype,
        conaffinity=conaffinity,
        group=VISUAL_GROUP,
        rgba=(0.12, 0.12, 0.13, 1.0),
    )


def _add_shape(body: mujoco.MjsBody, robot: QuadrupedSpec, part: str, *, left: float) -> None:
    for geom in robot.geoms:
        if geom.body == part:
            add_primitive(body, _mirrored(geom, left))


def _mirrored(geom: GeomSpec, left: float) -> GeomSpec:
    """The shape on the other side of the robot where `left` is -1."""

    def flip(point: tuple[float, float, float]) -> tuple[float, float, float]:
        return point[0], left * point[1], point[2]

    if geom.start is not None and geom.end is not None:
        return replace(geom, start=flip(geom.start), end=flip(geom.end))
    return replace(geom, pos=flip(geom.pos))
