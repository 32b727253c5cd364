"""On-policy training: probes whose values are known, time-outs, early stopping, what is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv, ToyState, ToyTask

from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import TrainConfig
from mjx_serl.data.normalize import normalize
from mjx_serl.envs.observation import Observer
from mjx_serl.run.loop import _derived
from mjx_serl.run.memory_check import check_memory
from mjx_serl.training.off_policy import OffPolicyConfig
from mjx_serl.training.offline import OfflineConfig
from mjx_serl.training.on_policy import (
    OnPolicy,
    OnPolicyConfig,
    OnPolicyLoopConfig,
)
from mjx_serl.training.rollouts import Played
from mjx_serl.training.state import TrainState, tree_bytes
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

GAMMA = 0.9
WORLDS = 8
AGENT = PPOConfig(hidden=(16,), gamma=GAMMA, lr=5e-3, clip_value=None, stop_kl=None)
# Steps get smaller: what a policy that has become narrow does at full steps is chance.
PROBED = dataclasses.replace(
    AGENT, entropy_weight=0.01, stop_kl=0.05, lr_schedule="linear", lr_steps=1500, lr_end=0.02
)


def trainer_of(env: Any, agent: PPOConfig = AGENT, **loop: Any) -> OnPolicy:
    sizes = {"rollout_steps": 12, "passes": 3, "minibatches": 4, "stagger": False}
    method = OnPolicyConfig(agent=agent, loop=OnPolicyLoopConfig(**sizes | loop))
    method.check(num_envs=WORLDS)
    return method.build(Observer(env), num_envs=WORLDS)


# -- probes (tests/probes.py says what each isolates) --------------------------------------------

# By number: rows (obs, value), and rows (obs, action) where the action matters.
PROBES: dict[str, tuple[int, tuple, tuple]] = {
    "constant_reward": (0, ((0.0, 1.0),), ()),
    "obs_reward": (1, ((1.0, 1.0), (-1.0, -1.0)), ()),
    "two_step": (2, ((0.0, GAMMA), (1.0, 1.0)), ()),
    "action_reward": (3, (), ((0.0, 0.5),)),
    "obs_action_reward": (4, (), ((1.0, 0.5), (-1.0, -0.5))),
    "time_limit": (5, ((0.0, 1 / (1 - GAMMA)),), ()),
}
LENGTHS = (1, 1, 2, 1, 1, 4)
ONE_NUMBER = ObsSpec(fields=(ObsField(name="state", shape=(1,)),))
ONE_PUSH = ActionSpec(mode="ee_delta", names=("push",), scale=(0.1,), rate=10.0)


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeEnv(ToyEnv):
    """One of six worlds, of a number that may be traced: one program learns all of them."""

    probe: Any = 0
    action_dim: int = 1
    obs_spec: ObsSpec = ONE_NUMBER
    action_spec: ActionSpec = ONE_PUSH
    task: ToyTask = dataclasses.field(default_factory=lambda: ToyTask(episode_steps=4))

    def reset(self, key: jax.Array) -> ToyState:
        """Of a sign that some of them show."""
        sign = jax.random.rademacher(key, (1,), jnp.float32)
        return self._seen(super().reset(key).replace(carry=sign))

    def step(self, state: ToyState, action: jax.Array) -> ToyState:
        """Pay what the probe pays."""
        seen, pushed, t = state.obs["state"][0], action[0], state.t + 1
        one = jnp.float32(1.0)
        paid = jnp.stack(
            [one, seen, seen, 1 - (pushed - 0.5) ** 2, 1 - (pushed - seen / 2) ** 2, one]
        )
        over, cut = t == jnp.array(LENGTHS)[self.probe], self.probe == 5
        state = state.replace(
            reward=paid[self.probe], terminated=over & ~cut, truncated=over & cut, t=t,
            valid=jnp.ones((), bool),
        )  # fmt: skip
        return self._seen(state)

    def _seen(self, state: ToyState) -> ToyState:
        blank, late = jnp.zeros(1), state.t[None].astype(jnp.float32)
        shown = jnp.stack([blank, state.carry, late, blank, state.carry, blank])[self.probe]
        return state.replace(obs={"state": shown})


@pytest.fixture(scope="module")
def learned() -> Callable[[int], TrainState]:
    """What is known of a probe after 150 epochs."""

    @jax.jit
    def learn(probe: jax.Array) -> TrainState:
        trainer = trainer_of(ProbeEnv(probe=probe), PROBED, pool=16)
        state = trainer.first_state(jax.random.key(0), None)
        return jax.lax.scan(lambda s, _: (trainer.epoch(s)[0], None), state, None, length=150)[0]

    return lambda number: learn(jnp.int32(number))


@pytest.mark.parametrize("name", PROBES)
def test_probes(name: str, learned: Callable[[int], TrainState]) -> None:
    number, values, actions = PROBES[name]
    state, agent = learned(number), PROBED.build()
    for seen, wanted in values:
        got = agent.value(state.agent, {"state": jnp.full((1, 1), seen)})
        np.testing.assert_allclose(got, [wanted], rtol=0.05, atol=0.05)
    for seen, wanted in actions:
        obs = {"state": jnp.full((1, 1), seen)}
        got = agent.act(state.agent, obs, jax.random.key(0), deterministic=True).action
        np.testing.assert_allclose(got.ravel(), [wanted], atol=0.1)


# -- one epoch on toy worlds ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys() -> OnPolicy:
    """A rollout is longer than an episode of toy worlds."""
    return trainer_of(ToyEnv(), normalize_steps=2 * 12 * WORLDS, pool=8)


@pytest.fixture(scope="module")
def epoch(toys: OnPolicy) -> Callable:
    """Compiled once."""
    return jax.jit(toys.epoch)


@pytest.fixture(scope="module")
def first(toys: OnPolicy, epoch: Callable) -> TrainState:
    """A state that has learned once, so that values are not those of an untrained network."""
    return epoch(toys.init(jax.random.key(0)))[0]


@pytest.fixture(scope="module")
def rolled(toys: OnPolicy, first: TrainState) -> tuple[TrainState, Played]:
    """A rollout, and the state after it."""
    return jax.jit(lambda s: jax.lax.scan(toys.play, s, None, length=12))(first)


def test_a_time_out_is_worth_what_comes_after_its_last_observation(
    toys: OnPolicy, first: TrainState, rolled: tuple[TrainState, Played]
) -> None:
    after, played = rolled
    step = played.step
    assert step.truncated.any() and step.terminated.any()
    # What the last observation was: pushed once more, at the time limit.
    x = step.obs["x"] + 0.1 * step.action
    last = {"x": x, "age": jnp.full((*x.shape[:2], 1), float(STEPS))}
    seen = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), normalize(first.normalizer, last))
    want = toys.agent.value(first.agent, seen).reshape(step.reward.shape)
    cut = np.asarray(step.truncated)
    np.testing.assert_allclose(played.cut_value[cut], want[cut], rtol=1e-5)
    # One step returns r + gamma V(last) where time cut it off, r where it ended by itself.
    alone = dataclasses.replace(toys, agent=dataclasses.replace(AGENT, gae_lambda=0.0).build())
    returns = alone.batch_of(after, played, alone.vec_env.observe(after.worlds))[0].returns.reshape(
        cut.shape
    )
    np.testing.assert_allclose(returns[cut], 1 + GAMMA * want[cut], rtol=1e-5)
    np.testing.assert_allclose(returns[np.asarray(step.terminated)], 1.0, rtol=1e-5)
    on = ~(step.truncated | step.terminated)[:-1]
    following = step.extras["value"][1:]
    np.testing.assert_allclose(returns[:-1][on], 1 + GAMMA * following[on], rtol=1e-5)


def test_advantages_are_normalised_over_the_rollout(
    toys: OnPolicy, rolled: tuple[TrainState, Played]
) -> None:
    batch, metrics = toys.batch_of(*rolled, toys.vec_env.observe(rolled[0].worlds))
    assert batch.advantage.shape == (12 * WORLDS,) and bool(batch.valid.all())
    np.testing.assert_allclose([batch.advantage.mean(), batch.advantage.std()], [0, 1], atol=1e-4)
    assert float(metrics["rollout/rewards_mean"]) == 1.0


def test_the_metrics_of_an_epoch(toys: OnPolicy, first: TrainState, epoch: Callable) -> None:
    state, metrics = epoch(first)
    told = _derived({name: float(x) for name, x in metrics.items()})
    actor = ("loss", "value_loss", "grad_norm", "approx_kl", "pg_clipfrac", "value_clip_ratio")
    contract = {f"actor/{name}" for name in actor} | {
        "rollout/returns_mean", "rollout/advantages_mean", "env/episode_len", "env/success_once",
    }  # fmt: skip
    assert contract <= set(told) and all(np.isfinite([*told.values()]))
    assert told["env/episode_len"] == told["train/episode_steps"]
    # Half of the worlds that end by themselves report success.
    assert 0 < told["env/success_once"] < 1
    assert told["actor/updates"] == toys.updates_per_epoch == 12
    assert int(state.agent.step) == 2 * 12 and toys.env_steps_per_epoch == 12 * WORLDS


def test_statistics_are_frozen_once_they_are_gathered(first: TrainState, epoch: Callable) -> None:
    states = [first]
    for _ in range(2):
        states.append(epoch(states[-1])[0])
    assert [int(s.normalizer.count) for s in states] == [1 + 96, 1 + 192, 1 + 192]


def test_noise_lasts_as_long_as_it_is_told_and_stays_normal(toys: OnPolicy) -> None:
    lasting = dataclasses.replace(toys.config, noise_correlation=0.5, gripper_correlation=0.9)
    trainer = dataclasses.replace(toys, config=lasting)
    first = jax.random.normal(jax.random.key(0), (40_000, 2))  # "push" and "gripper"
    after = np.asarray(trainer._next_noise(first, jax.random.key(1)))
    np.testing.assert_allclose(after.std(axis=0), 1.0, atol=0.02)
    same = [np.corrcoef(before, then)[0, 1] for before, then in zip(first.T, after.T, strict=True)]
    np.testing.assert_allclose(same, [0.5, 0.9], atol=0.02)
    white = toys._next_noise(first, jax.random.key(1))
    np.testing.assert_array_equal(white, jax.random.normal(jax.random.key(1), first.shape))


def test_no_more_steps_once_the_policy_is_too_far_from_the_one_that_played() -> None:
    far = 1e-3
    quick = dataclasses.replace(AGENT, lr=0.5, stop_kl=far)
    trainer = trainer_of(ToyEnv(), quick)
    state, metrics = jax.jit(trainer.epoch)(trainer.init(jax.random.key(0)))
    # The first minibatch is of the very policy, the second finds it far away.
    assert int(state.agent.step) == float(metrics["actor/updates"]) == 1
    assert float(metrics["actor/approx_kl"]) > far / 2


def test_passes_take_every_step_once_in_orders_of_their_own(toys: OnPolicy) -> None:
    """By an agent that notes which rows it was given."""

    class Noting:
        def improve(self, state: Any, batch: Any) -> tuple:
            given, at = state
            return (given.at[at].set(batch.returns), at + 1), jnp.zeros((), bool), {}

    rows = 12 * WORLDS
    batch, noting = RolloutRows(jnp.arange(float(rows))), Noting()
    trainer: Any = dataclasses.replace(toys, agent=noting)
    start = (jnp.zeros((12, rows // 4)), jnp.int32(0))
    (given, _), _ = trainer._passes(start, batch, jax.random.key(0))
    passes = np.asarray(given).reshape(3, rows)
    for one in passes:
        np.testing.assert_array_equal(np.sort(one), np.arange(rows))
    assert (passes[0] != passes[1]).any() and (passes[1] != passes[2]).any()


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class RolloutRows:
    """The least of a batch that can be told apart."""

    returns: jax.Array


# -- what is refused -----------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="minibatches 8, allowed: what divides 12, the steps of"):
        OnPolicyConfig(loop=OnPolicyLoopConfig(rollout_steps=6)).check(num_envs=2)
    with pytest.raises(ValueError, match="on_policy with agent SAC, .* allowed: --agent ppo"):
        OnPolicyConfig(agent=SACConfig()).check(num_envs=8)
    for method in (OffPolicyConfig, OfflineConfig):
        with pytest.raises(ValueError, match="agent PPO, .* allowed: --method on_policy"):
            method(agent=PPOConfig()).check(num_envs=8)


@pytest.mark.parametrize(
    ("beside", "line"),
    [
        ({"pilot": {"serve": True}}, "--pilot with --method on_policy, .* allowed: off_policy"),
        ({"actors": {"address": "x"}}, "--listen with --method on_policy, allowed: off_policy"),
    ],
)
def test_nobody_else_may_act(beside: dict, line: str) -> None:
    cfg = TrainConfig(method=OnPolicyConfig())
    ((name, changes),) = beside.items()
    cfg = dataclasses.replace(cfg, **{name: dataclasses.replace(getattr(cfg, name), **changes)})
    with pytest.raises(ValueError, match=line):
        cfg.build(Observer(ToyEnv()))


def test_a_rollout_that_does_not_fit_is_refused_before_it_is_played(toys: OnPolicy) -> None:
    shapes = toys.state_shapes()
    worlds, rollout = toys.memory(shapes)
    assert not rollout.stored and rollout.nbytes > 12 * WORLDS * 4
    needed = check_memory(shapes, [worlds, rollout], available=1 << 40)
    assert needed == tree_bytes(shapes) + rollout.nbytes
    with pytest.raises(MemoryError, match=r"rollout 0\.00 GB.*--loop.rollout-steps \d"):
        check_memory(shapes, [worlds, rollout], available=2 * needed - rollout.nbytes)
