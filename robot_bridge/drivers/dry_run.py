"""Dry runs: another arm's states, or a recording's, and nothing is ever sent."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from robot_bridge.clock import Clock
from robot_bridge.driver import (
    ArmDriver,
    ArmInfo,
    ArmState,
    ArmToken,
    Target,
    require_token,
)
from robot_bridge.drivers.pretended_link import PretendedArm
from robot_bridge.drivers.registry import Connection, register_driver
from scenes.contract.robot import RobotSpec


class DryRun:
    """Reads a connected arm and keeps from it every command; counts what it kept.

    The whole pipeline runs, the arm is neither armed nor moved. Since it stands still while its
    targets go on, the leash shows up in the reasons.
    """

    def __init__(self, arm: ArmDriver) -> None:
        self._arm = arm
        self.kept_back = 0
        self.last: Target | None = None

    @property
    def info(self) -> ArmInfo:
        """The arm's own, but that it is sent nothing."""
        return dataclasses.replace(self._arm.info, takes="nothing")

    def connect(self) -> None:
        """Open the link and read; this is all the arm sees of us."""
        self._arm.connect()

    def arm(self, token: ArmToken) -> None:
        """Check the token; the arm stays as it is."""
        require_token(token, "arm")

    def state(self) -> ArmState:
        """The arm's newest reading."""
        return self._arm.state()

    def servo(self, target: Target) -> None:
        """Keep the target back."""
        self.kept_back += 1
        self.last = target

    def gripper(self, width: float, force: float) -> None:
        """Keep the opening back."""
        del width, force
        self.kept_back += 1

    def hold(self) -> None:
        """Nothing to stop."""

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Stop an arm only in an emergency: that is never dry."""
        if kind == "protective":
            self._arm.stop(kind)

    def recover(self, token: ArmToken) -> None:
        """Check the token; the arm stays as it is."""
        require_token(token, "recover")

    def close(self) -> None:
        """Let go of the link."""
        self._arm.close()


class NullDriver(PretendedArm):
    """No arm at all: states of one that reaches every target at once, from its home pose.

    A bundle's first run: does the policy load, see and act, and what would it send?
    """

    def __init__(self, robot: RobotSpec, home: Sequence[float], clock: Clock) -> None:
        # Imported here: kinematics is the governor's, and light.
        from robot_bridge.safety.kinematics import Chain

        super().__init__("The null arm")
        self._chain, self._clock, self._robot = Chain(robot), clock, robot
        self._q = np.asarray(home, np.float64)
        self._dq = np.zeros_like(self._q)
        self._width = robot.parallel_gripper.width_range[1]
        self._seq, self._at = 0, clock.now()

    @property
    def info(self) -> ArmInfo:
        """Takes joints, hurts nobody."""
        return ArmInfo(
            robot=self._robot.name, serial="none", firmware="none", takes="joints", simulated=True
        )

    def state(self) -> ArmState:
        """Where the last target was."""
        self._link.require_connected()
        self._seq += 1
        position, quat = self._chain.forward(self._q)
        return ArmState(
            t=self._clock.now(),
            seq=self._seq,
            q=self._q,
            dq=self._dq,
            position=np.asarray(position),
            quat=np.asarray(quat),
            gripper_width=self._width,
            mode=self._link.mode,
        )

    def servo(self, target: Target) -> None:
        """Be there."""
        self._link.admit(target)
        now = self._clock.now()
        self._dq = (target.q - self._q) / max(now - self._at, 1e-3)
        self._q, self._at = target.q, now

    def gripper(self, width: float, force: float) -> None:
        """Be open that far."""
        del force
        self._width = width

    def hold(self) -> None:
        """Stand."""
        self._dq = np.zeros_like(self._q)


@register_driver("null", summary="no arm: states of one that reaches every target at once")
def connect_nothing(connection: Connection) -> ArmDriver:
    """Return an arm that is not there, of the policy's kind, at the policy's home."""
    contract = connection.contract
    return NullDriver(contract.robot, contract.home, connection.clock)
