"""SAC: probes with known Q, the shape of one update, and what must not be learned from."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.sac import SACConfig, SACState, take_minibatch
from mjx_serl.types import Batch
from scenes.contract.specs import ObsField, ObsSpec

SMALL = SACConfig(hidden=(32, 32), gamma=probes.GAMMA, tau=0.1, lr=3e-3)
SHAPES = {
    "b": jax.ShapeDtypeStruct((2,), jnp.float32),
    "a": jax.ShapeDtypeStruct((3,), jnp.float32),
}
SPEC = obs_spec_of(SHAPES)
UPDATES, BATCH = 800, 64


@partial(jax.jit, static_argnums=0)
def batch_of(rows: int, seed: int = 0) -> Batch:
    key = iter(jax.random.split(jax.random.key(seed), 8))
    obs = {name: jax.random.normal(next(key), (rows, *s.shape)) for name, s in SHAPES.items()}
    after = {name: jax.random.normal(next(key), (rows, *s.shape)) for name, s in SHAPES.items()}
    return Batch(
        obs=obs,
        action=jnp.tanh(jax.random.normal(next(key), (rows, 2))),
        reward=jax.random.normal(next(key), (rows,)),
        terminated=jnp.arange(rows) % 5 == 0,
        expert=jnp.arange(rows) % 2 == 0,
        next_obs=after,
    )


def fresh(config: SACConfig) -> tuple:
    agent = config.build()
    return agent, jax.jit(lambda key: agent.init(key, SPEC, action_spec_of(2)))(jax.random.key(0))


# -- what it learns ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learn():
    return probes.make_learn(SMALL.build(), updates=UPDATES, batch_size=BATCH)


def q_at(state: SACState, obs: float, action: float) -> np.ndarray:
    q = SMALL.build().q_values(state, {"state": jnp.array([[obs]])}, jnp.array([[action]]))
    return np.asarray(q[:, 0])


@pytest.mark.parametrize("name", probes.PROBES)
def test_probe(name: str, learn) -> None:
    probe = probes.PROBES[name]()
    state, metrics = learn(probe.steps, jax.random.key(0))
    for obs, action, q in probe.expected_q:
        np.testing.assert_allclose(q_at(state, obs, action), q, atol=0.05, rtol=0.05)
    for obs, action in probe.expected_action:
        got = SMALL.build().act(
            state, {"state": jnp.array([[obs]])}, jax.random.key(0), deterministic=True
        )
        np.testing.assert_allclose(got.action, action, atol=0.1)
    assert float(metrics["learner/skipped_updates"]) == 0


def test_time_limit_probe_catches_truncation_taken_for_termination(learn) -> None:
    wrong = probes.time_limit(truncation_is_termination=True)
    state, _ = learn(wrong.steps, jax.random.key(0))
    # Q = 1 + gamma (1 - 1/4) Q where one step in four ends the return
    np.testing.assert_allclose(q_at(state, 0.0, 0.0), 1 / (1 - 0.75 * probes.GAMMA), rtol=0.15)
    assert q_at(state, 0.0, 0.0).max() < 0.6 / (1 - probes.GAMMA)


@pytest.mark.parametrize(
    "change",
    [
        {"utd_ratio": 4, "critic_ensemble_size": 5, "critic_subsample_size": 2},
        {"activation": "relu", "layer_norm": False, "actor_q": "min", "adam_ticks": "shared"},
        {"compute_dtype": "bfloat16"},
    ],
)
def test_variants_solve_the_hardest_probe(change: dict) -> None:
    agent = dataclasses.replace(SMALL, **change).build()
    learn = probes.make_learn(agent, updates=UPDATES // agent.utd_ratio, batch_size=BATCH)
    state, _ = learn(probes.obs_action_reward().steps, jax.random.key(1))
    obs = {"state": jnp.array([[1.0], [-1.0]])}
    q = agent.q_values(state, obs, jnp.array([[-0.5], [-0.5]]))
    np.testing.assert_allclose(q, np.broadcast_to([0.0, 1.0], q.shape), atol=0.1)


# -- one update ----------------------------------------------------------------------------------


def test_minibatches_share_a_mixture_evenly() -> None:
    batch = batch_of(12).replace(reward=jnp.repeat(jnp.array([0.0, 1.0]), 6))
    parts = [take_minibatch(batch, i, 3) for i in range(3)]
    assert all(part.obs["a"].shape == (4, 3) for part in parts)
    assert [float(part.reward.sum()) for part in parts] == [2, 2, 2]
    actions = np.concatenate([part.action for part in parts])
    assert set(actions.ravel()) == set(np.asarray(batch.action).ravel())
    with pytest.raises(ValueError, match="12 rows, allowed: a multiple of utd_ratio 5"):
        take_minibatch(batch, 0, 5)


def test_update_makes_its_steps_and_can_be_donated() -> None:
    agent, state = fresh(dataclasses.replace(SMALL, utd_ratio=3))
    before = jax.tree.map(np.asarray, (state.actor.params, state.critic.params))
    after, metrics = jax.jit(agent.update, donate_argnums=0)(state, batch_of(24), jax.random.key(1))
    assert int(after.step) == 3 and int(after.skipped) == 0
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), before, (after.actor.params, after.critic.params)
    )
    assert min(jax.tree.leaves(moved)) > 0
    assert set(metrics) == {
        f"learner/{name}"
        for name in (
            "critic_loss", "q", "actor_loss", "entropy", "temperature", "skipped_updates"
        )
    }  # fmt: skip
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())


def test_target_follows_the_critic_at_rate_tau() -> None:
    agent, state = fresh(SMALL)
    after, _ = jax.jit(agent.update)(state, batch_of(8), jax.random.key(1))
    jax.tree.map(
        lambda old, new, got: np.testing.assert_allclose(got, 0.9 * old + 0.1 * new, atol=1e-6),
        state.target_params,
        after.critic.params,
        after.target_params,
    )


@pytest.mark.parametrize(
    "ticks, actor_count, critic_count", [("own", 1, 4), ("shared", 4, 4), ("shared_apart", 5, 5)]
)
def test_adam_clocks(ticks: str, actor_count: int, critic_count: int) -> None:
    agent, state = fresh(dataclasses.replace(SMALL, utd_ratio=4, adam_ticks=ticks))
    after, _ = jax.jit(agent.update)(state, batch_of(16), jax.random.key(1))

    def count(opt_state: object) -> set[int]:
        return {int(x) for x in jax.tree.leaves(opt_state) if x.dtype == jnp.int32}

    assert count(after.actor.opt_state) == {actor_count}
    assert count(after.log_temperature.opt_state) == {actor_count}
    assert count(after.critic.opt_state) == {critic_count}


def test_bad_numbers_are_skipped_and_counted() -> None:
    agent, state = fresh(SMALL)
    update = jax.jit(agent.update)
    batch = batch_of(8)
    bad_reward = batch.replace(reward=batch.reward.at[3].set(jnp.nan))
    after, metrics = update(state, bad_reward, jax.random.key(1))
    assert float(metrics["learner/skipped_updates"]) == 1
    jax.tree.map(np.testing.assert_array_equal, after.critic, state.critic)
    nan_obs = jax.tree.map(lambda x: x.at[0].set(jnp.nan), batch.obs)
    after, metrics = update(after, batch.replace(obs=nan_obs, next_obs=nan_obs), jax.random.key(2))
    assert float(metrics["learner/skipped_updates"]) == 1 + 3  # critic, actor, temperature
    parts = (after.actor, after.critic, after.target_params, after.log_temperature)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(parts))


def test_numbers_of_a_learner_of_vectors_stay() -> None:
    agent, state = fresh(
        dataclasses.replace(
            SMALL,
            utd_ratio=4,
            critic_ensemble_size=5,
            critic_subsample_size=2,
            adam_ticks="shared_apart",
        )
    )
    update = jax.jit(agent.update)
    metrics = {}
    for i in range(3):
        state, metrics = update(state, batch_of(32, i), jax.random.key(i + 1))
    # Recorded before the agent could read images (commit 190ed2a); bit for bit on that machine.
    recorded = {
        "actor_loss": 0.23448877036571503,
        "critic_loss": 0.79769366979599,
        "entropy": 0.05520898848772049,
        "q": -0.2296941727399826,
        "temperature": 0.009853933937847614,
    }
    for name, value in recorded.items():
        np.testing.assert_allclose(metrics[f"learner/{name}"], value, rtol=1e-4, err_msg=name)


def test_temperature_target_defaults_to_half_the_actions() -> None:
    agent, state = fresh(SMALL)
    below, _ = jax.jit(agent.update)(state, batch_of(8), jax.random.key(1))
    explicit = dataclasses.replace(SMALL, target_entropy=-1.0).build()
    same, _ = jax.jit(explicit.update)(state, batch_of(8), jax.random.key(1))
    assert float(below.log_temperature.params) == float(same.log_temperature.params)
    higher = dataclasses.replace(SMALL, target_entropy=100.0).build()
    up, _ = jax.jit(higher.update)(state, batch_of(8), jax.random.key(1))
    assert float(up.log_temperature.params) > float(state.log_temperature.params)


# -- acting and building -------------------------------------------------------------------------


def test_actions_are_bounded_random_and_deterministic_on_request() -> None:
    agent, state = fresh(SMALL)
    obs = batch_of(6).obs
    act = jax.jit(agent.act, static_argnames="deterministic")
    first, second = (act(state, obs, jax.random.key(i)).action for i in (0, 1))
    assert first.shape == (6, 1, 2) and float(jnp.abs(first).max()) <= 1.0
    assert float(jnp.abs(first - second).min()) > 0
    same = [act(state, obs, jax.random.key(i), deterministic=True).action for i in (0, 1)]
    np.testing.assert_array_equal(*same)


def test_what_acts_needs_neither_critics_nor_optimisers() -> None:
    agent, state = fresh(SMALL)
    acting, obs = agent.acting(state), batch_of(6).obs
    key = jax.random.key(1)
    np.testing.assert_array_equal(
        agent.act(acting, obs, key).action, agent.act(state, obs, key).action
    )
    kept = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(acting)}
    assert kept and all(path.startswith(".actor.params") for path in kept)


def test_what_it_cannot_do_is_refused_by_name() -> None:
    agent, key = SMALL.build(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"one continuous action at a time, .* choices \(0, 3\)"):
        agent.init(key, SPEC, action_spec_of(2, choices=(0, 3)))
    with pytest.raises(ValueError, match="horizon 4"):
        agent.init(key, SPEC, action_spec_of(2, horizon=4))
    words = ObsSpec(fields=(ObsField(name="words", shape=(8,), dtype="int32", modality="tokens"),))
    with pytest.raises(ValueError, match=r"vectors and images, got 'words' \(tokens\)"):
        agent.init(key, words, action_spec_of(2))


def test_the_agent_is_static_and_its_members_differ() -> None:
    agent, state = fresh(SMALL)
    assert agent == SMALL.build() and hash(agent) == hash(SMALL.build())
    obs = batch_of(6)
    q = agent.q_values(state, obs.obs, obs.action)
    assert float(jnp.abs(q[0] - q[1]).min()) > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"activation": "gelu"}, "activation 'gelu', allowed: .*tanh"),
        ({"compute_dtype": "float16"}, "compute_dtype 'float16', allowed: .*bfloat16"),
        ({"critic_subsample_size": 3}, r"critic_subsample_size 3, allowed: None or 1\.\.2"),
        ({"gamma": 1.0}, r"gamma 1.0, allowed: \[0, 1\)"),
        ({"utd_ratio": 0}, "utd_ratio 0, allowed: >= 1"),
        ({"adam_ticks": "serl"}, "adam_ticks 'serl', allowed: own"),
    ],
)
def test_bad_config_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change).build()
