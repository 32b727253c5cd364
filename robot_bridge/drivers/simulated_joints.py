"""A simulated arm that takes joint positions, as a Piper does: for measuring what arms do."""

from typing import Literal, Protocol

from robot_bridge.clock import Clock
from robot_bridge.driver import ArmInfo, ArmState, ArmToken, Target, Vector, require_token
from robot_bridge.drivers.pretended_link import PretendLink


class JointWorld(Protocol):
    """A simulated arm by its joints; see `mjx_serl.sysid.driven_arm.DrivenArm`."""

    sim_dt: float
    name: str

    def command(self, q: Vector) -> None:
        """Set the joint positions that the drives go to [rad]."""
        ...

    def grip(self, width: float) -> None:
        """Set the gripper's opening [m]."""
        ...

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


class SimJointDriver:
    """A world of joints as an arm that lives in the clock's time, real or turned by hand.

    Whenever it is read, the world catches up with the clock in whole physics steps.
    """

    def __init__(self, world: JointWorld, clock: Clock) -> None:
        self.world = world
        self._clock, self._began, self._done = clock, clock.now(), 0
        self._link = PretendLink("The simulated arm")
        self._seq = 0

    @property
    def info(self) -> ArmInfo:
        """A simulated arm that takes joint positions."""
        return ArmInfo(
            robot=self.world.name, serial="sim", firmware="sim", takes="joints", simulated=True
        )

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
        due = int((now - self._began) / self.world.sim_dt + 1e-6)
        if due > self._done:
            self.world.advance(due - self._done)
            self._done = due
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
        """Go on towards the target's joint positions."""
        self._link.admit(target)
        self.world.command(target.q)

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m]; the world has its own force."""
        del force
        self.world.grip(width)

    def hold(self) -> None:
        """Stay."""
        self.world.command(self.world.joints()[0])

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
