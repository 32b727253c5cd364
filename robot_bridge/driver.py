"""What every arm looks like to the bridge: states out, targets in, people's tokens for arming.

numpy float64, SI units, base frame, quaternions wxyz (a driver turns them for its robot's API).
"""

import enum
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robot_bridge.compliance import Settable

Vector = NDArray[np.float64]
JointReadings = Mapping[str, Vector]  # [J] by quantity


class DriverError(RuntimeError):
    """The arm refused or cannot be reached; the message says what a person can do."""


class Mode(enum.Enum):
    """What the arm itself says it is doing."""

    IDLE = "idle"  # powered, takes commands
    MOVING = "moving"  # under our control
    REFLEX = "reflex"  # stopped by its own safety, wants recovery
    USER_STOPPED = "user_stopped"  # the activation device or stop button is pressed
    GUIDING = "guiding"  # moved by hand, or in its teaching mode
    OTHER = "other"  # locked, disabled, offline


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmState:
    """One reading of an arm.

    Attributes:
        t: monotonic time at which it was received [s].
        seq: counts readings, so a frozen arm is seen.
        q: joint positions [rad].
        dq: joint velocities [rad/s].
        position: of the tool centre [m].
        quat: of the tool centre, wxyz.
        gripper_width: between the pads [m].
        mode: what the arm reports.
        faults: what the arm reports.
        link_quality: share of recent packets that arrived [1].
        tau: measured joint torques [N m], None where unknown.
        twist: of the tool centre, linear [m/s] over angular [rad/s], None where unknown.
    """

    t: float
    seq: int
    q: Vector
    dq: Vector
    position: Vector
    quat: Vector
    gripper_width: float
    mode: Mode
    faults: tuple[str, ...] = ()
    link_quality: float = 1.0
    tau: Vector | None = None
    twist: Vector | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where the arm shall be a tick from now: the same place as a pose and as joint positions.

    A driver takes the form its arm is best at; both lie inside all limits.

    Attributes:
        position: of the tool centre [m].
        quat: of the tool centre, wxyz.
        q: joint positions [rad].
    """

    position: Vector
    quat: Vector
    q: Vector


@dataclass(frozen=True, kw_only=True)
class ArmInfo:
    """What a driver knows about its arm once connected.

    The limits are those that the arm itself enforces, None where it does not say.

    Attributes:
        robot: name of the RobotSpec.
        serial: as the arm says it, for people and records.
        firmware: as the arm says it.
        takes: the form of Target that is used.
        simulated: nothing can be hurt.
        q_min: lowest joint positions [rad].
        q_max: highest joint positions [rad].
        dq_max: largest joint speeds [rad/s].
        compliance: when its driver takes one (`compliance.Compliant`).
    """

    robot: str
    serial: str
    firmware: str
    takes: Literal["pose", "joints", "nothing"]
    simulated: bool = False
    q_min: tuple[float, ...] | None = None
    q_max: tuple[float, ...] | None = None
    dq_max: tuple[float, ...] | None = None
    compliance: Settable = "never"


@dataclass(frozen=True)
class ArmToken:
    """A person's consent, good for one use; made by `Supervisor.confirm`.

    Attributes:
        purpose: to arm or to recover.
        by: who consents.
        nonce: tells tokens apart.
    """

    purpose: Literal["arm", "recover"]
    by: str
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))


class ArmDriver(Protocol):
    """An arm. No method blocks for longer than a few milliseconds after `connect` and `arm`."""

    @property
    def info(self) -> ArmInfo:
        """What is connected; valid after `connect`."""
        ...

    def connect(self) -> None:
        """Open the link and read the arm; never moves it, never enables it."""
        ...

    def arm(self, token: ArmToken) -> None:
        """Enable the arm where it stands; DriverError without a token to arm or while faulted."""
        ...

    def state(self) -> ArmState:
        """The newest reading, its age told by `t` and `seq`; DriverError without a link."""
        ...

    def servo(self, target: Target) -> None:
        """Go on towards `target`; the latest wins."""
        ...

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m] with at most this force [N]; returns at once."""
        ...

    def hold(self) -> None:
        """Stay where the arm is measured to be."""
        ...

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """End control: "soft" keeps the arm powered, "protective" is the arm's own stop."""
        ...

    def recover(self, token: ArmToken) -> None:
        """Clear the arm's error; DriverError without a token to recover."""
        ...

    def close(self) -> None:
        """Let go of the link; an arm that is still controlled holds first."""
        ...


@runtime_checkable
class MonitoredArm(Protocol):
    """A driver whose arm says more of its joints than where they are."""

    def joint_readings(self) -> JointReadings:
        """What each joint says, by the names of `control.joint_monitor`; at once, DriverError
        without a link.
        """
        ...


def require_connected(info: ArmInfo | None) -> ArmInfo:
    """Return what is known of an arm once it is connected; DriverError before."""
    if info is None:
        raise DriverError("The arm is not connected; call connect() first")
    return info


def require_token(token: ArmToken, purpose: Literal["arm", "recover"]) -> None:
    """Raise DriverError unless the token is a person's consent to `purpose`."""
    if not isinstance(token, ArmToken) or token.purpose != purpose:
        raise DriverError(f"This needs a person's token to {purpose}; see Supervisor.confirm")


def require_finite(target: Target) -> None:
    """Raise DriverError for a target that holds a NaN or an infinity; the last one stays."""
    if not all(np.isfinite(row).all() for row in (target.position, target.quat, target.q)):
        raise DriverError("A target must be finite; a NaN got past the governor")
