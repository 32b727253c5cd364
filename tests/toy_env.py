"""A world of one number whose whole future is written in its start: exact, and quick to compile.

It has the interface that `mjx_serl.training` uses of an environment and no physics. An episode
ends at the step drawn at its start: `end` at most `STEPS` terminates, a later one never comes and
the episode is cut by the time limit. Half of the worlds only report success one step after their
end, which must not count. Every step pays 1, also after the end.
"""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from flax import struct

from mjx_serl.envs.observation import Observer
from mjx_serl.envs.vector import VecEnv, vectorize
from mjx_serl.types import Obs
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

STEPS = 8
SPEC = ObsSpec(
    fields=(ObsField(name="x", shape=(2,), scale=4.0), ObsField(name="age", shape=(1,), scale=0.5))
)

ACTION = ActionSpec(mode="ee_delta", names=("push", "gripper"), scale=(0.1, 1.0), rate=10.0)


@struct.dataclass
class ToyState:
    """The fields of EnvState that the training rooms read, and the episode's plan."""

    carry: jax.Array
    sim: "ToySim"
    command: jax.Array
    task_state: jax.Array
    end: jax.Array
    late: jax.Array
    obs: Obs
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    success: jax.Array
    valid: jax.Array
    t: jax.Array


@struct.dataclass
class ToySim:
    """What is kept of a world whose state became non-finite; where its two bodies are."""

    qpos: jax.Array
    qvel: jax.Array
    xpos: jax.Array
    xquat: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class ToyTask:
    """The time limit, and an expert that pushes x up."""

    episode_steps: int = STEPS
    control: SimpleNamespace = dataclasses.field(default_factory=lambda: SimpleNamespace(scale=0.1))

    def demonstrate(self, sim: ToySim, command: jax.Array, task_state: jax.Array) -> jax.Array:
        """Half a step up, gripper closed."""
        return jnp.array([0.5, 1.0])


@dataclasses.dataclass(frozen=True, eq=False)
class ToyEnv:
    """reset and step of one toy world; actions are [push, ignored]."""

    name: str = "toy"
    action_dim: int = 2
    ctrl_dt: float = 0.1
    obs_spec: ObsSpec = SPEC
    action_spec: ActionSpec = ACTION
    task: ToyTask = dataclasses.field(default_factory=ToyTask)
    variation: None = None
    told: None = None

    def reset(self, key: jax.Array) -> ToyState:
        """Draw the start, the end and whether success comes too late."""
        k_x, k_end, k_late = jax.random.split(key, 3)
        no = jnp.zeros((), bool)
        state = ToyState(
            carry=jax.random.uniform(k_x, (2,)),
            sim=ToySim(jnp.zeros(1), jnp.zeros(1), jnp.zeros((2, 3)), jnp.ones((2, 4))),
            command=jnp.zeros(()),
            task_state=jnp.zeros(()),
            end=jax.random.randint(k_end, (), 2, STEPS + 6),
            late=jax.random.bernoulli(k_late).astype(jnp.int32),
            obs={},
            reward=jnp.zeros(()),
            terminated=no,
            truncated=no,
            success=no,
            valid=~no,
            t=jnp.zeros((), jnp.int32),
        )
        return state.replace(obs=_look(state))

    def carry_on(self, state: ToyState, key: jax.Array) -> ToyState:
        """Begin an episode, with an end of its own, where the last one stopped."""
        fresh = self.reset(key)
        state = state.replace(
            end=fresh.end, late=fresh.late, t=fresh.t, success=fresh.success,
            terminated=fresh.terminated, truncated=fresh.truncated, reward=fresh.reward,
        )  # fmt: skip
        return state.replace(obs=_look(state))

    def step(self, state: ToyState, action: jax.Array) -> ToyState:
        """Push x; end as planned."""
        carry = state.carry + 0.1 * action
        valid = jnp.isfinite(carry).all()
        t = state.t + 1
        over = ~valid | (t == state.end)
        state = state.replace(
            carry=carry,
            reward=jnp.where(valid, 1.0, 0.0),
            terminated=over,
            truncated=(t >= STEPS) & ~over,
            success=valid & (t == state.end + state.late),
            valid=valid,
            t=t,
        )
        return state.replace(obs=_look(state))


def _look(state: ToyState) -> Obs:
    age = state.t.astype(jnp.float32)[None]
    seen = {"x": state.carry, "age": age}
    return jax.tree.map(lambda x: jnp.where(state.valid, x, 0.0), seen)


class FurtherCameras(Observer):
    """What cameras of a toy world see, as a function that they are given draws it."""

    @property
    def traceable(self) -> bool:
        """Yes."""
        return True

    def looks(self, key: jax.Array, num: int) -> tuple:
        """All alike."""
        return ()


def toy_worlds(num_envs: int) -> VecEnv:
    """Toy worlds stepped together."""
    return vectorize(ToyEnv(), num_envs=num_envs)
