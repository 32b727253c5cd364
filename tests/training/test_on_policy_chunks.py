"""Imitation and on-policy training of chunks: what a choice is paid, time-outs, lessons."""

import contextlib
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv

from mjx_serl.agents.flow_ppo import FlowPPOConfig, ImitationConfig
from mjx_serl.data.normalize import normalize
from mjx_serl.envs.observation import Observer
from mjx_serl.nets.velocity import MLPVelocityConfig
from mjx_serl.run.loop import Run, _derived
from mjx_serl.training.demonstrations import DemoConfig, RecordedDemos
from mjx_serl.training.offline import OfflineConfig
from mjx_serl.training.on_policy_chunks import (
    ChunkLoopConfig,
    ChunkSteps,
    OnPolicyChunks,
    OnPolicyChunksConfig,
)
from mjx_serl.training.rollouts import Played
from mjx_serl.training.state import TrainState
from mjx_serl.types import Choice

WORLDS, HORIZON, CHUNKS, GAMMA = 8, 3, 4, 0.9
AGENT = FlowPPOConfig(
    net=MLPVelocityConfig(hidden=(16,)),
    horizon=HORIZON,
    steps=2,
    value_hidden=(16,),
    gamma=GAMMA,
    gae_lambda=0.0,
    imitation=ImitationConfig(lr=1e-2, decay=600),
)


def method_of(**loop: Any) -> OnPolicyChunksConfig:
    sizes = {"rollout_chunks": CHUNKS, "passes": 2, "minibatches": 2, "stagger": False, "pool": 8}
    sizes |= {"pretrain_updates": 0, "batch_size": 32}
    return OnPolicyChunksConfig(
        agent=AGENT, loop=ChunkLoopConfig(**sizes | loop), demos=DemoConfig(count=0)
    )


# -- one choice ----------------------------------------------------------------------------------


def test_a_choice_is_paid_until_its_episode_ends() -> None:
    """Five worlds: one goes on, one ends after two steps, one times out with the last, one ended
    and is then not finite any more, one is not finite while it counts.
    """
    yes, no = True, False
    steps = ChunkSteps(
        reward=np.float32([[1] * 5, [2] * 5, [4] * 5]),
        terminated=np.array([[no] * 5, [no, yes, no, yes, no], [no, yes, no, yes, no]]),
        truncated=np.array([[no] * 5, [no] * 5, [no, no, yes, no, no]]),
        valid=np.array([[yes] * 5, [yes] * 5, [yes, no, yes, no, no]]),
        success=np.array([[yes, no, no, no, no], [no, yes, no, no, no], [no, yes, yes, no, no]]),
    )
    one = steps.as_one({}, Choice(jnp.zeros((5, 3, 2))))
    np.testing.assert_array_equal(one.reward, [7, 3, 7, 3, 7])
    np.testing.assert_array_equal(one.terminated, [no, yes, no, yes, no])
    np.testing.assert_array_equal(one.truncated, [no, no, yes, no, no])
    np.testing.assert_array_equal(one.valid, [yes, yes, yes, yes, no])
    assert one.action.shape == (5, 6)


# -- one epoch on toy worlds ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys() -> OnPolicyChunks:
    """Whose rollouts are longer than an episode of toy worlds."""
    method = method_of()
    method.check(num_envs=WORLDS)
    return method.build(Observer(ToyEnv()), num_envs=WORLDS)


@pytest.fixture(scope="module")
def first(toys: OnPolicyChunks) -> TrainState:
    """A state whose values are not all zero."""
    state = toys.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.05, state.agent.policy.params)
    policy = state.agent.policy.replace(params=params)
    return state.replace(agent=state.agent.replace(policy=policy))


@pytest.fixture(scope="module")
def rolled(toys: OnPolicyChunks, first: TrainState) -> tuple[TrainState, Played]:
    """A rollout, and the state after it."""
    return jax.jit(lambda s: jax.lax.scan(toys.play, s, None, length=CHUNKS))(first)


def test_returns_bootstrap_at_time_outs_and_not_at_ends(
    toys: OnPolicyChunks, first: TrainState, rolled: tuple[TrainState, Played]
) -> None:
    after, played = rolled
    step = played.step
    cut, over = np.asarray(step.truncated), np.asarray(step.terminated)
    assert cut.any() and over.any() and step.valid.all()
    # Every step pays one: a chunk that ends early pays less. It begins with a multiple of three.
    begun = np.asarray(step.obs["age"])[..., 0]
    assert set(begun.ravel()) <= {0.0, 3.0, 6.0}
    np.testing.assert_array_equal(np.asarray(step.reward)[cut], np.minimum(3, STEPS - begun[cut]))
    going = ~(cut | over)
    np.testing.assert_array_equal(np.asarray(step.reward)[going], 3.0)
    # What the last observation was: pushed as often as was played, at the time limit.
    actions = np.asarray(step.action).reshape(CHUNKS, WORLDS, HORIZON, 2)
    count = np.asarray(step.reward)[..., None, None]
    pushed = np.where(np.arange(HORIZON)[:, None] < count, actions, 0.0).sum(axis=2)
    last = {
        "x": jnp.asarray(step.obs["x"] + 0.1 * pushed),
        "age": jnp.full((CHUNKS, WORLDS, 1), float(STEPS)),
    }
    seen = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), normalize(first.normalizer, last))
    want = np.asarray(toys.agent.value(first.agent, seen)).reshape(cut.shape)
    assert np.abs(want[cut]).min() > 0
    np.testing.assert_allclose(played.cut_value[cut], want[cut], rtol=1e-4)
    # With lambda 0 a return is r + gamma V of what follows.
    batch, _ = toys.batch_of(after, played, toys.vec_env.observe(after.worlds))
    returns = np.asarray(batch.returns).reshape(cut.shape)
    reward = np.asarray(step.reward)
    np.testing.assert_allclose(returns[cut], (reward + GAMMA * want)[cut], rtol=1e-4)
    np.testing.assert_allclose(returns[over], reward[over], rtol=1e-4)
    following = np.asarray(step.extras["value"])[1:]
    np.testing.assert_allclose(
        returns[:-1][going[:-1]], (reward[:-1] + GAMMA * following)[going[:-1]], rtol=1e-4
    )
    np.testing.assert_allclose([batch.advantage.mean(), batch.advantage.std()], [0, 1], atol=1e-4)


def test_episodes_that_were_solved_are_counted_once(
    toys: OnPolicyChunks, first: TrainState, rolled: tuple[TrainState, Played]
) -> None:
    after, played = rolled
    stats = after.worlds.stats
    ended = int((played.step.terminated | played.step.truncated).sum())
    assert int(stats.episodes) == ended
    # Toy worlds report success at their end, half of them too late: those do not count.
    assert int(after.data.episodes) == int(stats.successes) > 0
    assert int(stats.successes) < int(played.step.terminated.sum())


def test_the_metrics_of_an_epoch(toys: OnPolicyChunks, first: TrainState) -> None:
    state, metrics = jax.jit(toys.epoch)(first)
    told = _derived({name: float(x) for name, x in metrics.items()})
    actor = ("loss", "value_loss", "grad_norm", "approx_kl", "pg_clipfrac", "value_clip_ratio")
    contract = {f"actor/{name}" for name in actor} | {
        "rollout/returns_mean", "rollout/advantages_mean", "env/episode_len", "env/success_once",
    }  # fmt: skip
    assert contract <= set(told) and all(np.isfinite([*told.values()]))
    assert told["actor/updates"] == toys.updates_per_epoch == 4 == int(state.agent.step)
    assert toys.env_steps_per_epoch == CHUNKS * HORIZON * WORLDS


# -- imitation -----------------------------------------------------------------------------------


def test_lessons_teach_what_the_expert_does(make_toy: Callable) -> None:
    demos: RecordedDemos = make_toy().trainer.demos
    method = method_of(pretrain_updates=600)
    trainer = dataclasses.replace(method.build(Observer(ToyEnv()), num_envs=WORLDS), demos=demos)
    told: list[tuple] = []
    key = jax.random.key(0)
    state = trainer.teach(trainer.init(key), key, lambda *said: told.append(said))
    assert [said[:2] for said in told] == [(500, 600), (600, 600)]
    assert told[1][2]["learner/bc_loss"] < 0.5
    # The toy expert does always the same: an entry without spread stays at its mean.
    rows = demos.rows(key)
    obs = {name: x.reshape(-1, x.shape[-1]) for name, x in rows.obs.items()}
    params = trainer.policy_params(state)
    chosen = trainer.choose(params, obs, key, deterministic=False).action
    np.testing.assert_allclose(chosen, np.tile([0.5, 1.0], (len(obs["x"]), HORIZON, 1)), atol=1e-4)
    # It goes on as if it had never imitated.
    assert state.agent.student is None and int(state.agent.step) == 0
    jax.tree.map(lambda x, y: None, state, trainer.init(key))  # of the same structure


def test_ppo_may_begin_with_a_run_that_only_imitated(toys: OnPolicyChunks) -> None:
    """`--init` finds in it what it asks for, by name and shape."""
    method = OfflineConfig(agent=AGENT, demos=DemoConfig(count=5))
    alone = method.build(Observer(ToyEnv()), num_envs=1)

    def offered(trainer: Any) -> dict[str, tuple]:
        params = jax.eval_shape(trainer.learned_params, trainer.state_shapes())
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {jax.tree_util.keystr(path): x.shape for path, x in leaves}

    assert offered(toys) == offered(alone)
    assert any("scale" in name for name in offered(toys))


def test_a_run_hears_how_imitation_goes() -> None:
    rows: list[dict] = []
    stages: list[str] = []

    def teach(state: int, key: Any, tell: Callable) -> int:
        tell(500, 600, {"learner/bc_loss": 0.25})
        return state + 1

    run: Any = SimpleNamespace(
        trainer=SimpleNamespace(teach=teach),
        folder=SimpleNamespace(append_metrics=rows.append),
        hooks=SimpleNamespace(on_stage=stages.append),
        cfg=SimpleNamespace(seed=0),
        peers=SimpleNamespace(writes=True),
        activity=SimpleNamespace(doing=lambda what: contextlib.nullcontext()),
    )
    assert Run.taught(run, 1, lambda: 2.5) == 2
    assert stages == ["imitation: 500 of 600 updates  bc_loss 0.25"]
    assert rows == [
        {"kind": "imitation", "epoch": 0, "updates": 500, "elapsed_s": 2.5, "learner/bc_loss": 0.25}
    ]
    run.trainer = SimpleNamespace()
    assert Run.taught(run, 1, lambda: 2.5) == 1


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        ({"pretrain_updates": 10}, "pretrain_updates 10 without demonstrations, allowed: --demos"),
        ({"minibatches": 5}, "minibatches 5 of agent.accumulate 1 parts, allowed: what divides 32"),
        ({"rollout_chunks": 0}, "rollout_chunks 0, allowed: at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(loop: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        method_of(**loop).check(num_envs=WORLDS)
