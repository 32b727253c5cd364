"""A simulated world as an arm that lives in the clock's time, real or turned by hand."""

from typing import Generic, Protocol, TypeVar

from robot_bridge.clock import Clock
from robot_bridge.driver import ArmState, Vector
from robot_bridge.drivers.pretended_link import PretendedArm


class ArmWorld(Protocol):
    """What can be read of a simulated arm, and its time."""

    sim_dt: float
    name: str

    def advance(self, substeps: int) -> None:
        """Let physics steps pass."""
        ...

    def joints(self) -> tuple[Vector, Vector]:
        """Measured positions [rad] and velocities [rad/s]."""
        ...

    def tool(self) -> tuple[Vector, Vector]:
        """Position [m] and orientation (wxyz) of the tool centre at the measured joints."""
        ...

    def width(self) -> float:
        """Opening of the gripper [m]."""
        ...


W = TypeVar("W", bound=ArmWorld)


class WorldArm(PretendedArm, Generic[W]):
    """Whenever it is read, the world catches up with the clock in whole physics steps."""

    def __init__(self, world: W, clock: Clock) -> None:
        super().__init__("The simulated arm")
        self.world, self._clock, self._seq = world, clock, 0
        self._begin()

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

    def _begin(self) -> None:
        """The world's time starts now."""
        self._began, self._done = self._clock.now(), 0

    def _catch_up(self, now: float) -> None:
        due = int((now - self._began) / self.world.sim_dt + 1e-6)
        if due > self._done:
            self.world.advance(due - self._done)
            self._done = due
