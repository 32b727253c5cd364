"""Executed actions with what was observed before them, out of the ticks of a control loop."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.messages import Tick

Obs = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One executed action.

    Attributes:
        obs: what was observed before it.
        action: [A], as executed.
        t: when it began [s].
        intervened: a person chose it.
        policy_action: what the policy wanted where a person intervened [A].
    """

    obs: Obs
    action: NDArray[np.float32]
    t: float
    intervened: bool
    policy_action: NDArray[np.float32] | None


class StepCollector:
    """Makes the steps of one episode of its ticks."""

    def __init__(self) -> None:
        self._obs: Obs | None = None

    def take(self, tick: Tick, obs: Obs | None) -> Step | None:
        """Return the step that begins with a tick, None where no action begins.

        Args:
            tick: the next one.
            obs: the observation that the policy has made since the last tick, if any.
        """
        self._obs = obs or self._obs
        if tick.action is None or self._obs is None:
            return None
        policy = tick.policy_action
        return Step(
            obs=self._obs,
            action=_as_action(tick.action),
            t=tick.t,
            intervened=tick.intervened,
            policy_action=None if policy is None else _as_action(policy),
        )


def _as_action(action: NDArray[np.floating]) -> NDArray[np.float32]:
    """An action as it was executed: clipped to [-1, 1], as the gate does."""
    return np.clip(np.asarray(action, np.float32), -1.0, 1.0)
