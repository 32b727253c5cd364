"""Carries what a person does to the control loop: actions, the enabling key, stops, endings."""

import numpy as np

from robot_bridge.messages import Command, Ending
from robot_bridge.policy.policy_loop import ControlSide
from robot_bridge.reasons import Reason
from scenes.contract.operator import Operator

POLL_PERIOD = 0.02  # a pressed stop key is noticed within this time [s]


class OperatorLoop:
    """Polls a device; offers its actions at the rate of the policy's.

    Args:
        operator: a device; `open` opens it.
        side: what hears of it.
        period: of an action [s].
    """

    def __init__(self, operator: Operator, side: ControlSide, *, period: float) -> None:
        self._operator, self._side, self._period = operator, side, period
        self._seq, self._offered = 0, -np.inf
        self._open = self._enabled = False
        self._ending: Ending | None = None

    def open(self) -> str:
        """Begin to read the device; return what does what on it. OperatorError where it fails."""
        self._operator.open()
        self._open = True
        return self._operator.help_text

    def close(self) -> None:
        """Leave the device as it was; whoever held its key has let go."""
        self._open, self._enabled = False, False
        self._operator.close()

    @property
    def enabled(self) -> bool:
        """Whether the hold-to-run key is held; False once the device is lost."""
        return self._enabled

    def take_ending(self) -> Ending | None:
        """How the person has ended the episode since the last call, None while it goes on."""
        ending, self._ending = self._ending, None
        return ending

    def tick(self, deadline: float | None = None) -> None:
        """Poll once, while the device is open."""
        del deadline
        if not self._open:
            return
        now = self._side.clock.now()
        found = self._operator.poll(now)
        self._enabled = found is not None and found.enabled
        if found is None:
            return
        if found.event == "stop":
            self._side.fault(Reason.EMERGENCY_STOP)
        elif found.event is not None:
            self._ending = found.event
        if found.action is not None and now - self._offered >= self._period - POLL_PERIOD / 2:
            self._offer(found.action, now)

    def _offer(self, action: np.ndarray, now: float) -> None:
        self._seq += 1
        self._offered = now
        self._side.offer(
            Command(
                seq=self._seq,
                t=now,
                actions=action[None].astype(np.float32),
                dt=self._period,
                valid_for=self._side.limits.command_max_age,
                source="operator",
            )
        )
