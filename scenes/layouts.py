"""Ready scenes: a robot at a table, its objects and its cameras."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from scenes.bases import Fixed
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import UNIT_QUAT
from scenes.contract.specs import CameraSpec
from scenes.objects import cube
from scenes.robots.panda import panda
from scenes.specs import Actuation, MountedArm, SceneSpec, TableSpec

# gym-hil PandaPickCube (serl_family.md 2.1), inside the limits of the Panda and the FR3 [rad].
PICK_HOME = (0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785)
# Home and the cube's place where they are gym-hil's; other arms start at their own home with the
# cube in the middle of their workspace.
_PICK_STARTS: Mapping[str, tuple[tuple[float, ...], tuple[float, float]]] = MappingProxyType(
    dict.fromkeys(("panda", "fr3", "panda_2f85", "fr3_2f85"), (PICK_HOME, (0.5, 0.0)))
)


def front_camera() -> CameraSpec:
    """gym-hil's fixed camera in front of the robot (scene.xml, serl_family.md 2.1)."""
    return CameraSpec(
        name="front",
        pos=(1.3, 0.0, 0.7),
        quat=(0.5963678, 0.3799282, 0.3799282, 0.5963678),
        fovy=45,
    )


def wrist_camera() -> CameraSpec:
    """A camera on the hand that sees both fingertips and what lies below them.

    8 cm in front of the hand and pitched by 40 deg towards the fingers (ours, by eye); when the
    hand points down as at home, the world's +x is up in the image.
    """
    s, c = math.sin(math.radians(20)) / math.sqrt(2), math.cos(math.radians(20)) / math.sqrt(2)
    return CameraSpec(name="wrist", body="hand", pos=(0.08, 0.0, 0.045), quat=(s, c, c, s), fovy=75)


def pick_cube(robot: RobotSpec | None = None, *, actuation: Actuation = "position") -> SceneSpec:
    """One 4 cm cube of 0.1 kg on the table, front and wrist camera; the Panda by default."""
    robot = panda() if robot is None else robot
    home, xy = _PICK_STARTS.get(robot.name, (robot.home, _middle(robot)))
    return SceneSpec(
        name="pick_cube",
        arms=(MountedArm(robot=robot),),
        objects=(cube(xy=xy),),
        cameras=(front_camera(), wrist_camera()),
        home=home,
        actuation=actuation,
    )


def two_arms(
    left: RobotSpec | None = None,
    right: RobotSpec | None = None,
    *,
    apart: float = 1.1,
    actuation: Actuation = "position",
    force_torque: bool = False,
) -> SceneSpec:
    """Two arms, "left" and "right", that face each other across a table with a cube between them.

    Args:
        left: at the world's origin, looking along +x; the Panda where None.
        right: `apart` along x, turned by half a turn; the Panda where None.
        apart: distance of the bases [m]; 1.1 lets two Pandas meet over the middle (ours).
        actuation: "position" or "torque".
        force_torque: whether both have a force and torque sensor.
    """
    left, right = (panda() if robot is None else robot for robot in (left, right))
    bases = {
        "left": Fixed(pos=(0.0, 0.0, 0.0), quat=UNIT_QUAT),
        "right": Fixed(pos=(apart, 0.0, 0.0), quat=(0.0, 0.0, 0.0, 1.0)),
    }
    arms = tuple(
        MountedArm(
            robot=robot,
            role=role,
            base=bases[role],
            home=_PICK_STARTS.get(robot.name, (robot.home, None))[0],
            force_torque=force_torque,
        )
        for role, robot in (("left", left), ("right", right))
    )
    return SceneSpec(
        name="two_arms",
        arms=arms,
        table=TableSpec(center=(apart / 2, 0.0), half_size=(apart / 2 + 0.2, 0.6)),
        objects=(cube(xy=(apart / 2, 0.0)),),
        cameras=(front_camera(), *(_on_hand(role) for role in bases)),
        actuation=actuation,
    )


def _on_hand(role: str) -> CameraSpec:
    return replace(wrist_camera(), name=f"{role}/wrist", body=f"{role}/hand")


def _middle(robot: RobotSpec) -> tuple[float, float]:
    (x_low, y_low, _), (x_high, y_high, _) = robot.workspace_low, robot.workspace_high
    return (x_low + x_high) / 2, (y_low + y_high) / 2
