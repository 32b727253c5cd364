"""The dog walks up to the stand and picks the cube; it ends where it lies down."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mjx_serl.envs.env import Env, build_env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.go2_pick import SPARSE
from mjx_serl.training.collect import demonstrate


def test_the_expert_picks_it_in_90_percent_of_noisy_episodes():
    """In half of the steps that it has: each costs as much."""
    env = build_env(dataclasses.replace(SPARSE, episode_steps=75), name="", physics="native")
    rows, solved = jax.jit(partial(demonstrate, Observer(env), episodes=20))(jax.random.key(2))
    assert np.mean(solved) >= 0.9
    seen = np.asarray(rows.obs["cube_from_base"])[0]
    assert seen[:, 0].max() > 0.75, "some begin out of the arm's reach and have to walk"


def test_what_is_seen_does_not_depend_on_where_the_world_is(make_native: Callable[[str], Env]):
    env = make_native("go2_piper/pick")
    state = jax.device_get(jax.jit(env.reset)(jax.random.key(1)))
    tool = state.sim.site_xpos[env.scene.arm.ee_site_id]
    cube = state.sim.xpos[env.scene.object("cube").body_id]
    far = np.linalg.norm(cube - tool)
    np.testing.assert_allclose(np.linalg.norm(state.obs["cube_from_tool"]), far, atol=1e-5)
    # The tool begins 0.32 m ahead of the arm's base, wherever that looks.
    np.testing.assert_allclose(state.obs["tool_from_base"][:2], (0.32, 0.0), atol=2e-3)
    assert not state.terminated
    tipped = jnp.asarray(state.sim.qpos).at[env.scene.arm.base_qpos_ids[4]].set(0.5)
    assert bool(env.task.terminated(state.sim.replace(qpos=tipped), state.task_state))
    low = jnp.asarray(state.sim.qpos).at[env.scene.arm.base_qpos_ids[2]].set(0.15)
    assert bool(env.task.terminated(state.sim.replace(qpos=low), state.task_state))
    assert not bool(env.task.terminated(state.sim, state.task_state))
