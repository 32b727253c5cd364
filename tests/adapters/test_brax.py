"""The way out to Brax: its wrappers and its PPO, and the time limit that they count."""

import dataclasses
import importlib
import importlib.util
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packaging.requirements import Requirement

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
def test_entries_that_braxs_wrappers_add_are_kept(brax_env):
    from brax.envs.wrappers import training

    wrapped = training.EvalWrapper(training.wrap(brax_env, episode_length=3))
    state = jax.jit(wrapped.reset)(jax.random.split(jax.random.PRNGKey(0), 2))
    assert state.metrics.keys() == {"picked", "reach", "lift", "success", "invalid", "reward"}

    @jax.jit
    def play(state):  # as brax's own evaluation does
        move = lambda state, _: (wrapped.step(state, jnp.ones((2, 4))), None)  # noqa: E731
        return jax.lax.scan(move, state, None, length=3)[0]

    measured = play(state).info["eval_metrics"]
    assert measured.episode_steps.tolist() == [3, 3]
    assert measured.episode_metrics["invalid"].tolist() == [0, 0]


@needs_brax
def test_a_world_whose_physics_failed_is_shown(brax_env):
    start = jax.jit(brax_env.reset)(jax.random.key(0))
    step = jax.jit(brax_env.step)
    assert [float(start.info["valid"]), float(step(start, jnp.zeros(4)).info["valid"])] == [1, 1]
    failed = step(start, jnp.full(4, jnp.nan))
    assert (float(failed.info["valid"]), float(failed.metrics["invalid"])) == (0, 1)
    assert float(failed.done) == 1.0 and np.isfinite(failed.obs).all()


def lines_for_brax() -> list[str]:
    """What README.md shows."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (block,) = [part for part in text.split("```python\n")[1:] if "adapters.brax" in part]
    return block.split("```")[0].splitlines()


def small_ppo() -> dict:
    """The least that brax's PPO learns from."""
    from brax.training.agents.ppo.networks import make_ppo_networks

    hidden = {"policy_hidden_layer_sizes": (8,), "value_hidden_layer_sizes": (8,)}
    sizes = {"batch_size": 4, "num_minibatches": 2, "unroll_length": 5, "num_updates_per_batch": 1}
    return {"network_factory": partial(make_ppo_networks, **hidden), **sizes}


def small_sac() -> dict:
    """The least that brax's SAC learns from."""
    from brax.training.agents.sac.networks import make_sac_networks

    sizes = {"batch_size": 8, "min_replay_size": 16, "max_replay_size": 256}
    return {"network_factory": partial(make_sac_networks, hidden_layer_sizes=(8,)), **sizes}


@needs_brax
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # brax calls what jax is leaving behind
@pytest.mark.parametrize(
    ("name", "small", "loss"), [("ppo", small_ppo, "total_loss"), ("sac", small_sac, "actor_loss")]
)
def test_braxs_learners_train_and_evaluate_by_the_readmes_lines(
    name: str, small: Callable[[], dict], loss: str
):
    """The lines as they are, on fewer worlds and for fewer steps."""
    learner = importlib.import_module(f"brax.training.agents.{name}.train")

    def train(**given):
        given |= {"num_timesteps": 80, "num_envs": 8, "num_eval_envs": 4, "num_evals": 2}
        return learner.train(**given, **small())

    scope = {"train": train}
    exec("\n".join(line for line in lines_for_brax() if "brax.training" not in line), scope)
    metrics = scope["metrics"]
    assert np.isfinite(metrics[f"training/{loss}"])
    assert metrics["eval/avg_episode_length"] > 1 and metrics["eval/episode_invalid"] == 0


def test_the_extra_holds_jax_to_one_that_brax_trains_with():
    """brax 0.14.2 calls jax.device_put_replicated, which jax 0.10 removed (google/brax#671)."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    (jax_line,) = [want for want in map(Requirement, extras["brax"]) if want.name == "jax"]
    assert "0.9.2" in jax_line.specifier
    assert not [v for v in ("0.10.0", "0.11.0", "0.12.0") if v in jax_line.specifier]


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
