"""What may come in: commands that are finite, well formed, new and recent; steps that are short."""

import math

import numpy as np
from numpy.typing import NDArray

from robot_bridge.driver import ArmState, Vector
from robot_bridge.messages import Command, Goal, Source
from robot_bridge.reasons import Reason
from robot_bridge.safety.kinematics import quat_to_vector, vector_to_quat
from robot_bridge.safety.limits import Limits
from scenes.contract.policy_contract import Commanded, Contract, Pose, advance_command
from scenes.contract.rotations import multiply_quats, quat_to_matrix

# Longest chunk of actions: ten seconds at 10 Hz.
LONGEST_CHUNK = 100
# A command may lie this far in the future [s]: two processes read the same clock, not at once.
AHEAD = 0.02
# A step as long as allowed is not limited because 0.025 has no exact float; nor is a turn, which
# float32 rounds further.
_SLACK, _TURN_SLACK = 1.0 + 1e-6, 1.0 + 1e-5

_BACK = np.array([1.0, -1.0, -1.0, -1.0])


class ActionGate:
    """The first layer, before anything computes with what a policy or a network has sent.

    Args:
        contract: shape and meaning of actions, and the reach of the commanded pose.
        limits: ages, the longest step and the widest turn.
    """

    REJECTING = Reason.NOT_FINITE | Reason.BAD_SHAPE | Reason.OLD_COMMAND

    def __init__(self, contract: Contract, limits: Limits) -> None:
        self._spec, self._limits, self._reach = contract.action, limits, contract.reach
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
        measured = Pose(state.position, state.quat)
        base = Pose(goal.position, goal.quat) if self._spec.base == "target" else measured
        last = Commanded(goal.position, goal.quat, np.float64(goal.closure))
        new = advance_command(self._spec, self._reach, last, measured, action)
        if not (np.isfinite(new.position).all() and np.isfinite(new.quat).all()):
            return goal, Reason.NOT_FINITE
        if np.abs(action).max() > 1.0:
            reasons |= Reason.ACTION_CLIPPED
        position, short = self._short_step(base, new.position)
        quat, narrow = self._narrow_turn(base, new.quat)
        if not (short and narrow):
            reasons |= Reason.STEP_LIMITED
        return Goal(position=position, quat=quat, closure=float(new.closure)), reasons

    def _short_step(self, base: Pose, position: Vector) -> tuple[Vector, bool]:
        """The position at most a step away along each of the action's axes, and if it was."""
        axes, longest = self._axes(base), self._limits.step_position
        step = (position - base.position) @ axes
        if np.abs(step).max() <= longest * _SLACK:
            return position, True
        return base.position + axes @ step.clip(-longest, longest), False

    def _narrow_turn(self, base: Pose, quat: Vector) -> tuple[Vector, bool]:
        """The orientation at most a turn away about each of the action's axes, and if it was."""
        if not self._spec.turns:
            return quat, True
        axes, widest = self._axes(base), self._limits.step_rotation
        turned = multiply_quats(np.asarray(quat, np.float64), base.quat * _BACK)
        turn = np.asarray(quat_to_vector(turned.tolist())) @ axes
        if np.abs(turn).max() <= widest * _TURN_SLACK:
            return quat, True
        back = multiply_quats(vector_to_quat(axes @ turn.clip(-widest, widest)), base.quat)
        return back / np.linalg.norm(back), False

    def _axes(self, base: Pose) -> Vector:
        """The action's axes as columns [3, 3] in the base frame."""
        return np.eye(3) if self._spec.frame == "world" else quat_to_matrix(base.quat)

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
