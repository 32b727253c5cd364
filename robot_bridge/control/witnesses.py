"""Who is told what happens, with what the policy saw: a recorder, what a learner gets."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from robot_bridge.control.control_loop import ControlLoop
from robot_bridge.messages import Tick


class Witness(Protocol):
    """Takes what happens; it must not block."""

    def put(self, tick: Tick, obs: Mapping[str, NDArray[Any]] | None = None) -> bool:
        """Take a tick, with what the policy has seen since the last one."""
        ...

    def event(self, name: str, **facts: Any) -> bool:
        """Hear that an episode begins ("begin"), or its `Ending`."""
        ...


class Witnesses:
    """All of them, as one sink of a control loop.

    Args:
        control: whose ticks they are told of.
        witnesses: who.
    """

    def __init__(self, control: ControlLoop, witnesses: Sequence[Witness]) -> None:
        self._control, self._witnesses = control, tuple(witnesses)

    def __call__(self, tick: Tick) -> None:
        """Pass on a tick."""
        obs = self._control.take_obs()
        for witness in self._witnesses:
            witness.put(tick, obs)

    def event(self, name: str, **facts: Any) -> None:
        """Pass on an event."""
        for witness in self._witnesses:
            witness.event(name, **facts)
