"""Out to Brax: a task as a `brax.envs.base.Env`, for brax.training and its wrappers.

Needs the extra `brax`; nothing else in this project imports this module.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.types import Obs, PyTree
from scenes.contract.errors import InputError, MissingPackageError
from scenes.contract.extras import install

try:
    from brax.envs.base import Env as BraxBase
    from brax.envs.base import State
except ImportError as error:
    raise MissingPackageError(
        f"mjx_serl.adapters.brax needs brax: {install('brax', 'brax')}"
    ) from error


class BraxEnv(BraxBase):
    """One world with Brax's semantics; its wrappers batch it, cut it and reset it.

    `done` is a termination only. Brax's EpisodeWrapper counts the time limit itself, and would
    take a `done` at the limit for a termination: wrap with `episode_length=env.episode_length`.
    Its AutoResetWrapper puts a world back to the start of that world's first episode (google/brax
    #167), so training meets as many starts as it has worlds between two evaluations.
    Without wrappers, `info["truncation"]` says when the task's limit is reached. Observations
    are one vector, the fields of the task's ObsSpec in order. Where the state became non-finite
    `info["valid"]` is 0 (do not learn from that step), and `metrics["invalid"]` 1.

    Args:
        env: one world from `make_env`; raises ValueError where it observes images or words.
    """

    def __init__(self, env: Env) -> None:
        others = [f.name for f in env.obs_spec.fields if len(f.shape) > 1 or f.kind == "tokens"]
        if others:
            raise InputError(
                f"BraxEnv makes one vector of an observation, but '{env.name}' observes {others}; "
                "allowed are numbers of one axis"
            )
        self.env = env

    def reset(self, rng: Array) -> State:
        """Return the start of an episode; `rng` is a key, typed or Brax's raw uint32 pair."""
        state = self.env.reset(rng)
        opaque: PyTree = state  # Brax's wrappers take any pytree here
        return State(
            pipeline_state=opaque,
            obs=self._vector(state.obs),
            reward=state.reward,
            done=jnp.zeros(()),
            metrics=self._metrics(state),
            info={"truncation": jnp.zeros(()), "valid": jnp.ones(())},
        )

    def step(self, state: State, action: Float[Array, " A"]) -> State:
        """Return the world after `action` in [-1, 1] was held for one control period."""
        before: PyTree = state.pipeline_state
        after = self.env.step(before, action)
        ends = {"truncation": after.truncated, "valid": after.valid}
        return state.replace(
            pipeline_state=after,
            obs=self._vector(after.obs),
            reward=after.reward,
            done=after.terminated.astype(jnp.float32),
            # Brax's wrappers keep entries of their own in both.
            metrics={**state.metrics, **self._metrics(after)},
            info={**state.info, **{name: x.astype(jnp.float32) for name, x in ends.items()}},
        )

    @property
    def episode_length(self) -> int:
        """The task's time limit in control steps."""
        return self.env.task.episode_steps

    @property
    def observation_size(self) -> int:
        """Length of the observation vector."""
        return sum(field.shape[0] for field in self.env.obs_spec.fields)

    @property
    def action_size(self) -> int:
        """Number of action entries."""
        return self.env.action_dim

    @property
    def backend(self) -> str:
        """Name of the physics: "native", "mjx" or "warp"."""
        return self.env.physics.name

    def _vector(self, obs: Obs) -> Float[Array, " O"]:
        return jnp.concatenate([obs[name] for name in self.env.obs_spec.names])

    def _metrics(self, state: EnvState) -> dict[str, jax.Array]:
        flags = {"success": state.success, "invalid": ~state.valid}
        return {**state.metrics, **{name: x.astype(jnp.float32) for name, x in flags.items()}}
