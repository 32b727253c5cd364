"""Ready scenes: a robot at a table, its objects and its cameras."""

import math

from scenes.objects import cube
from scenes.robots.panda import panda
from scenes.specs import Actuation, CameraSpec, RobotSpec, SceneSpec

# gym-hil PandaPickCube (serl_family.md 2.1), inside the limits of the Panda and the FR3 [rad].
PICK_HOME = (0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785)


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
    return SceneSpec(
        name="pick_cube",
        robot=panda() if robot is None else robot,
        objects=(cube(),),
        cameras=(front_camera(), wrist_camera()),
        home=PICK_HOME,
        actuation=actuation,
    )
