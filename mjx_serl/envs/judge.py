"""Who says that an episode is solved: the task, or a classifier of pictures as on a real robot.

SERL and HIL-SERL pay 1 and end the episode where a classifier sees success (reference
serl_family.md 1.3, 1.6). Pictures are drawn once per step, of the state that the next action
answers, so a verdict is passed on that state: its reward and its end come with that action, one
step after the state was reached. Until then the world goes on, and the picture that is judged is
the one of the terminal state; what the time limit cuts off is not judged.

The truth stays known: an episode that a verdict ended is a success only where the task was solved
in the state that was judged.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
import tyro
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.env import Env, EnvState, lost
from mjx_serl.types import Metrics, Obs, PyTree
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged

VERDICT = "verdict"  # beside the pictures: probability of each stage, [N, K]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What pays and what ends an episode; without a classifier the task does both.

    Attributes:
        classifier: a file of `python -m mjx_serl.classifier`.
        use: what the classifier decides: "both" pays where it sees success and ends the episode
            (SERL, HIL-SERL); "reward" only pays, the task ends; "termination" only ends, the task
            pays.
        geometric: success must also pass what the arm itself can measure, `Task.plausible`
            (HIL-SERL's geometric tests).
        threshold: probability that counts as success in place of the file's; None is the file's.
        digest: of the file when the run began, which the run fills in; a run whose file has
            changed since is refused.
    """

    classifier: Path | None = None
    use: Literal["both", "reward", "termination"] = "both"
    geometric: bool = False
    threshold: float | None = ranged(None, above=0, below=1)
    digest: tyro.conf.Suppress[str] = ""

    def build(self, env: Env, classifier: "SuccessClassifier | None") -> "Judge | None":
        """Return who judges in place of the task, None where that is the task.

        Raises InputError for a geometric test that the task does not have.
        """
        if classifier is None:
            return None
        if self.geometric and getattr(env.task, "plausible", None) is None:
            raise InputError(
                f"--reward.geometric with '{env.name}', which has no test of its own (a method "
                "`plausible`); allowed: without, or for example franka/pick_cube"
            )
        return Judge(env, classifier, use=self.use, geometric=self.geometric)


class SuccessClassifier(Protocol):
    """A trained classifier of pictures, which is only applied."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Probability from which each stage counts, in their order; the last one is success."""
        ...

    def __call__(self, pictures: Obs) -> Float[Array, "N K"]:
        """Return the probability of each stage from pictures uint8 [N, H, W, 3] by camera."""
        ...


@struct.dataclass
class Judged:
    """What a judge remembers of N worlds, and sums over the episodes that ended.

    Attributes:
        reached: stages reached, in order, in the episode that each world is in.
        successes: episodes that it called solved since the sums were cleared.
        false_positives: of those, how many were not.
        SUMS: what is summed over all worlds, on whichever device they are.
    """

    SUMS: ClassVar = ("successes", "false_positives")

    reached: Int[Array, " N"]
    successes: Int[Array, ""]
    false_positives: Int[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """Pays and ends episodes in place of the task.

    Attributes:
        env: one world.
        classifier: of success; None where nobody says it: nothing is paid, and an episode ends by
            its time limit or where the world is lost.
        use, geometric: see `RewardConfig`.
    """

    env: Env
    classifier: SuccessClassifier | None = None
    use: Literal["both", "reward", "termination"] = "both"
    geometric: bool = False

    def start(self, num: int) -> Judged:
        """What is known of `num` worlds at the start of their episodes."""
        return Judged(jnp.zeros(num, jnp.int32), jnp.int32(0), jnp.int32(0))

    def __call__(
        self, judged: Judged, before: EnvState, pictures: Obs, after: EnvState
    ) -> tuple[Judged, EnvState, Bool[Array, " N"]]:
        """Judge worlds [N].

        Args:
            judged: what is remembered.
            before: worlds that were acted in.
            pictures: of them, with `VERDICT`.
            after: what the step led to.

        Returns:
            What is remembered; `after` as it is paid and ended; which were called solved.
        """
        paid, reached, done = self._verdict(judged.reached, before, pictures)
        ends = before.success if self.use == "reward" else done
        terminated = ends | lost(after)
        late = after.t >= self.env.task.episode_steps
        over = terminated | late
        success = jnp.where(ends, before.success, after.success)
        told = over & done
        judged = Judged(
            reached=jnp.where(over, 0, reached),
            successes=judged.successes + told.sum(),
            false_positives=judged.false_positives + (told & ~success).sum(),
        )
        after = after.replace(
            reward=after.reward if self.use == "termination" else paid,
            terminated=terminated,
            truncated=late & ~terminated,
            success=success,
        )
        return judged, after, done

    def _verdict(
        self, reached: Int[Array, " N"], before: EnvState, pictures: Obs
    ) -> tuple[Float[Array, " N"], Int[Array, " N"], Bool[Array, " N"]]:
        """What is paid, the stages reached, and whether these are all.

        A stage is paid once, when those before it have been reached too: 1 in total.
        """
        if self.classifier is None:
            return jnp.zeros(reached.shape), reached, jnp.zeros(reached.shape, bool)
        thresholds = jnp.asarray(self.classifier.thresholds)
        seen = pictures[VERDICT] >= thresholds
        if self.geometric:
            task: Any = self.env.task
            plausible = jax.vmap(task.plausible)(before.sim, before.command, before.task_state)
            seen = seen.at[:, -1].set(seen[:, -1] & plausible)
        stages = jnp.arange(thresholds.size)
        passed = jnp.cumprod(seen | (stages < reached[:, None]), axis=1, dtype=jnp.int32).sum(1)
        paid = (passed - reached).astype(jnp.float32) / thresholds.size
        return paid, passed, passed == thresholds.size


def judged_metrics(judged: PyTree) -> Metrics:
    """Return the sums as metrics, where a judge made them."""
    if not isinstance(judged, Judged):
        return {}
    return {
        "episode/judged_successes": judged.successes.astype(jnp.float32),
        "episode/false_positives": judged.false_positives.astype(jnp.float32),
    }


def clear_judged(judged: PyTree) -> PyTree:
    """Return it without the sums of ended episodes."""
    if not isinstance(judged, Judged):
        return judged
    return Judged(judged.reached, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
