"""The plate: the expert puts the cube on it, and where it may be let go is what is said."""

import dataclasses
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import build_env
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import TASKS
from mjx_serl.training.collect import demonstrate

NAMES = ["franka/put_cube_on_plate", "franka/put_cube_on_plate_released"]
PACED = "franka/put_cube_on_plate_paced"
# The expert needs no more of the 100 control steps, paced of the 150, and each costs as much.
EPISODES, STEPS = 40, {PACED: 100}


@pytest.mark.parametrize("name", [*NAMES, PACED])
def test_the_expert_puts_it_there_in_90_percent_of_noisy_episodes(name: str):
    factory: Any = dataclasses.replace(TASKS[name], episode_steps=STEPS.get(name, 60))
    env = build_env(factory, name=name, physics="native")
    rows, solved = jax.jit(partial(demonstrate, Observer(env), episodes=EPISODES))(
        jax.random.key(7)
    )
    assert np.mean(solved) >= 0.9
    turns = np.asarray(rows.action)[..., 3:6][np.asarray(rows.valid)]
    assert turns.std() > 0.0, "the noise of demonstrations turns too"


@pytest.mark.parametrize(
    ("cube", "width", "held", "released"),
    [
        ((0.45, 0.0, 0.044), 0.08, True, True),
        ((0.45, 0.069, 0.044), 0.08, True, True),
        ((0.45, 0.071, 0.044), 0.08, False, False),
        # Held over the plate counts, up to 7 cm above it; let go it must have been.
        ((0.45, 0.0, 0.081), 0.04, True, False),
        ((0.45, 0.0, 0.083), 0.08, False, False),
        ((0.45, 0.0, 0.005), 0.08, False, False),
    ],
)
def test_success_is_over_the_plate_and_not_far_above(cube, width, held, released, make_native):
    for name, wanted in zip(NAMES, (held, released), strict=True):
        env = make_native(name)
        objects, arm = env.scene.objects, env.scene.arm
        xpos = jnp.zeros((env.scene.model.nbody, 3))
        xpos = xpos.at[objects["cube"].body_id].set(jnp.asarray(cube))
        xpos = xpos.at[objects["plate"].body_id].set(jnp.asarray([0.45, 0.0, 0.012]))
        qpos = jnp.zeros(env.scene.model.nq).at[arm.finger_qpos_ids].set(width / 2)
        assert bool(env.task.success(SimpleNamespace(xpos=xpos, qpos=qpos), None)) is wanted
