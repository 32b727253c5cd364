"""What is kept of an episode that a person had a hand in."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mjx_serl.training.off_policy import POLICY_ACTION
from mjx_serl.types import Obs, Transition
from mjx_serl.viewing.live_world import Outcome
from scenes.contract.operator import OperatorEvent


@dataclasses.dataclass
class EpisodeRows:
    """The steps of one episode, as they come.

    Attributes:
        solved: whether it ended well, as the task says or the person.
        driven: how many of its steps a person drove.
        marked: what a person said of each moment that was acted in: whether it is a success.
        after: what was seen, and marked, after the end.
    """

    solved: bool = False
    driven: int = 0
    marked: list[bool] = dataclasses.field(default_factory=list)
    after: list[Obs] = dataclasses.field(default_factory=list)
    _steps: list[Transition] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def marks(self) -> int:
        """How many moments were marked."""
        return sum(self.marked) + len(self.after)

    def add(
        self,
        obs: Obs,
        action: Float[np.ndarray, " A"],
        own: Float[np.ndarray, " A"],
        outcome: Outcome,
        *,
        person: bool,
        marked: bool = False,
        states: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add a step.

        Args:
            obs: what the action answered, as it is stored.
            action: that was played.
            own: of the policy.
            outcome: of the step.
            person: whether a person chose the action.
            marked: whether a person marked `obs` as a success.
            states: of the simulator, to keep by their names.
        """
        step: dict[str, Any] = {
            "action": np.asarray(action, np.float32),
            "reward": np.float32(outcome.reward),
            "terminated": np.bool_(outcome.terminated),
            "truncated": np.bool_(outcome.truncated),
            "valid": np.bool_(outcome.valid),
            "expert": np.bool_(person),
            "extras": {POLICY_ACTION: np.asarray(own, np.float32), **(states or {})},
        }
        self._steps.append(Transition(obs=obs, **step))
        self.marked.append(marked)
        self.driven += person
        self.solved |= outcome.success

    def judge(self, event: OperatorEvent) -> None:
        """End it as the person says: solved and paid for, failed, or merely over."""
        if not self._steps:
            return
        last = self._steps[-1]
        solved = event == "success"
        said = event != "cut"
        self._steps[-1] = last.replace(
            terminated=np.bool_(said),
            truncated=np.bool_(not said),
            reward=np.float32(1.0 if solved else 0.0 if said else last.reward),
        )
        self.solved = solved or (self.solved and not said)

    def rows(self) -> Transition:
        """All steps, numpy [T, 1, ...]."""
        return jax.tree.map(lambda *steps: np.stack(steps)[:, None], *self._steps)

    def frames(self, cameras: tuple[str, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Pictures [T, H, W, 3] by camera, those after the end too, and which [T] were marked."""
        seen = [step.obs for step in self._steps] + self.after
        marked = self.marked + [True] * len(self.after)
        return {name: np.stack([obs[name] for obs in seen]) for name in cameras}, np.array(marked)
