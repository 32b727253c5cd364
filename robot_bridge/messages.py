"""What the bridge's loops tell each other; the same whether threads or processes pass it on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from robot_bridge.driver import ArmState, Target, Vector
from robot_bridge.reasons import Phase, Reason

Source = Literal["policy", "operator"]

# How an episode ended. "success" and "failure" are verdicts of the task or of a person, and an
# episode that has one has terminated. The others cut it short (truncated): "timeout" its time was
# over, "cut" a person wanted to start again, or the recording was over, "fault" the bridge or the
# arm stopped. None of them is a failure of the policy.
Ending = Literal["success", "failure", "timeout", "cut", "fault"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)
VERDICTS: tuple[Ending, ...] = ("success", "failure")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What a policy or an operator wants next.

    Attributes:
        seq: grows by one with each of a source's commands.
        t: monotonic time of the observation that it answers [s].
        actions: [H, A] in [-1, 1]: one per `dt`, the first now.
        dt: between two actions [s].
        valid_for: how long after `t` it may still be executed [s].
        source: whose it is.
        obs: what the policy saw, for the record; None where it is not kept. A command of a number
            that came before is not executed again; it shows what is seen while that one plays.
    """

    seq: int
    t: float
    actions: NDArray[np.floating]
    dt: float
    valid_for: float
    source: Source = "policy"
    obs: Mapping[str, NDArray[Any]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What the accepted actions add up to, before the governor: the sim's commanded target.

    Attributes:
        position: of the tool centre [m].
        quat: of the tool centre, wxyz.
        closure: of the gripper, 0 open to 1 closed.
    """

    position: Vector
    quat: Vector
    closure: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """One turn of the control loop: published to observers and policies, written by the recorder.

    Attributes:
        index: counts ticks.
        t: monotonic [s].
        wall: time since the epoch [s].
        phase: of the state machine.
        reasons: of the safety layers.
        state: the arm as measured.
        goal: what the accepted actions ask for.
        target: what the governor sent, None where nothing was sent.
        action: the one being executed, None where there is none.
        policy_action: what the policy wanted meanwhile, where a person intervened.
        source: whose command is executed.
        seq: of that command.
        age: of the observation that the command answers [s], -1 without one.
        lateness: of this tick [s].
        part: of a task by turns, whose turn it is: 0 or 1.
    """

    index: int
    t: float
    wall: float
    phase: Phase
    reasons: Reason
    state: ArmState
    goal: Goal
    target: Target | None = None
    action: NDArray[np.floating] | None = None
    policy_action: NDArray[np.floating] | None = None
    source: Source | None = None
    seq: int = -1
    age: float = -1.0
    lateness: float = 0.0
    part: int = 0

    @property
    def intervened(self) -> bool:
        """Whether a person's action was executed."""
        return self.source == "operator"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """The policy's side cannot act.

    Attributes:
        t: since when [s].
        reasons: why.
    """

    t: float
    reasons: Reason
