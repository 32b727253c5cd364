"""Policies that can be watched: the scripted expert, random and zero actions, a trained one."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.registry import Registry
from mjx_serl.training.policies import Policy, random_policy
from mjx_serl.types import Actions, Obs, PRNGKey, PyTree


class WorldPolicy(Protocol):
    """A policy that may read the simulator's state, as a scripted expert has to.

    It is a pytree, so that its parameters are arguments of what is compiled.
    """

    def __call__(self, worlds: EnvState, obs: Obs, key: PRNGKey) -> Actions:
        """Return actions in [-1, 1]."""
        ...


def build_policies(env: Env) -> Registry[WorldPolicy]:
    """Return the policies that fit any task: its scripted expert, uniform actions, zeros."""
    policies: Registry[WorldPolicy] = Registry("policy")
    uniform = random_policy(env.action_dim)

    @policies.register("expert")
    @Partial
    def _(worlds: EnvState, obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        expert = jax.vmap(env.task.demonstrate)
        return expert(worlds.sim, worlds.command, worlds.task_state)

    @policies.register("random")
    @Partial
    def _(worlds: EnvState, obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        return uniform({"t": worlds.t}, key)

    @policies.register("zero")
    @Partial
    def _(worlds: EnvState, obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        return jnp.zeros((*worlds.t.shape, env.action_dim))

    return policies


def from_observations(policy: Callable[..., Policy], *params: PyTree) -> WorldPolicy:
    """Return `policy(*params)`, which reads observations only, as a `WorldPolicy`."""
    count = len(params)
    return Partial(lambda *args: policy(*args[:count])(*args[count + 1 :]), *params)
