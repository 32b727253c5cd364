"""What may come in: commands that are finite, well formed, new and recent; steps that are short."""

import math

import numpy as np
from numpy.typing import NDArray

from robot_bridge.driver import ArmState, Vector
from robot_bridge.messages import Command, Goal, Source
from robot_bridge.reasons import Reason
from robot_bridge.safety.kinematics import quat_to_vector, vector_to_quat
from robot_bridge.safety.limits import Limits
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Commanded, Contract, Pose, advance_command
from scenes.contract.rotations import multiply_quats
from scenes.contract.specs import STEPS, TURNS, ActionMode, ActionSpec

# Longest chunk of actions: ten seconds at 10 Hz.
LONGEST_CHUNK = 100
# A command may lie this far in the future [s]: two processes read the same clock, not at once.
AHEAD = 0.02
# A step as long as allowed is not limited because 0.025 has no exact float.
_SLACK = 1.0 + 1e-6
# Length of the longest steps along, or turns about, three axes at once.
_ALL_AXES = math.sqrt(3.0) * (1.0 + 1e-5)

_BACK = np.array([1.0, -1.0, -1.0, -1.0])
# What the governor can bound: steps of the tool centre.
RUNNABLE: tuple[ActionMode, ...] = ("ee_delta", "ee_delta_osc")


def require_runnable(action: ActionSpec) -> None:
    """Raise InputError, naming the allowed modes, for actions that no arm is driven by here."""
    if action.mode not in RUNNABLE:
        raise InputError(
            f"The policy's actions are '{action.mode}', which no arm is driven by; "
            f"allowed: {', '.join(RUNNABLE)}"
        )


class ActionGate:
    """The first layer, before anything computes with what a policy or a network has sent.

    Args:
        contract: shape and meaning of actions, and the reach of the commanded pose.
        limits: ages, the longest step and the widest turn.

    Raises InputError for actions that are not `RUNNABLE`.
    """

    REJECTING = Reason.NOT_FINITE | Reason.BAD_SHAPE | Reason.OLD_COMMAND

    def __init__(self, contract: Contract, limits: Limits) -> None:
        require_runnable(contract.action)
        self._spec, self._limits, self._reach = contract.action, limits, contract.reach
        self._most = _largest_action(contract.action, limits)
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
        shorter = action.clip(-self._most, self._most)
        new = advance_command(self._spec, self._reach, last, measured, shorter)
        if not (np.isfinite(new.position).all() and np.isfinite(new.quat).all()):
            return goal, Reason.NOT_FINITE
        if np.abs(action).max() > 1.0:
            reasons |= Reason.ACTION_CLIPPED
        position, short = self._short_step(base, new.position)
        quat, narrow = self._narrow_turn(base, new.quat)
        if not (short and narrow) or (np.abs(action).clip(0.0, 1.0) > self._most).any():
            reasons |= Reason.STEP_LIMITED
        return Goal(position=position, quat=quat, closure=float(new.closure)), reasons

    def _short_step(self, base: Pose, position: Vector) -> tuple[Vector, bool]:
        """The position at most a step away from the base, and whether it was."""
        step, longest = position - base.position, self._limits.step_position
        if self._spec.frame == "tool":
            # Along tilted axes, and then cut to an upright box, only its length is known.
            length = float(np.linalg.norm(step))
            if length <= _ALL_AXES * longest:
                return position, True
            return base.position + _ALL_AXES * longest / length * step, False
        if np.abs(step).max() <= longest * _SLACK:
            return position, True
        return base.position + step.clip(-longest, longest), False

    def _narrow_turn(self, base: Pose, quat: Vector) -> tuple[Vector, bool]:
        """The orientation at most a turn away from the base, and whether it was."""
        if not self._spec.turns:
            return quat, True
        turned = multiply_quats(np.asarray(quat, np.float64), base.quat * _BACK)
        turn, widest = np.asarray(quat_to_vector(turned.tolist())), self._limits.step_rotation
        angle = float(np.linalg.norm(turn))
        if angle <= _ALL_AXES * widest:
            return quat, True
        back = multiply_quats(vector_to_quat(_ALL_AXES * widest / angle * turn), base.quat)
        return back / np.linalg.norm(back), False

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


def _largest_action(spec: ActionSpec, limits: Limits) -> Vector:
    """The largest entries [A] whose steps and turns are as long as allowed about each axis.

    Steps along the world's axes are judged by where they lead, after the box: see `_short_step`.
    """
    longest: dict[str, float] = dict.fromkeys(TURNS, limits.step_rotation)
    if spec.frame == "tool":
        longest |= dict.fromkeys(STEPS, limits.step_position)
    most = [
        longest.get(name, math.inf) / scale
        for name, scale in zip(spec.names, spec.scale, strict=True)
    ]
    return np.where(np.multiply(most, _SLACK) >= 1.0, math.inf, most)
