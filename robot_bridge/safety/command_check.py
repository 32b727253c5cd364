"""What may come in: commands that are finite, well formed, new and recent; steps that are short."""

import math

import numpy as np
from numpy.typing import NDArray

from robot_bridge.driver import ArmState
from robot_bridge.messages import Command, Goal, Source
from robot_bridge.reasons import Reason
from robot_bridge.safety.limits import Limits
from scenes.contract.policy_contract import Contract, advance_command

# Longest chunk of actions: ten seconds at 10 Hz.
LONGEST_CHUNK = 100
# A command may lie this far in the future [s]: two processes read the same clock, not at once.
AHEAD = 0.02


class ActionGate:
    """The first layer, before anything computes with what a policy or a network has sent.

    Args:
        contract: shape and meaning of actions, and the workspace of the commanded position.
        limits: ages and the longest step.
    """

    REJECTING = Reason.NOT_FINITE | Reason.BAD_SHAPE | Reason.OLD_COMMAND

    def __init__(self, contract: Contract, limits: Limits) -> None:
        self._spec, self._limits = contract.action, limits
        low, high = contract.workspace
        self._box = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self._newest: dict[Source, int] = {}

    def admit(self, command: Command, now: float) -> Reason:
        """Why a command is refused (a bit of REJECTING) or will be changed; NONE for neither.

        Refused commands leave no trace: the number of one does not block those after it.
        """
        reasons = self._form(command.actions) | self._timing(command, now)
        if reasons & self.REJECTING:
            return reasons
        self._newest[command.source] = command.seq
        if np.abs(command.actions).max() > 1.0:
            reasons |= Reason.ACTION_CLIPPED
        return reasons

    def advance(
        self, goal: Goal, state: ArmState, action: NDArray[np.floating]
    ) -> tuple[Goal, Reason]:
        """The goal after an action [A], and what was changed about it.

        An action or a state that is not finite changes nothing.
        """
        action = np.asarray(action)
        reasons = self._form(action[None])
        if reasons:
            return goal, reasons
        base = goal.position if self._spec.base == "target" else state.position
        last = goal.position, np.float64(goal.closure)
        position, closure = advance_command(self._spec, self._box, last, state.position, action)
        if not np.isfinite(position).all():
            return goal, Reason.NOT_FINITE
        if np.abs(action).max() > 1.0:
            reasons |= Reason.ACTION_CLIPPED
        longest = self._limits.step_position
        # A step as long as allowed is not limited because 0.025 has no exact float.
        if np.abs(position - base).max() > longest * (1.0 + 1e-6):
            reasons |= Reason.STEP_LIMITED
            position = base + (position - base).clip(-longest, longest)
        return Goal(position=position, quat=goal.quat, closure=float(closure)), reasons

    def reset(self) -> None:
        """Forget the sequence numbers seen: another process counts from its own beginning."""
        self._newest.clear()

    def _form(self, actions: NDArray[np.floating]) -> Reason:
        """Judge type, shape [H, A] and finiteness."""
        if not isinstance(actions, np.ndarray) or actions.dtype.kind != "f":
            return Reason.BAD_SHAPE
        if actions.ndim != 2 or actions.shape[1] != self._spec.dim:
            return Reason.BAD_SHAPE
        if not 1 <= len(actions) <= LONGEST_CHUNK:
            return Reason.BAD_SHAPE
        return Reason.NONE if np.isfinite(actions).all() else Reason.NOT_FINITE

    def _timing(self, command: Command, now: float) -> Reason:
        """Judge sequence number, age and the times a command carries."""
        if not all(map(math.isfinite, (command.t, command.dt, command.valid_for))):
            return Reason.NOT_FINITE
        age = now - command.t
        allowed = min(self._limits.command_max_age, command.valid_for)
        recent = -AHEAD <= age <= allowed and command.dt > 0.0
        new = command.seq > self._newest.get(command.source, -1)
        return Reason.NONE if recent and new else Reason.OLD_COMMAND
