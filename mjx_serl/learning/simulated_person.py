"""A task's scripted expert as the person at a simulated arm, for learning on it without one.

It watches some episodes, and takes over where the policy strays or stalls, as the one in a
simulation's worlds does (`mjx_serl.training.takeover`): after it has reacted, with an unsteady
hand, for half a second at least, and then gives back: early and short, as people are told to do.
What it does passes the bridge as a device's actions do.
"""

import jax
import numpy as np
from jaxtyping import Float64

from mjx_serl.run.simulated_arm import SimulatedArm
from mjx_serl.training.takeover import TakeoverConfig
from robot_bridge.messages import Goal, Tick
from scenes.contract.operator import OperatorInput

WHEN = TakeoverConfig(far=0.5, patience=0.4, reaction=0.3, hold=0.5)
HALF_LIFE = 40  # episodes after which half as many are watched
NEVER = float("inf")


class SimulatedPerson:
    """An `Operator` that reads the simulator.

    Attributes:
        help_text: for people.
        lost: None: it is always there.

    Args:
        arm: whose task's expert it is.
        seed: of what it watches, and of its hand.
    """

    help_text, lost = "the task's expert helps where the policy strays or stalls", None

    def __init__(self, arm: SimulatedArm, *, seed: int = 0) -> None:
        self._arm, self._rng = arm, np.random.default_rng(seed)
        self._key = jax.random.key(seed)
        self._episodes, self._watches = 0, False
        self._begun = self._needed = NEVER
        self._until = -NEVER
        self._goal: Goal | None = None
        self._policy: Float64[np.ndarray, " A"] | None = None

    def see(self, tick: Tick) -> None:
        """Know what the actions so far add up to, and the policy's; a sink of the control loop."""
        self._goal = tick.goal
        wanted = tick.policy_action if tick.intervened else tick.action
        if wanted is not None:  # most ticks are between two actions
            self._policy = wanted

    def open(self) -> None:
        """Another episode begins."""
        self._watches = self._rng.random() < 0.5 ** (self._episodes / HALF_LIFE)
        self._episodes += 1
        self._begun = self._needed = NEVER
        self._until = -NEVER
        self._policy = None

    def poll(self, now: float) -> OperatorInput | None:
        """The expert's action while it has taken over."""
        self._begun = min(self._begun, now)
        goal = self._goal
        if not self._watches or goal is None:
            return None
        self._key, key = jax.random.split(self._key)
        action = self._arm.expert_action(goal.position, goal.quat, goal.closure, key)
        stalls = now - self._begun >= WHEN.patience * self._arm.episode_seconds
        strays = self._policy is not None and np.max(np.abs(action - self._policy)) > WHEN.far
        self._needed = min(self._needed, now) if stalls or strays else NEVER
        if now - self._needed >= WHEN.reaction:
            self._until = now + WHEN.hold
        return OperatorInput(action=action, enabled=True) if now < self._until else None

    def close(self) -> None:
        """The episode is over."""
        self._watches = False
