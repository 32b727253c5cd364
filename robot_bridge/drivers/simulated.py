"""Arms that cannot hurt anybody: the training environment as a robot, and its lock-step parts."""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.cameras.camera import Frame, Intrinsics, Picture, pinhole
from robot_bridge.clock import Clock
from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    ArmToken,
    Target,
    Vector,
    require_token,
)
from robot_bridge.drivers.pretended_link import PretendLink
from robot_bridge.messages import Goal
from robot_bridge.reasons import Reason
from scenes.contract.specs import CameraSpec


class World(Protocol):
    """A simulated arm with its surroundings; see `mjx_serl.run.simulated_arm.SimulatedArm`."""

    sim_dt: float
    name: str

    def start(self, episode: int) -> None:
        """Put everything into the start of an episode."""
        ...

    def command(self, position: Vector, quat: Vector, width: float) -> None:
        """Set the target of the tool centre [m], wxyz, and the gripper's opening [m].

        A world whose actions do not turn keeps its orientation, whatever `quat` is.
        """
        ...

    def advance(self, substeps: int) -> None:
        """Let physics steps pass."""
        ...

    def joints(self) -> tuple[Vector, Vector]:
        """Positions [rad] and velocities [rad/s]."""
        ...

    def tool(self) -> tuple[Vector, Vector]:
        """Position [m] and orientation (wxyz) of the tool centre."""
        ...

    def width(self) -> float:
        """Opening of the gripper [m]."""
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


class SimDriver:
    """A simulated world as an arm that lives in the clock's time, real or turned by hand.

    Whenever it is read, the world catches up with the clock in whole physics steps.
    """

    def __init__(self, world: World, clock: Clock) -> None:
        self.world = world
        self._clock = clock
        self._began, self._done = clock.now(), 0
        self._link = PretendLink("The simulated arm")
        self._seq = 0
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
        self._began, self._done = self._clock.now(), 0
        self._pose, self._width = self.world.tool(), self.world.width()

    def connect(self) -> None:
        """Nothing to open; it only has to come first."""
        self._link.connect()

    def arm(self, token: ArmToken) -> None:
        """Take targets from now on."""
        self._link.arm(token)

    def state(self) -> ArmState:
        """The world as it is now."""
        self._link.require_connected()
        now = self._clock.now()
        self._catch_up(now)
        self._seq += 1
        q, dq = self.world.joints()
        position, quat = self.world.tool()
        return ArmState(
            t=now,
            seq=self._seq,
            q=q,
            dq=dq,
            position=position,
            quat=quat,
            gripper_width=self.world.width(),
            mode=self._link.mode,
        )

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

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Stay and take no more targets."""
        del kind
        self.hold()
        self._link.disarm()

    def recover(self, token: ArmToken) -> None:
        """Nothing to clear."""
        require_token(token, "recover")

    def close(self) -> None:
        """Nothing to let go of; it has to be connected again."""
        self._link.close()

    def _set(self, position: Vector, quat: Vector) -> None:
        self._pose = position, quat
        self.world.command(position, quat, self._width)

    def _catch_up(self, now: float) -> None:
        due = int((now - self._began) / self.world.sim_dt + 1e-6)
        if due > self._done:
            self.world.advance(due - self._done)
            self._done = due


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
    """One of the world's cameras, as a real one: it has intrinsics, and a picture when asked."""

    def __init__(self, world: World, clock: Clock, camera: CameraSpec) -> None:
        self._world, self._clock, self._camera, self._seq = world, clock, camera, 0

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and principal point fx, fy, cx, cy [px]."""
        return pinhole(self._camera.width, self._camera.height, fovy=self._camera.fovy)

    def latest(self) -> Frame:
        """Draw the world as it is now."""
        self._seq += 1
        return Frame(self._world.pictures()[self._camera.name], self._clock.now(), self._seq)


class SteppedGovernor:
    """The goal itself, at once: what training does between two actions.

    For lock-step comparisons with the simulator only: it limits nothing. ValueError for an arm
    that is not simulated.
    """

    def __init__(self, info: ArmInfo) -> None:
        if not info.simulated:
            raise ValueError(f"An ungoverned arm must be simulated; {info.robot} is not")

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
        raise ValueError("Homing needs a governor; a simulated world starts at home")
