"""Executed actions with what was observed before them, out of the ticks of a control loop."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.messages import VERDICTS, Ending, Tick
from scenes.contract.demonstrations import OBS, Arrays
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsSpec

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


# An observation that comes so long after an action began still is of the state before it [s].
_LATE = 0.02


class StepCollector:
    """Makes the steps of one episode of its ticks.

    Attributes:
        steps: so far. What the last of them observed may still change with the next ticks: the
            actions of a chunk are due whether or not the policy's side has observed in time.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._obs: Obs | None = None
        self._fresh = self._waiting = False

    def take(self, tick: Tick, obs: Obs | None) -> None:
        """Take the next tick, with what the policy's side has observed since the last one."""
        if obs is not None:
            self._obs, self._fresh = obs, True
        if self._obs is None:
            return
        if tick.action is not None:
            policy = tick.policy_action
            self.steps.append(
                Step(
                    obs=self._obs,
                    action=_as_action(tick.action),
                    t=tick.t,
                    intervened=tick.intervened,
                    policy_action=None if policy is None else _as_action(policy),
                )
            )
            self._fresh, self._waiting = False, not self._fresh
        elif self._waiting and obs is not None and tick.t - self.steps[-1].t <= _LATE:
            self.steps[-1] = dataclasses.replace(self.steps[-1], obs=obs)
            self._fresh = self._waiting = False


def step_arrays(steps: Sequence[Step], obs: ObsSpec, ending: Ending | None) -> Arrays:
    """Steps that follow each other as arrays [T, ...], by the names of a file of demonstrations.

    The last one pays 1 where the episode was a success; success and failure terminate, anything
    else truncates, and None is for steps that others follow. The actions are those executed, so a
    person's where one intervened ("expert"). Raises what `read_field` does.
    """
    last = np.arange(len(steps)) == len(steps) - 1
    over, decided = last & (ending is not None), ending in VERDICTS
    arrays: Arrays = {
        f"{OBS}{f.name}": np.stack([read_field(s, f.name, f.shape, f.dtype) for s in steps])
        for f in obs.fields
    }
    return arrays | {
        "action": np.stack([step.action for step in steps]).astype(np.float32),
        "reward": (over & (ending == "success")).astype(np.float32),
        "terminated": over & decided,
        "truncated": over & (not decided),
        "expert": np.array([step.intervened for step in steps]),
    }


def read_field(step: Step, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return an observation of a step; ValueError unless it is as the contract says and finite."""
    value = step.obs.get(name)
    if value is None or value.shape != shape or value.dtype != dtype:
        got = "missing" if value is None else f"{value.dtype}{list(value.shape)}"
        raise InputError(f"Recorded observation '{name}' is {got}, allowed: {dtype}{list(shape)}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise InputError(f"Recorded observation '{name}' is not finite at {step.t:.3f} s")
    return value


def _as_action(action: NDArray[np.floating]) -> NDArray[np.float32]:
    """An action as it was executed: clipped to [-1, 1], as the gate does."""
    return np.clip(np.asarray(action, np.float32), -1.0, 1.0)
