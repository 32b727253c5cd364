"""The way out to Brax: its wrappers and its PPO, and the time limit that they count."""

import dataclasses
import importlib
import importlib.util
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import Env
from scenes.contract.specs import ObsField, ObsSpec

needs_brax = pytest.mark.skipif(
    importlib.util.find_spec("brax") is None, reason="brax is not installed"
)
# brax imports jaxopt, which says so.
pytestmark = pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")


@pytest.fixture
def brax_env(sparse: Env):
    from mjx_serl.adapters.brax import BraxEnv

    return BraxEnv(sparse)


@needs_brax
def test_sizes_and_order(brax_env, sparse: Env):
    state = jax.jit(brax_env.reset)(jax.random.key(0))
    assert state.obs.shape == (brax_env.observation_size,) == (24,)
    assert (brax_env.action_size, brax_env.backend, brax_env.episode_length) == (4, "native", 100)
    direct = jax.jit(sparse.reset)(jax.random.key(0))
    expected = np.concatenate([direct.obs[name] for name in sparse.obs_spec.names])
    np.testing.assert_array_equal(state.obs, expected)
    assert float(state.done) == 0.0


@needs_brax
def test_success_is_done_and_time_is_not(brax_env):
    state = jax.jit(brax_env.reset)(jax.random.key(0))
    world, step = state.pipeline_state, jax.jit(brax_env.step)
    task_state = world.task_state.replace(start_height=world.task_state.start_height - 0.2)
    won = step(state.replace(pipeline_state=world.replace(task_state=task_state)), jnp.zeros(4))
    assert (float(won.done), float(won.reward), float(won.metrics["success"])) == (1.0, 1.0, 1.0)
    assert float(won.info["truncation"]) == 0.0
    late = step(state.replace(pipeline_state=world.replace(t=jnp.int32(99))), jnp.zeros(4))
    assert (float(late.done), float(late.info["truncation"])) == (0.0, 1.0)


@needs_brax
def test_braxs_wrappers_cut_at_the_time_limit_and_restart(brax_env):
    from brax.envs.wrappers import training

    wrapped = training.wrap(brax_env, episode_length=brax_env.episode_length)
    state = jax.jit(wrapped.reset)(jax.random.split(jax.random.PRNGKey(0), 2))
    step = jax.jit(wrapped.step)
    for count in range(1, 103):
        state = step(state, jnp.zeros((2, 4)))
        assert (state.done == (count == 100)).all()
        assert (state.info["truncation"] == (count == 100)).all()
    assert state.pipeline_state.t.tolist() == [2, 2]


@needs_brax
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # brax calls what jax is leaving behind
def test_braxs_ppo_trains_on_it(brax_env):
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo import train as ppo

    hidden = {"policy_hidden_layer_sizes": (8,), "value_hidden_layer_sizes": (8,)}
    sizes = {"num_envs": 8, "batch_size": 4, "num_minibatches": 2, "unroll_length": 5}
    _, _, metrics = ppo.train(
        environment=brax_env,
        num_timesteps=80,
        episode_length=brax_env.episode_length,
        num_updates_per_batch=1,
        num_evals=1,
        run_evals=False,
        network_factory=partial(networks.make_ppo_networks, **hidden),
        **sizes,
    )
    assert np.isfinite(metrics["training/total_loss"])


@needs_brax
def test_images_are_refused(sparse: Env):
    from mjx_serl.adapters.brax import BraxEnv

    spec = ObsSpec(fields=(ObsField(name="front", shape=(8, 8, 3), dtype="uint8"),))
    task = dataclasses.replace(sparse.task, obs_spec=spec)
    with pytest.raises(ValueError, match=r"observes \['front'\]"):
        BraxEnv(dataclasses.replace(sparse, task=task))


def test_a_missing_brax_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "brax.envs.base", None)
    monkeypatch.delitem(sys.modules, "mjx_serl.adapters.brax", raising=False)
    with pytest.raises(ImportError, match=r"needs brax: pip install 'mjx-serl\[brax\]'"):
        importlib.import_module("mjx_serl.adapters.brax")
