"""Why the bridge changed, refused or stopped something: one bit per safety layer.

The layers and their order are those of reference robot_bridge.md section 3; a tick's reasons are
the union of what its layers said, and go into every record and status message.
"""

from enum import Enum, IntFlag, auto


class Reason(IntFlag):
    """Bits of one tick; NONE means that the command went through unchanged."""

    NONE = 0
    # what came in
    NOT_FINITE = auto()  # an action held a NaN or an infinity
    BAD_SHAPE = auto()  # ... or had the wrong shape or dtype
    OLD_COMMAND = auto()  # its sequence number was seen before, or its time lies outside the window
    ACTION_CLIPPED = auto()  # it left [-1, 1]
    STEP_LIMITED = auto()  # it moved or turned the target further than one step may
    # what the governor changed
    WORKSPACE = auto()  # the target left its box, a keep-out, or the table's clearance
    ORIENTATION = auto()  # it left the orientation cone
    TCP_SPEED = auto()
    TCP_ACCELERATION = auto()
    TCP_JERK = auto()
    LEASH = auto()  # the target ran, or turned, too far ahead of the measured arm
    JOINT_LIMIT = auto()  # position margin
    JOINT_SPEED = auto()
    JOINT_ACCELERATION = auto()
    JOINT_JERK = auto()
    COLLISION = auto()  # the arm would come too near itself or the table
    IK_FAILED = auto()  # no joint motion follows the target (singular, or beyond reach)
    SPEED_RAMP = auto()  # a new bundle runs slower at first
    # what stopped it
    COMMAND_STALE = auto()  # no fresh command: decelerate and hold
    STATE_STALE = auto()  # the arm's state is too old, or its link too poor
    OBSERVATION_STALE = auto()  # a camera or another source of observations is too old or silent
    OBSERVATION_BAD = auto()  # it held a NaN, a number far beyond its unit, or a black picture
    TORQUE = auto()  # a measured torque or its rate is too high
    ROBOT_FAULT = auto()  # the arm reports a reflex, an error or a mode that is not ours
    DRIVER_ERROR = auto()  # the driver raised
    WATCHDOG = auto()  # the control loop itself came too late
    POLICY_ERROR = auto()  # the policy raised or returned nonsense
    EMERGENCY_STOP = auto()
    OPERATOR_RELEASED = auto()  # the enabling device was let go
    EPISODE_LIMIT = auto()  # time or path length of the episode is used up
    NOT_CONFIRMED = auto()  # nobody has confirmed this bundle on this robot
    RECOVERY_LIMIT = auto()  # too many recoveries in too short a time
    # what was lost
    RECORD_DROPPED = auto()  # the recorder's queue or disk was full
    # what the governor changed of a turn; at the end, so that older records keep their bits
    TURN_SPEED = auto()
    TURN_ACCELERATION = auto()
    TURN_JERK = auto()
    # ... and what has stopped it since
    KINEMATICS_MISMATCH = auto()  # the arm's pose is not where its joints put our tool centre
    NOT_FOLLOWING = auto()  # the arm stands, far behind its target, and says nothing of a fault
    JOINT_OVERLOADED = auto()  # a joint is too hot, or has too much of what else is monitored


def describe(reasons: Reason) -> str:
    """Names of the set bits, "ok" for none."""
    names = [reason.name or "" for reason in Reason if reason & reasons and reason.name != "NONE"]
    return " ".join(name.lower() for name in names) or "ok"


class Phase(Enum):
    """Where the bridge's state machine stands; only a person's token leads up and out of FAULT."""

    DISARMED = "disarmed"
    ARMED = "armed"
    RUN = "run"
    HOLD = "hold"
    FAULT = "fault"
