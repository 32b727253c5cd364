"""What a Piper says of itself, in the bridge's words: faults, mode, whether it may be armed."""

from robot_bridge.driver import Mode
from robot_bridge.drivers.piper.can_frames import CAN_CONTROL, EMERGENCY_STOP, TEACHING, Feedback


def faults_of(feedback: Feedback, *, armed: bool) -> tuple[str, ...]:
    """What the arm reports and, once armed, what it has silently stopped doing."""
    status = feedback.status
    faults = [*status.faults, *feedback.motor_faults]
    if armed:
        on = enumerate(feedback.enabled, 1)
        faults += [f"joint{joint}_disabled" for joint, enabled in on if not enabled]
        faults += ["not_in_can_control"] * (status.control != CAN_CONTROL)
    return tuple(faults)


def mode_of(feedback: Feedback, *, armed: bool) -> Mode:
    """What the arm is doing."""
    status = feedback.status
    if status.control in TEACHING:
        return Mode.GUIDING
    if EMERGENCY_STOP in status.faults:
        return Mode.USER_STOPPED
    if faults_of(feedback, armed=armed):
        return Mode.REFLEX
    if not all(feedback.enabled):
        return Mode.OTHER
    return Mode.MOVING if armed and status.moving else Mode.IDLE


def unfit(feedback: Feedback) -> str:
    """Why the arm may not be armed; empty where nothing speaks against it."""
    guided = mode_of(feedback, armed=False) is Mode.GUIDING
    return ", ".join((*faults_of(feedback, armed=False), *["being in its teaching mode"] * guided))
