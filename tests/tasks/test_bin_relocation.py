"""Two bins: there and back without a reset in between."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.tasks.alternating import AlternatingConfig, TurnState
from mjx_serl.tasks.bin_relocation import FORWARD as FORWARD_CONFIG
from mjx_serl.tasks.pick_cube import SPARSE
from mjx_serl.tasks.rewards import GripState

FORWARD, BACKWARD = "franka/bin_relocation_forward", "franka/bin_relocation_backward"
EPISODES, STEPS = 10, 70


@pytest.fixture
def pair(make_native: Callable[[str], Env]) -> tuple[Env, Env]:
    """Both directions on native physics."""
    return make_native(FORWARD), make_native(BACKWARD)


def played(env: Env, state: EnvState) -> tuple[EnvState, jax.Array]:
    """The noisy expert's state at the end of each of several episodes, and what each was paid."""

    def step(state: EnvState, key: jax.Array) -> tuple[EnvState, jax.Array]:
        action = env.task.demonstrate(state.sim, state.command, state.task_state)
        noise = 0.1 * jax.random.normal(key, action.shape).at[-1].set(0.0)
        done = state.terminated | state.truncated
        new = env.step(state, jnp.clip(action + noise, -1.0, 1.0))
        kept = jax.tree.map(lambda old, new: jnp.where(done, old, new), state, new)
        return kept, jnp.where(done, 0.0, new.reward)

    def episode(state: EnvState, key: jax.Array) -> tuple[EnvState, jax.Array]:
        state, paid = jax.lax.scan(step, state, jax.random.split(key, STEPS))
        return state, paid.sum()

    return jax.jit(jax.vmap(episode))(state, jax.random.split(jax.random.key(1), EPISODES))


def test_the_backward_task_goes_on_where_the_forward_one_ended(pair: tuple[Env, Env]):
    forward, backward = pair
    assert forward.scene.spec == backward.scene.spec
    keys = jax.random.split(jax.random.key(0), EPISODES)
    there, paid = played(forward, jax.vmap(forward.reset)(keys))
    assert np.mean(there.success) >= 0.9
    # Closed once and opened once, at 0.1 each.
    np.testing.assert_allclose(np.asarray(paid)[np.asarray(there.success)], 0.8, atol=0.21)
    went = jax.vmap(backward.carry_on)(there, keys)
    np.testing.assert_array_equal(went.sim.qpos, there.sim.qpos)
    back, _ = played(backward, went)
    assert np.mean(back.success[there.success]) >= 0.9
    cube = backward.scene.objects["cube"].body_id
    assert (np.asarray(back.sim.xpos)[np.asarray(back.success), cube, 1] > 0.025).all()


@pytest.mark.parametrize(
    ("y", "z", "width", "solved"),
    [
        (-0.075, 0.02, 0.08, True),
        (-0.075, 0.02, 0.04, False),  # still between the fingers
        (-0.075, 0.05, 0.08, False),  # on the rim
        (0.025, 0.02, 0.08, False),
        (0.125, 0.02, 0.08, False),  # where it began
        (-0.20, 0.02, 0.08, False),  # outside
    ],
)
def test_it_counts_let_go_in_the_other_bin(pair, y: float, z: float, width: float, solved: bool):
    for env, side in zip(pair, (1.0, -1.0), strict=True):
        task: Any = env.task
        xpos = jnp.zeros((env.scene.model.nbody, 3))
        mirrored = 0.025 + side * (y - 0.025)
        xpos = xpos.at[env.scene.objects["cube"].body_id].set(jnp.array([0.485, mirrored, z]))
        qpos = jnp.zeros(env.scene.model.nq).at[env.scene.arm.finger_qpos_ids].set(width / 2)
        assert bool(task.success(SimpleNamespace(xpos=xpos, qpos=qpos), None)) is solved


def lying(env: Env, y: float, *, width: float = 0.08) -> Any:
    """A state with the cube on the floor at `y` [m] and the fingers `width` [m] apart."""
    xpos = jnp.zeros((env.scene.model.nbody, 3))
    xpos = xpos.at[env.scene.objects["cube"].body_id].set(jnp.array([0.485, y, 0.02]))
    qpos = jnp.zeros(env.scene.model.nq).at[env.scene.arm.finger_qpos_ids].set(width / 2)
    return SimpleNamespace(xpos=xpos, qpos=qpos)


@pytest.mark.parametrize(
    ("y", "width", "turns"),
    [
        (-0.075, 0.08, [1, 1]),  # forward is solved: backward goes on, and on if it times out there
        (0.125, 0.08, [0, 0]),  # backward is solved
        (0.125, 0.04, [1, 0]),  # held where it began: nothing is solved, so they change
    ],
)
def test_the_other_goes_on_unless_there_is_nothing_for_it_to_do(
    make_native: Callable[[str], Env], y: float, width: float, turns: list[int]
):
    env = make_native("franka/bin_relocation")
    task: Any = env.task
    sim, key = lying(env, y, width=width), jax.random.key(0)
    for turn, expected in enumerate(turns):
        last = TurnState(jnp.int32(turn), GripState.start(jnp.zeros((), bool)))
        went = task.resume(sim, last, key)
        assert int(went.turn) == expected
        assert bool(went.inner.closed) is (width < 0.044)
        for name in ("success", "terminated"):
            alone = getattr(task.tasks[expected], name)(sim, went.inner)
            assert bool(getattr(task, name)(sim, went)) is bool(alone)


def test_two_scenes_take_no_turns():
    other = AlternatingConfig(parts=("bins", "cube"), tasks=(FORWARD_CONFIG, SPARSE))
    with pytest.raises(ValueError, match="bins and cube have different scenes"):
        other.scene()
