"""Is the arm's state fit to be controlled by? Age, link, mode, faults, torques, finiteness."""

import numpy as np

from robot_bridge.driver import ArmState, Mode
from robot_bridge.reasons import Reason
from robot_bridge.safety.limits import Limits

# What the arm may say of itself while it is ours.
OURS = (Mode.IDLE, Mode.MOVING)


class StateWatch:
    """Compares each reading with the limits and the reading before it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seq = -1
        self._changed = -np.inf

    def check(self, state: ArmState, now: float) -> tuple[Reason, Reason]:
        """Return the reasons to hold and the reasons to fault.

        Old readings and a poor link hold; what the arm complains about, too much torque and
        numbers that are none fault.
        """
        hold, fault = Reason.NONE, Reason.NONE
        if state.seq != self._seq:
            self._seq, self._changed = state.seq, now
        # A frozen source repeats its reading, a broken one stamps it with an old time.
        age = max(now - self._changed, now - state.t)
        if age > self._limits.state_max_age or state.link_quality < self._limits.link_quality_min:
            hold |= Reason.STATE_STALE
        if age > self._limits.command_fault_age:
            fault |= Reason.STATE_STALE
        if state.faults or state.mode not in OURS:
            fault |= Reason.ROBOT_FAULT
        if not _finite(state):
            fault |= Reason.NOT_FINITE
        elif self._torque_exceeded(state):
            fault |= Reason.TORQUE
        return hold, fault

    def _torque_exceeded(self, state: ArmState) -> bool:
        most = self._limits.torque_max
        return state.tau is not None and most is not None and bool((abs(state.tau) > most).any())


def _finite(state: ArmState) -> bool:
    rows = (state.q, state.dq, state.position, state.quat)
    return all(np.isfinite(row).all() for row in rows)
