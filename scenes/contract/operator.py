"""What a person at an arm does: drives it, holds the enabling key, stops it, judges episodes.

The arm is a real one or a simulated one. Devices: the bridge's keyboard, SpaceMouse and gamepad
(`robot_bridge.operators`), read from the operating system's own interfaces, and its page in the
browser. Directions are those of a person who stands behind the base and looks
along its +x: forward is +x, left is +y, up is +z; `facing` turns them for other places. Whatever
cannot be read any more counts as let go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

# "stop" stops the arm; the others end an episode (see `messages.Ending`), "cut" without a verdict.
OperatorEvent = Literal["stop", "success", "failure", "cut"]

# What a person drives a simulated arm with; a page in the browser is always there.
Device = Literal["page", "spacemouse", "gamepad"]

# The enabling key counts as let go after this long without a sign [s]; robot_bridge.md layer 19.
HOLD_SECONDS = 0.3


class OperatorError(RuntimeError):
    """The input device cannot be used; the message says what a person can do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorInput:
    """What a person wants at one moment.

    Attributes:
        action: [A] in [-1, 1] in the order of ActionSpec.names, None while nothing is pushed.
        enabled: whether the hold-to-run key is held.
        event: pressed since the last poll.
    """

    action: NDArray[np.float64] | None = None
    enabled: bool = False
    event: OperatorEvent | None = None


class Operator(Protocol):
    """An input device; one thread polls it."""

    @property
    def help_text(self) -> str:
        """What does what, for people."""
        ...

    @property
    def lost(self) -> str | None:
        """Why nothing comes any more, None while the device works."""
        ...

    def open(self) -> None:
        """Begin to read; OperatorError where that fails."""
        ...

    def poll(self, now: float) -> OperatorInput | None:
        """Return what is wanted at monotonic time `now` [s]; never waits.

        None while nobody touches anything: no action, not enabled, no event.
        """
        ...

    def close(self) -> None:
        """Stop reading and leave the device as it was; may be called twice."""
        ...


class Axes:
    """From directions to actions: x, y, z and gripper in the order of the action's names.

    Args:
        names: `ActionSpec.names`; entries of other names stay 0.
        facing: direction in which the person looks, counter-clockwise from the base's +x [deg];
            180 for somebody who stands opposite the arm.
    """

    def __init__(self, names: Sequence[str], *, facing: float = 0.0) -> None:
        self._names = tuple(names)
        self._cos, self._sin = np.cos(np.radians(facing)), np.sin(np.radians(facing))

    def action(self, pushed: Mapping[str, float]) -> NDArray[np.float64] | None:
        """Return the action for "x" (forward), "y" (left), "z" (up) and "gripper" (close).

        Values are in [-1, 1]; None where all are 0.
        """
        if not any(pushed.values()):
            return None
        forward, left = pushed.get("x", 0.0), pushed.get("y", 0.0)
        turned = dict(pushed)
        turned["x"] = forward * self._cos - left * self._sin
        turned["y"] = forward * self._sin + left * self._cos
        return np.clip([turned.get(name, 0.0) for name in self._names], -1.0, 1.0)


def without_deadband(value: float, deadband: float) -> float:
    """Return 0 inside +-`deadband`, and beyond it the rest of the way, so that it begins at 0."""
    beyond = max(0.0, abs(value) - deadband) / (1.0 - deadband)
    return float(np.copysign(min(1.0, beyond), value)) if beyond else 0.0


class OperatorGroup:
    """Several devices as one: a SpaceMouse and a pedal, say.

    The first that has an action gives it; any may enable; a stop goes before other events.
    """

    def __init__(self, *operators: Operator) -> None:
        self._operators = operators

    @property
    def help_text(self) -> str:
        """What does what on each."""
        return "\n".join(operator.help_text for operator in self._operators)

    @property
    def lost(self) -> str | None:
        """Why some of them say nothing any more."""
        lines = [operator.lost for operator in self._operators if operator.lost is not None]
        return "; ".join(lines) or None

    def open(self) -> None:
        """Open all of them, or none."""
        try:
            for operator in self._operators:
                operator.open()
        except OperatorError:
            self.close()
            raise

    def poll(self, now: float) -> OperatorInput | None:
        """Return what all of them together want at `now` [s]."""
        inputs = [found for o in self._operators if (found := o.poll(now)) is not None]
        if not inputs:
            return None
        events: list[OperatorEvent] = [i.event for i in inputs if i.event is not None]
        return OperatorInput(
            action=next((i.action for i in inputs if i.action is not None), None),
            enabled=any(i.enabled for i in inputs),
            event="stop" if "stop" in events else (events or [None])[0],
        )

    def close(self) -> None:
        """Close all of them."""
        for operator in self._operators:
            operator.close()


def said(
    action: NDArray[np.float64] | None, *, enabled: bool, event: OperatorEvent | None = None
) -> OperatorInput | None:
    """Make an input; None where nobody touches anything."""
    if action is None and not enabled and event is None:
        return None
    return OperatorInput(action=action, enabled=enabled, event=event)
