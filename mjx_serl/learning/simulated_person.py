"""A task's scripted expert as the person at a simulated arm, for learning on it without one.

It watches some episodes, and takes over where one goes on for too long without being solved, with
an unsteady hand, to its end. What it does passes the bridge as a device's actions do.
"""

import jax
import numpy as np

from mjx_serl.run.simulated_arm import SimulatedArm
from robot_bridge.messages import Goal, Tick
from scenes.contract.operator import OperatorInput

PATIENCE = 0.4  # share of an episode's time limit
HALF_LIFE = 40  # episodes after which half as many are watched


class SimulatedPerson:
    """An `Operator` that reads the simulator.

    Attributes:
        help_text: for people.
        lost: None: it is always there.

    Args:
        arm: whose task's expert it is.
        seed: of what it watches, and of its hand.
    """

    help_text, lost = "the task's expert helps where an episode goes on for too long", None

    def __init__(self, arm: SimulatedArm, *, seed: int = 0) -> None:
        self._arm, self._rng = arm, np.random.default_rng(seed)
        self._key = jax.random.key(seed)
        self._episodes, self._watches, self._begun = 0, False, np.inf
        self._goal: Goal | None = None

    def see(self, tick: Tick) -> None:
        """Know what the actions so far add up to; a sink of the control loop."""
        self._goal = tick.goal

    def open(self) -> None:
        """Another episode begins."""
        self._watches = self._rng.random() < 0.5 ** (self._episodes / HALF_LIFE)
        self._episodes += 1
        self._begun = np.inf

    def poll(self, now: float) -> OperatorInput | None:
        """The expert's action, once it has taken over."""
        self._begun = min(self._begun, now)
        goal, late = self._goal, now - self._begun >= PATIENCE * self._arm.episode_seconds
        if not self._watches or not late or goal is None:
            return None
        self._key, key = jax.random.split(self._key)
        action = self._arm.expert_action(goal.position, goal.quat, goal.closure, key)
        return OperatorInput(action=action, enabled=True)

    def close(self) -> None:
        """The episode is over."""
        self._watches = False
