"""PPO: its mathematics by hand, one gradient step, and what must not be learned from."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compiled
from specs_of import action_spec_of

from mjx_serl.agents import objectives
from mjx_serl.agents.ppo import PPO, PPOConfig, PPOState
from mjx_serl.types import RolloutBatch, Transition
from scenes.contract.specs import ObsField, ObsSpec

SMALL = PPOConfig(hidden=(8,), lr=1e-2, init_std=0.5)
SPEC = ObsSpec(
    fields=(ObsField(name="hidden", shape=(2,), critic_only=True), ObsField(name="x", shape=(3,)))
)
ROWS = 16


def fresh(config: PPOConfig = SMALL, seed: int = 0) -> tuple[PPO, PPOState]:
    agent = config.build()
    return agent, compiled(agent, "init")(jax.random.key(seed), SPEC, action_spec_of(2))


@functools.cache
def sampled(**changes: Any) -> RolloutBatch:
    """What the first policy does in states drawn at random, half of it better than the rest."""
    agent, state = fresh()
    rng = np.random.default_rng(0)
    obs = {f.name: rng.normal(size=(ROWS, *f.shape)).astype(np.float32) for f in SPEC.fields}
    chosen = compiled(agent, "sample")(state, obs, rng.normal(size=(ROWS, 2)).astype(np.float32))
    advantage = rng.normal(size=ROWS).astype(np.float32)
    return RolloutBatch(
        obs=obs,
        extras=chosen.extras,
        advantage=advantage,
        returns=chosen.extras["value"] + advantage,
        valid=np.ones(ROWS, bool),
    )


# -- by hand -------------------------------------------------------------------------------------


def rows_of(reward: list, *, terminated: int = -1, truncated: int = -1, invalid: int = -1) -> Any:
    """Rows [T, 1] of one world, of which some ended."""
    at = np.arange(len(reward))[:, None]
    empty = np.zeros((len(reward), 1), bool)
    return Transition(
        obs={},
        action=np.zeros((len(reward), 1, 1), np.float32),
        reward=np.float32(reward)[:, None],
        terminated=at == terminated,
        truncated=at == truncated,
        valid=at != invalid,
        expert=empty,
    )


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [
        # delta = r + V' / 2 - V = 1 + 2 - 2, 2 + 3 - 4, 3 + 4 - 6; A = delta + A' / 4
        ({}, [1 + (1 + 1 / 4) / 4, 1 + 1 / 4, 1]),
        # The second step terminates: delta = 2 - 4, and nothing comes back from the third.
        ({"terminated": 1}, [1 - 2 / 4, -2, 1]),
        # A time-out keeps its value, 3 of V' / 2, and nothing comes back from the third.
        ({"truncated": 1}, [1 + 1 / 4, 1, 1]),
        # A bad step counts as nothing; what led to it looks no further than its value.
        ({"invalid": 1}, [1, 0, 1]),
    ],
)
def test_gae_by_hand(ends: dict, wanted: list) -> None:
    value, after = np.float32([[2], [4], [6]]), np.float32([[4], [6], [8]])
    got = objectives.gae(rows_of([1, 2, 3], **ends), value, after, gamma=0.5, gae_lambda=0.5)
    np.testing.assert_allclose(got[:, 0], wanted)


def test_the_clipped_objectives_by_hand() -> None:
    valid = np.array([True] * 4 + [False])
    # min(rho A, clip(rho, .8, 1.2) A): 1.2, .5, -.8, -1.5; the fifth does not count.
    ratio, advantage = np.float32([1.5, 0.5, 0.5, 1.5, 9.0]), np.float32([1, 1, -1, -1, 9])
    loss = objectives.clipped_policy_loss(ratio, advantage, valid, 0.2)
    assert float(loss) == pytest.approx(-(1.2 + 0.5 - 0.8 - 1.5) / 4)
    # Of V_old 0 and R 1, then 0: (1 - 1)^2 but (.2 - 1)^2; (.1 - 1)^2; 1 but .04; .01.
    value, returns = np.float32([1.0, 0.1, 1.0, 0.1, 9.0]), np.float32([1, 1, 0, 0, 9])
    squares = [0.64, 0.81, 1.0, 0.01]
    loss = objectives.clipped_value_loss(value, np.zeros(5, np.float32), returns, valid, 0.2)
    assert float(loss) == pytest.approx(sum(squares) / 8)
    loss = objectives.clipped_value_loss(value, np.zeros(5, np.float32), returns, valid, None)
    assert float(loss) == pytest.approx((0.0 + 0.81 + 1.0 + 0.01) / 8)
    # rho - 1 - log rho of 2 and 1/2
    kl = objectives.approximate_kl(jnp.log(jnp.array([2.0, 0.5])), np.ones(2, bool))
    assert float(kl) == pytest.approx((1 - np.log(2) + np.log(2) - 0.5) / 2)
    scaled = objectives.standardised(np.float32([1, 3, 99]), np.array([True, True, False]))
    np.testing.assert_allclose(scaled[:2], [-1, 1], rtol=1e-6)


# -- one gradient step ---------------------------------------------------------------------------


def test_the_first_step_finds_the_policy_that_sampled() -> None:
    agent, state = fresh()
    after, stop, metrics = compiled(agent, "improve")(state, sampled())
    got = {name: float(x) for name, x in metrics.items()}
    assert got["actor/approx_kl"] == pytest.approx(0.0, abs=1e-10) and not stop
    assert got["actor/pg_clipfrac"] == got["actor/value_clip_ratio"] == 0.0
    # A ratio of one leaves the mean advantage, and a value that is the old one its square.
    batch = sampled()
    assert got["actor/loss"] == pytest.approx(-batch.advantage.mean(), abs=1e-5)
    assert got["actor/value_loss"] == pytest.approx(np.square(batch.advantage).mean() / 2, rel=1e-4)
    # 2 dimensions of tanh(Normal(0, 0.5)): log(0.5 sqrt(2 pi e)) + E log(1 - tanh^2) each
    noise = np.random.default_rng(0).normal(size=400_000)
    squashed = np.mean(np.log(1 - np.tanh(0.5 * noise) ** 2))
    entropy = 2 * (np.log(0.5) + 1.4189385 + squashed)
    assert got["actor/entropy"] == pytest.approx(entropy, abs=0.01)
    assert got["actor/grad_norm"] > 0 and int(after.step) == 1


def test_steps_make_good_samples_likelier_until_they_are_too_far_away() -> None:
    agent, state = fresh()
    improve, batch = compiled(agent, "improve"), sampled()
    kls, stops, losses = [], [], []
    for _ in range(60):
        state, stop, metrics = improve(state, batch)
        kls.append(float(metrics["actor/approx_kl"]))
        stops.append(bool(stop))
        losses.append(float(metrics["actor/loss"]))
    assert losses[-1] < -batch.advantage.mean() - 0.05
    made = stops.index(True)
    assert 1 < made == int(state.step) and kls[made - 1] <= SMALL.stop_kl < kls[made]
    assert stops[made:] == [True] * (60 - made) and kls[made:] == [kls[made]] * (60 - made)


def test_steps_that_are_not_valid_change_nothing() -> None:
    agent, state = fresh()
    improve, batch = compiled(agent, "improve"), sampled()
    some = batch.replace(valid=np.arange(ROWS) < ROWS // 2)
    other = some.replace(
        advantage=np.where(some.valid, batch.advantage, 50.0).astype(np.float32),
        returns=jnp.where(some.valid, batch.returns, -50.0),
    )
    one, two = (improve(state, b)[0] for b in (some, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_what_is_not_finite_is_skipped_and_counted() -> None:
    agent, state = fresh()
    bad = sampled().replace(advantage=np.full(ROWS, np.nan, np.float32))
    after, stop, metrics = compiled(agent, "improve")(state, bad)
    jax.tree.map(np.testing.assert_array_equal, after.policy, state.policy)
    assert float(metrics["learner/skipped_updates"]) == 1.0 and not stop


def test_the_policy_neither_needs_nor_reads_what_the_value_network_sees() -> None:
    agent, state = fresh()
    improve, act, value = (compiled(agent, name) for name in ("improve", "act", "value"))
    state = improve(state, sampled())[0]
    obs, key = sampled().obs, jax.random.key(2)
    other = obs | {"hidden": obs["hidden"] + 1.0}
    for deterministic in (True, False):
        got = [
            act(s, o, key, deterministic=deterministic).action
            for s, o in ((state, obs), (state, other), (agent.acting(state), {"x": obs["x"]}))
        ]
        np.testing.assert_array_equal(got[0], got[1])
        np.testing.assert_array_equal(got[0], got[2])
        assert np.abs(got[0]).max() <= 1.0
    assert (np.asarray(value(state, obs)) != np.asarray(value(state, other))).all()
    paths = jax.tree_util.tree_leaves_with_path(agent.acting(state))
    named = [jax.tree_util.keystr(path) for path, _ in paths]
    assert named and not any("critic" in name or "opt_state" in name for name in named)


def test_grippers_explore_as_widely_as_they_are_told() -> None:
    agent = dataclasses.replace(SMALL, gripper_std=2.0).build()
    action = action_spec_of(3, names=("x", "left/gripper", "z"))
    state = compiled(agent, "init")(jax.random.key(0), SPEC, action)
    batch, noise = sampled(), np.ones((ROWS, 3), np.float32)
    drawn = compiled(agent, "sample")(state, batch.obs, noise).extras["drawn"]
    np.testing.assert_allclose(drawn, [[0.5, 2.0, 0.5]] * ROWS, rtol=1e-5)


def test_each_entry_of_an_action_has_its_entropy_paid() -> None:
    """By the gradient of a policy that nothing else pushes."""
    action = action_spec_of(3, names=("x", "gripper", "z"))
    batch = sampled()
    extras = {"drawn": np.zeros((ROWS, 3), np.float32), "log_prob": batch.extras["log_prob"]}
    extras |= {"value": batch.extras["value"]}
    batch = batch.replace(extras=extras, advantage=np.zeros(ROWS, np.float32))

    def push(**weights: float) -> np.ndarray:
        agent = dataclasses.replace(SMALL, gripper_std=0.5, value_weight=0.0, **weights).build()
        state = compiled(agent, "init")(jax.random.key(0), SPEC, action)
        params = state.policy.params
        grads = jax.jit(jax.grad(lambda p: agent._loss(state, batch, p)[0]))(params)
        return -np.asarray(grads.actor["params"]["head_bias"])[3:]  # of log std

    once, both = push(entropy_weight=0.1), push(entropy_weight=0.1, gripper_entropy_weight=0.3)
    assert once.min() > 0
    np.testing.assert_allclose(both / once, [1.0, both[1] / once[1], 1.0], rtol=1e-5)
    assert both[1] == pytest.approx(3 * once[1], rel=1e-5)


def test_both_losses_train_the_encoder_of_pictures() -> None:
    spec = ObsSpec(fields=(ObsField(name="front", shape=(28, 28, 3), dtype="uint8"), *SPEC.fields))
    agent = dataclasses.replace(SMALL, clip_norm=None).build()
    state = compiled(agent, "init")(jax.random.key(0), spec, action_spec_of(2))
    pictures = np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28, 3), np.uint8)
    batch = sampled()
    batch = batch.replace(obs=batch.obs | {"front": pictures})
    after = compiled(agent, "improve")(state, batch)[0]
    old, new = (jax.tree.leaves(s.policy.params.encoder) for s in (state, after))
    assert old and all((a != b).any() for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize(
    ("schedule", "kl", "wanted"),
    [
        ("constant", 0.0, 1.0),
        ("linear", 0.0, 0.6),  # half-way from 1 to 0.2
        ("cosine", 0.0, 0.6),
        ("adaptive", 0.0, 1.5),
        ("adaptive", 0.01, 1.0),
        ("adaptive", 0.05, 1 / 1.5),
    ],
)
def test_schedules_of_the_step_size(schedule: Any, kl: float, wanted: float) -> None:
    agent = dataclasses.replace(SMALL, lr_schedule=schedule, lr_steps=10, lr_end=0.2).build()
    got = agent._next_lr(jnp.float32(SMALL.lr), jnp.int32(5), jnp.float32(kl))
    assert float(got) == pytest.approx(wanted * SMALL.lr)


def test_a_step_size_falls_also_where_no_step_is_taken() -> None:
    agent = dataclasses.replace(SMALL, lr_schedule="adaptive", stop_kl=1e-3).build()
    state, batch = compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(2)), sampled()
    moved = batch.replace(extras=batch.extras | {"log_prob": batch.extras["log_prob"] + 1.0})
    after, stop, _ = compiled(agent, "improve")(state, moved)
    assert stop and int(after.step) == 0
    assert float(after.lr) == pytest.approx(SMALL.lr / 1.5)
    jax.tree.map(np.testing.assert_array_equal, after.policy, state.policy)


def test_bad_config_is_named() -> None:
    wrong: Any = "exponential"
    with pytest.raises(ValueError, match="lr_schedule 'exponential', allowed: constant, linear"):
        dataclasses.replace(SMALL, lr_schedule=wrong).build()
    with pytest.raises(ValueError, match="clip_ratio 0, allowed: above 0, below 1"):
        dataclasses.replace(SMALL, clip_ratio=0).build()
    with pytest.raises(ValueError, match="PPO gives one continuous action at a time"):
        fresh()[0].init(jax.random.key(0), SPEC, action_spec_of(1, horizon=2))


def test_what_acts_without_noise_is_the_running_average_where_it_is_asked_for() -> None:
    agent, state = fresh(dataclasses.replace(SMALL, actor_average=0.9))
    assert fresh()[1].average is None
    batch = sampled()
    after = compiled(agent, "improve")(state, batch)[0]
    wanted = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new,
        state.average,
        after.policy.params.replace(critic=None),
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), after.average, wanted)
    act = functools.partial(agent.act, obs=batch.obs, key=jax.random.key(0), deterministic=True)
    newest = act(after.replace(average=None)).action
    assert np.abs(act(after).action - newest).max() > 1e-3
    np.testing.assert_array_equal(act(agent.acting(after)).action, act(after).action)
    # Another run's parameters bring no average: it begins with them.
    assert agent.learned(after).average is None
    begun = agent.begun(after)
    np.testing.assert_array_equal(act(begun).action, newest)
