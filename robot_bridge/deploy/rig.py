"""An arm and what is around it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from robot_bridge.clock import Clock
from robot_bridge.control.joint_monitor import QUANTITIES, JointLimit
from robot_bridge.driver import ArmDriver
from robot_bridge.learning.turns import TurnsWorld
from robot_bridge.messages import Ending, Tick
from robot_bridge.policy.observation import Eye, ObjectSource
from scenes.contract.operator import Operator
from scenes.contract.ranges import check_ranges, ranged


class Closeable(Protocol):
    """A camera that runs."""

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Senses:
    """What is observed besides the arm: open until `close`.

    Attributes:
        objects: positions of objects, None where none are observed.
        eyes: cameras by name.
        opened: what `close` lets go of.
    """

    objects: ObjectSource | None = None
    eyes: Mapping[str, Eye] = field(default_factory=dict)
    opened: Sequence[Closeable] = ()

    def close(self) -> None:
        """Let go of the cameras."""
        for eye in self.opened:
            eye.close()


@dataclass(frozen=True, kw_only=True)
class RigConfig:
    """What is connected.

    Attributes:
        robot: which one, of those that `--help` lists; null is no arm at all.
        address: of the arm: the control box's host, the CAN channel, the server's URL or the
            recording's folder.
        objects: positions of objects that stay where they are, for example cube=0.4,0,0.02 [m].
        cameras: name=source, for example front=/dev/video0, wrist=realsense:SERIAL or
            front=video.mp4.
        crops: parts of the cameras' pictures that the policy sees, NAME=X,Y,WIDTH,HEIGHT [px], for
            example wrist=80,0,480,480; without one the part that the policy's camera spans.
        size: width and height of the cameras' pictures [px]; files have their own.
        fovy: their vertical field of view [deg]; a RealSense says its own.
        operator: none, keyboard, spacemouse, gamepad, or page, in a browser; of the simulated arm
            none, or expert: the task's own takes over where the policy strays or stalls.
        facing: where the operator looks, counter-clockwise from the base's +x [deg]; 180 for
            somebody opposite the arm.
        page_port: on this machine, of that page; the next free one of ten, any free one if 0.
        gripper_readings: what the arm says for a closed and an open gripper, where that is no
            opening in metres: of a SERL server 0 and 1 unless given, of one with a Franka hand
            0 and 0.08.
        joint_limits: what joints may have before a person is warned and before the arm is stopped,
            NAME=WARN,STOP, for example motor_temperature=55,70 [°C]
            (robot_bridge.control.joint_monitor).
        realtime_kernel: refuse to drive a Franka from a kernel that is not PREEMPT_RT.
    """

    robot: str = "null"
    address: str = ""
    objects: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    crops: tuple[str, ...] = ()
    size: tuple[int, int] = ranged((640, 480), least=1, most=16384)
    fovy: float = ranged(45.0, above=0, below=180)
    operator: str = "none"
    facing: float = 0.0
    page_port: int = ranged(8012, least=0, most=65535)
    gripper_readings: tuple[float, float] | None = None
    joint_limits: tuple[str, ...] = ()
    realtime_kernel: bool = True

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """An arm and what is around it.

    Attributes:
        driver: of the arm.
        clock: its time; a ManualClock runs in lock-step, as fast as it goes.
        senses: opens what is observed besides the arm.
        operator: a person's device, not open yet.
        homes: bring the arm home before each episode.
        prepare: called with the episode's number after that, where the scene is set up anew.
        turns: a simulated world of a task by turns; of all else the session counts the turns.
        judge: says how an episode ended, None while it goes on; without a judge the operator
            does.
        summary: what else is said after an episode, in a line.
        state_max_age: of readings that come slower than the arm's own link would bring them
            [s]; None is the limit of `default_limits`.
        joint_limits: of what joints say of themselves, by quantity.
        sinks: get every tick besides the deployment's own; they must not block.
        config: what the rig was made of, from which another process can make its senses.
    """

    driver: ArmDriver
    clock: Clock
    senses: Callable[[], Senses]
    operator: Operator | None = None
    homes: bool = True
    prepare: Callable[[int], None] | None = None
    turns: TurnsWorld | None = None
    judge: Callable[[], Ending | None] | None = None
    summary: Callable[[], str] | None = None
    state_max_age: float | None = None
    joint_limits: Mapping[str, JointLimit] = field(default_factory=lambda: QUANTITIES)
    sinks: tuple[Callable[[Tick], object], ...] = ()
    config: RigConfig | None = None
