"""Plays commands: admits each once, hands out its actions when they are due, knows its age."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.control.arbiter import Choice
from robot_bridge.driver import ArmState
from robot_bridge.messages import Command, Goal, Source
from robot_bridge.reasons import Reason
from robot_bridge.safety.limits import Limits

Action = NDArray[np.floating]


class Gate(Protocol):
    """What lets actions in; see `gate.ActionGate`."""

    @property
    def REJECTING(self) -> Reason:
        """Bits with which a command is refused."""
        ...

    def admit(self, command: Command, now: float) -> Reason:
        """Why a command is changed or, with a bit of REJECTING, refused."""
        ...

    def advance(self, goal: Goal, state: ArmState, action: Action) -> tuple[Goal, Reason]:
        """The goal after an action."""
        ...

    def reset(self) -> None:
        """Forget the sequence numbers seen."""
        ...


@dataclass(slots=True)
class _Playing:
    command: Command
    taken: float
    next: int = 0


class Player:
    """The command under execution.

    Chunks are played from when they came, one action per `dt`; the next command replaces what is
    left of one. Refused commands change nothing but the count of refusals.
    """

    def __init__(self, gate: Gate, limits: Limits) -> None:
        self.rejected_in_a_row = 0
        self._gate, self._limits = gate, limits
        self._playing: _Playing | None = None
        self._valid_until = -math.inf
        self._seen: dict[Source, int] = {}

    @property
    def command(self) -> Command | None:
        """What is played."""
        return None if self._playing is None else self._playing.command

    def take(self, choice: Choice, now: float) -> Reason:
        """Take the chosen command if it is new; return what the gate said of it."""
        command = choice.command
        if command is None or self._seen.get(command.source) == command.seq:
            return Reason.NONE
        self._seen[command.source] = command.seq
        reasons = self._gate.admit(command, now)
        if reasons & self._gate.REJECTING:
            self.rejected_in_a_row += 1
            return reasons
        self.rejected_in_a_row = 0
        self._playing = _Playing(command, now)
        self._valid_until = self._validity(command)
        return reasons

    def due(self, now: float) -> Action | None:
        """Return the next action if its time has come; each is returned once."""
        playing = self._playing
        if playing is None or playing.next >= len(playing.command.actions):
            return None
        # Half a control period of grace: a tick that comes a little early still plays it.
        if now < playing.taken + playing.next * playing.command.dt - 0.005:
            return None
        playing.next += 1
        return playing.command.actions[playing.next - 1]

    def overdue(self, now: float) -> float:
        """Return for how long nobody has commanded anything valid [s]; inf before the first time.

        What was commanded counts whether or not the arm was let to follow it.
        """
        return max(0.0, now - self._valid_until)

    def _validity(self, command: Command) -> float:
        """Until when a command may be executed [s]."""
        longest = (len(command.actions) - 1) * command.dt + self._limits.command_max_age
        return command.t + min(command.valid_for, longest)

    def stop(self) -> None:
        """Drop the command; sequence numbers are remembered, so that it cannot come back."""
        self._playing = None

    def reset(self) -> None:
        """Start anew: another policy process counts its commands from the beginning."""
        self._playing, self.rejected_in_a_row = None, 0
        self._valid_until = -math.inf
        self._seen.clear()
        self._gate.reset()
