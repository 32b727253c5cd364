"""Arms that cannot hurt anybody: the training environment as a robot, and its lock-step parts."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.cameras.camera import Frame, Intrinsics, Picture, pinhole
from robot_bridge.clock import Clock
from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    Target,
    Vector,
)
from robot_bridge.drivers.world_arm import ArmWorld, WorldArm
from robot_bridge.messages import Goal
from robot_bridge.reasons import Reason
from scenes.contract.errors import InputError
from scenes.contract.specs import CameraSpec


class World(ArmWorld, Protocol):
    """A simulated arm with its surroundings; see `mjx_serl.run.simulated_arm.SimulatedArm`."""

    def start(self, episode: int) -> None:
        """Put everything into the start of an episode."""
        ...

    @property
    def part(self) -> int:
        """Whose turn it is in a task by turns: 0 or 1; 0 in any other."""
        ...

    def hand_over(self, part: int) -> None:
        """Let a part of a task by turns go on as things lie."""
        ...

    def command(self, position: Vector, quat: Vector, width: float) -> None:
        """Set the target of the tool centre [m], wxyz, and the gripper's opening [m].

        A world whose actions do not turn keeps its orientation, whatever `quat` is.
        """
        ...

    def objects(self) -> Mapping[str, Vector]:
        """Positions by name [m]."""
        ...

    def orientations(self) -> Mapping[str, Vector]:
        """Orientations of the objects by name, wxyz."""
        ...

    def pictures(self) -> Mapping[str, Picture]:
        """What the policy's cameras see, by name."""
        ...

    def judge(self) -> tuple[bool, bool]:
        """Whether the task is solved, and whether the episode is over."""
        ...


class SimDriver(WorldArm[World]):
    """A simulated world as an arm that takes poses."""

    def __init__(self, world: World, clock: Clock) -> None:
        super().__init__(world, clock)
        self._width = world.width()
        self._pose = world.tool()

    @property
    def info(self) -> ArmInfo:
        """A simulated arm that takes poses."""
        return ArmInfo(
            robot=self.world.name, serial="sim", firmware="sim", takes="pose", simulated=True
        )

    def start(self, episode: int) -> None:
        """Put the world into the start of an episode, gripper open."""
        self.world.start(episode)
        self._begin()
        self._pose, self._width = self.world.tool(), self.world.width()

    def servo(self, target: Target) -> None:
        """Go on towards the target's pose."""
        self._link.admit(target)
        self._set(target.position, target.quat)

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m]; the world has its own force."""
        del force
        self._width = width
        self._set(*self._pose)

    def hold(self) -> None:
        """Stay."""
        self._set(*self.world.tool())

    def _set(self, position: Vector, quat: Vector) -> None:
        self._pose = position, quat
        self.world.command(position, quat, self._width)


class SimObjects:
    """Where the world's objects are, as a tracker would say it."""

    def __init__(self, world: World, clock: Clock) -> None:
        self._world, self._clock = world, clock

    def positions(self) -> tuple[Mapping[str, NDArray[np.floating]], float]:
        """Positions [m], just measured."""
        return self._world.objects(), self._clock.now()

    def orientations(self) -> Mapping[str, NDArray[np.floating]]:
        """Orientations, wxyz, just measured."""
        return self._world.orientations()


class SimEye:
    """One of the world's cameras, as a real one: it has intrinsics, and a picture when asked.

    Args:
        world: what it sees.
        clock: that stamps its pictures.
        camera: where it is.
        far: depth that its pictures' fourth channel says at most [m]; 0 where they have none.
    """

    def __init__(self, world: World, clock: Clock, camera: CameraSpec, *, far: float = 0.0) -> None:
        self._world, self._clock, self._camera, self._seq = world, clock, camera, 0
        self._far = far

    @property
    def far(self) -> float:
        """Depth that it measures at most [m]; 0 measures none."""
        return self._far

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and principal point fx, fy, cx, cy [px]."""
        return pinhole(self._camera.width, self._camera.height, fovy=self._camera.fovy)

    def latest(self) -> Frame:
        """Draw the world as it is now."""
        self._seq += 1
        picture = self._world.pictures()[self._camera.name]
        depth = picture[..., 3] * np.float32(self._far / 255.0) if self._far else None
        return Frame(picture[..., :3], self._clock.now(), self._seq, depth)


class SteppedGovernor:
    """The goal itself, at once: what training does between two actions.

    For lock-step comparisons with the simulator only: it limits nothing. ValueError for an arm
    that is not simulated.
    """

    def __init__(self, info: ArmInfo) -> None:
        if not info.simulated:
            raise InputError(f"An ungoverned arm must be simulated; {info.robot} is not")

    def anchor(self, state: ArmState) -> None:
        """Nothing to remember."""

    def step(self, goal: Goal, state: ArmState, *, speed: float = 1.0) -> tuple[Target, Reason]:
        """The goal."""
        del speed
        return Target(position=goal.position, quat=goal.quat, q=state.q), Reason.NONE

    def brake(self, state: ArmState) -> tuple[Target, Reason]:
        """Stand where the arm is."""
        return Target(position=state.position, quat=state.quat, q=state.q), Reason.NONE

    def move_to(
        self, q: NDArray[np.float64], state: ArmState, *, speed: float = 1.0
    ) -> tuple[Target, Reason]:
        """Not without a governor."""
        raise InputError("Homing needs a governor; a simulated world starts at home")
