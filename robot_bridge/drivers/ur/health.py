"""What a controller says of itself, in the bridge's words: faults, mode, what a person can do."""

from robot_bridge.driver import Mode
from robot_bridge.drivers.ur.rtde import RtdeState

_RUNNING, _BACKDRIVE = 7, 6  # robot_mode
_PROGRAM, _FREEDRIVE = 1 << 1, 1 << 2  # of robot_status_bits
PROTECTIVE_STOP = "protective_stop"
# By bits of safety_status_bits; 0 is normal, 1 reduced, which is the person's own choice.
_STOPPED_BY_ITSELF = {
    2: PROTECTIVE_STOP,
    3: "recovery_mode",
    8: "safety_violation",
    9: "safety_fault",
    10: "stopped_by_safety",
}
_STOPPED_BY_PEOPLE = {
    4: "safeguard_stop",
    5: "system_emergency_stop",
    6: "robot_emergency_stop",
    7: "emergency_stop",
}


def faults_of(state: RtdeState) -> tuple[str, ...]:
    """What the safety system reports."""
    named = _STOPPED_BY_ITSELF | _STOPPED_BY_PEOPLE
    return tuple(name for bit, name in named.items() if state.safety_status_bits >> bit & 1)


def program_runs(state: RtdeState) -> bool:
    """Whether any program runs on the controller."""
    return bool(state.robot_status_bits & _PROGRAM)


def mode_of(state: RtdeState, *, controlled: bool) -> Mode:
    """What the arm is doing; `controlled` by our program."""
    faults = faults_of(state)
    if set(faults) & set(_STOPPED_BY_PEOPLE.values()):
        return Mode.USER_STOPPED
    if faults:
        return Mode.REFLEX
    if state.robot_mode == _BACKDRIVE or state.robot_status_bits & _FREEDRIVE:
        return Mode.GUIDING
    if state.robot_mode != _RUNNING:
        return Mode.OTHER
    return Mode.MOVING if controlled else Mode.IDLE


def unfit(state: RtdeState) -> str:
    """Why the arm may not be armed and what a person can do; empty where nothing is against it."""
    mode, faults = mode_of(state, controlled=False), faults_of(state)
    if faults:
        return f"it reports {', '.join(faults)}; clear that on the pendant"
    if mode is Mode.GUIDING:
        return "it is in freedrive"
    if mode is Mode.OTHER:
        return "it is not running; switch it on and release its brakes on the pendant"
    return "another program runs on it; stop that on the pendant" if program_runs(state) else ""
