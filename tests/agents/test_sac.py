"""SAC: probes with known Q, the shape of one update, and what must not be learned from."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import compiled
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.minibatches import take_minibatch
from mjx_serl.agents.sac import SAC, SACConfig, SACState
from mjx_serl.types import Batch
from scenes.contract.specs import ObsField, ObsSpec

SMALL = SACConfig(hidden=(32, 32), gamma=probes.GAMMA, tau=0.1, lr=3e-3)
SHAPES = {
    "b": jax.ShapeDtypeStruct((2,), jnp.float32),
    "a": jax.ShapeDtypeStruct((3,), jnp.float32),
}
SPEC = obs_spec_of(SHAPES)
UPDATES, BATCH = 500, 32


@functools.partial(jax.jit, static_argnums=0)
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
    return agent, compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(2))


# -- what it learns ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learn() -> Callable:
    return probes.make_learn(SMALL.build(), updates=UPDATES, batch_size=BATCH)


def q_at(state: SACState, obs: float, action: float) -> np.ndarray:
    q_values = compiled(SMALL.build(), "q_values")
    q = q_values(state, {"state": np.float32([[obs]])}, np.float32([[action]]))
    return np.asarray(q[:, 0])


@pytest.mark.parametrize("name", probes.PROBES)
def test_probe(name: str, learn: Callable) -> None:
    probe = probes.PROBES[name]()
    state, metrics = learn(probe.steps, jax.random.key(0))
    for obs, action, q in probe.expected_q:
        np.testing.assert_allclose(q_at(state, obs, action), q, atol=0.05, rtol=0.05)
    for obs, action in probe.expected_action:
        act = compiled(SMALL.build(), "act")
        got = act(state, {"state": np.float32([[obs]])}, jax.random.key(0), deterministic=True)
        np.testing.assert_allclose(got.action, action, atol=0.1)
    assert float(metrics["learner/skipped_updates"]) == 0


def test_defect_23_truncation_taken_for_termination_is_caught(learn: Callable) -> None:
    wrong = probes.time_limit(truncation_is_termination=True)
    state, _ = learn(wrong.steps, jax.random.key(0))
    # Q = 1 + gamma (1 - 1/4) Q where one step in four ends the return
    np.testing.assert_allclose(q_at(state, 0.0, 0.0), 1 / (1 - 0.75 * probes.GAMMA), rtol=0.15)
    assert q_at(state, 0.0, 0.0).max() < 0.6 / (1 - probes.GAMMA)


VARIANTS = {
    "redq": {
        "utd_ratio": 4,
        "critic_ensemble_size": 5,
        "critic_subsample_size": 2,
        "adam_ticks": "shared",
    },
    "relu": {
        "activation": "relu",
        "layer_norm": False,
        "actor_q": "min",
        "compute_dtype": "bfloat16",
    },
}


@functools.cache
def learned(variant: str) -> tuple[SAC, SACState]:
    """A variant, and what it has learned of the hardest probe."""
    agent = dataclasses.replace(SMALL, **VARIANTS[variant]).build()
    learn = probes.make_learn(agent, updates=UPDATES // agent.utd_ratio, batch_size=BATCH)
    return agent, learn(probes.obs_action_reward().steps, jax.random.key(1))[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_solve_the_hardest_probe(variant: str) -> None:
    agent, state = learned(variant)
    obs = {"state": np.float32([[1.0], [-1.0]])}
    q = compiled(agent, "q_values")(state, obs, np.float32([[-0.5], [-0.5]]))
    np.testing.assert_allclose(q, np.broadcast_to([0.0, 1.0], q.shape), atol=0.1)


# -- one update ----------------------------------------------------------------------------------


def test_minibatches_share_a_mixture_evenly() -> None:
    batch = jax.device_get(batch_of(12)).replace(reward=np.repeat([0.0, 1.0], 6))
    parts = [take_minibatch(batch, i, 3) for i in range(3)]
    assert all(part.obs["a"].shape == (4, 3) for part in parts)
    assert [float(part.reward.sum()) for part in parts] == [2, 2, 2]
    actions = np.concatenate([part.action for part in parts])
    assert set(actions.ravel()) == set(np.asarray(batch.action).ravel())
    with pytest.raises(ValueError, match="12 rows, allowed: a multiple of utd_ratio 5"):
        take_minibatch(batch, 0, 5)


UTD = 4


@pytest.fixture(scope="module")
def donated() -> tuple[SACState, SACState, dict]:
    """A state and what `UTD` steps from it give, the input donated."""
    agent, state = fresh(dataclasses.replace(SMALL, utd_ratio=UTD))
    before = jax.tree.map(np.array, state)
    after, metrics = jax.jit(agent.update, donate_argnums=0)(state, batch_of(32), jax.random.key(1))
    return before, after, metrics


# As the numbers were recorded, with which the last of Adam's clocks is told too.
RECORDED = dataclasses.replace(
    SMALL,
    utd_ratio=UTD,
    critic_ensemble_size=5,
    critic_subsample_size=2,
    adam_ticks="shared_apart",
)


def test_defect_9_an_update_makes_its_ratio_of_steps_and_can_be_donated(donated: tuple) -> None:
    before, after, metrics = donated
    assert int(after.step) == UTD and int(after.skipped) == 0
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()),
        (before.actor.params, before.critic.params),
        jax.device_get((after.actor.params, after.critic.params)),
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
    after, _ = compiled(agent, "update")(state, batch_of(8), jax.random.key(1))
    jax.tree.map(
        lambda old, new, got: np.testing.assert_allclose(got, 0.9 * old + 0.1 * new, atol=1e-6),
        *jax.device_get((state.target_params, after.critic.params, after.target_params)),
    )


@pytest.mark.parametrize(
    "ticks, actor_count, critic_count",
    [("own", 1, UTD), ("shared", UPDATES, UPDATES), ("shared_apart", UTD + 1, UTD + 1)],
)
def test_defect_16_adam_clocks(
    donated: tuple, ticks: str, actor_count: int, critic_count: int
) -> None:
    """After one update, but "shared" after all those of a probe."""
    if ticks == "own":
        _, after, _ = donated
    elif ticks == "shared":
        agent, after = learned("redq")
        assert agent.utd_ratio == UTD and agent.cfg.adam_ticks == ticks
        assert int(after.step) == UPDATES
    else:
        agent, state = fresh(RECORDED)
        after, _ = compiled(agent, "update")(state, batch_of(32), jax.random.key(1))

    def count(opt_state: object) -> set[int]:
        return {int(x) for x in jax.tree.leaves(opt_state) if x.dtype == np.int32}

    assert count(after.actor.opt_state) == {actor_count}
    assert count(after.log_temperature.opt_state) == {actor_count}
    assert count(after.critic.opt_state) == {critic_count}


def test_bad_numbers_are_skipped_and_counted() -> None:
    agent, state = fresh(SMALL)
    update = compiled(agent, "update")
    batch = batch_of(8)
    bad_reward = batch.replace(reward=with_nan(batch.reward, 3))
    after, metrics = update(state, bad_reward, jax.random.key(1))
    assert float(metrics["learner/skipped_updates"]) == 1
    jax.tree.map(np.testing.assert_array_equal, after.critic, state.critic)
    nan_obs = jax.tree.map(lambda x: with_nan(x, 0), batch.obs)
    after, metrics = update(after, batch.replace(obs=nan_obs, next_obs=nan_obs), jax.random.key(2))
    assert float(metrics["learner/skipped_updates"]) == 1 + 3  # critic, actor, temperature
    parts = (after.actor, after.critic, after.target_params, after.log_temperature)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parts))


def with_nan(x: jax.Array, row: int) -> np.ndarray:
    out = np.array(x)
    out[row] = np.nan
    return out


def test_numbers_of_a_learner_of_vectors_stay() -> None:
    agent, state = fresh(RECORDED)
    update = compiled(agent, "update")
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
    below, _ = compiled(agent, "update")(state, batch_of(8), jax.random.key(1))
    explicit, higher = (
        dataclasses.replace(SMALL, target_entropy=entropy).build() for entropy in (-1.0, 100.0)
    )

    # In one program, from which XLA drops all that the temperature does not need.
    @jax.jit
    def temperatures(state: SACState, batch: Batch, key: jax.Array) -> list[jax.Array]:
        after = (agent.update(state, batch, key)[0] for agent in (explicit, higher))
        return [x.log_temperature.params for x in after]

    same, up = temperatures(state, batch_of(8), jax.random.key(1))
    assert float(below.log_temperature.params) == float(same)
    assert float(up) > float(state.log_temperature.params)


# -- action chunks -------------------------------------------------------------------------------


def test_a_chunk_is_learned_as_one_larger_action() -> None:
    """QC-RLPD: two steps of two entries are RLPD over four entries, whose step counts gamma^2."""
    wide = batch_of(8).replace(action=jnp.tanh(jax.random.normal(jax.random.key(9), (8, 4))))
    chunked = dataclasses.replace(SMALL, horizon=2, bc_weight=0.5, backup_entropy=True)
    plain = dataclasses.replace(chunked, horizon=1, gamma=SMALL.gamma**2)
    agents = (chunked.build(), plain.build())
    assert [a.n_step for a in agents] == [2, 1] and [a.horizon for a in agents] == [2, 1]
    batches = (wide.replace(running=jnp.ones((8, 2), bool)), wide)
    found = []
    for agent, dim, batch in zip(agents, (2, 4), batches, strict=True):
        state = compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(dim))
        state, metrics = compiled(agent, "update")(state, batch, jax.random.key(1))
        acted = compiled(agent, "act")(state, batch.obs, jax.random.key(2))
        found.append((state.actor, state.critic, state.log_temperature, metrics, acted))
    chunk, whole = (f[-1].action for f in found)
    assert chunk.shape == (8, 2, 2)
    np.testing.assert_allclose(chunk.reshape(8, 1, 4), whole, atol=1e-6)
    for a, b in zip(*(jax.tree.leaves(f[:-1]) for f in found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_what_came_after_the_end_is_not_imitated() -> None:
    """An actor that gives just the actions that were played has nothing to imitate."""
    agent = dataclasses.replace(SMALL, horizon=2, bc_weight=1.0).build()
    state = compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(1))
    batch = batch_of(8).replace(expert=jnp.ones(8, bool))
    own = compiled(agent, "act")(state, batch.obs, jax.random.key(0), deterministic=True)
    own = own.action[:, :, 0]
    wrong = batch.replace(action=own.at[:, 1].set(0.9))
    ended = wrong.replace(running=jnp.tile(jnp.array([True, False]), (8, 1)))
    np.testing.assert_array_equal(ended.played, ended.running)
    update = compiled(agent, "update")
    loss = {}
    for name, one in {
        "ended": ended,
        "ran on": wrong.replace(running=ended.running | True),
    }.items():
        loss[name] = float(update(state, one, jax.random.key(1))[1]["learner/actor_loss"])
    error = np.square(np.asarray(own)[:, 1] - 0.9).mean()
    np.testing.assert_allclose(loss["ran on"] - loss["ended"], error, rtol=1e-4)


# -- acting and building -------------------------------------------------------------------------


def test_actions_are_bounded_random_and_deterministic_on_request() -> None:
    agent, state = fresh(SMALL)
    obs = batch_of(6).obs
    act = compiled(agent, "act")
    first, second = (act(state, obs, jax.random.key(i)).action for i in (0, 1))
    first, second = np.asarray(first), np.asarray(second)
    assert first.shape == (6, 1, 2) and np.abs(first).max() <= 1.0
    assert np.abs(first - second).min() > 0
    same = [act(state, obs, jax.random.key(i), deterministic=True).action for i in (0, 1)]
    np.testing.assert_array_equal(*same)


def test_what_acts_without_noise_is_the_running_average_where_it_is_asked_for() -> None:
    agent, state = fresh(dataclasses.replace(SMALL, actor_average=0.9))
    plain, alone = fresh(SMALL)
    assert alone.average is None
    first = state.average
    update, key = compiled(agent, "update"), jax.random.key(3)
    for i in range(2):
        before = state.average
        state, _ = update(state, batch_of(16, i), jax.random.fold_in(key, i))
        want = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before, state.actor.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.average, want)
    # What it learns is what it learns without.
    for i in range(2):
        alone, _ = compiled(plain, "update")(alone, batch_of(16, i), jax.random.fold_in(key, i))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state.actor.params,
        alone.actor.params,
    )
    obs, act = batch_of(4).obs, compiled(agent, "act")
    newest = state.replace(average=state.actor.params)
    calm = act(state, obs, key, deterministic=True).action
    assert not np.allclose(calm, act(newest, obs, key, deterministic=True).action)
    np.testing.assert_array_equal(act(state, obs, key).action, act(newest, obs, key).action)
    acting = agent.acting(state)
    np.testing.assert_array_equal(act(acting, obs, key, deterministic=True).action, calm)
    assert jax.tree.structure(first) == jax.tree.structure(state.average)
    # Another run's parameters bring no average: it begins with them.
    assert agent.learned(state).average is None
    begun = agent.begun(state)
    jax.tree.map(np.testing.assert_array_equal, begun.average, state.actor.params)
    assert plain.begun(alone).average is None


def test_what_acts_needs_neither_critics_nor_optimisers() -> None:
    agent, state = fresh(SMALL)
    acting, obs = agent.acting(state), batch_of(6).obs
    key = jax.random.key(1)
    act = compiled(agent, "act")
    np.testing.assert_array_equal(act(acting, obs, key).action, act(state, obs, key).action)
    kept = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(acting)}
    assert kept and all(path.startswith(".actor.params") for path in kept)


def test_what_it_cannot_do_is_refused_by_name() -> None:
    agent, key = SMALL.build(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"one continuous action at a time, .* choices \(0, 3\)"):
        agent.init(key, SPEC, action_spec_of(2, choices=(0, 3)))
    with pytest.raises(ValueError, match="horizon 4"):
        agent.init(key, SPEC, action_spec_of(2, horizon=4))
    words = ObsSpec(fields=(ObsField(name="words", shape=(8,), dtype="int32", modality="tokens"),))
    with pytest.raises(ValueError, match=r"vectors, images and maps, got 'words' \(tokens\)"):
        agent.init(key, words, action_spec_of(2))


def test_the_agent_is_static_and_its_members_differ() -> None:
    agent, state = fresh(SMALL)
    assert agent == SMALL.build() and hash(agent) == hash(SMALL.build())
    obs = batch_of(6)
    q = np.asarray(compiled(agent, "q_values")(state, obs.obs, obs.action))
    assert np.abs(q[0] - q[1]).min() > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"activation": "gelu"}, "activation 'gelu', allowed: .*tanh"),
        ({"compute_dtype": "float16"}, "compute_dtype 'float16', allowed: .*bfloat16"),
        ({"critic_subsample_size": 3}, r"critic_subsample_size 3, allowed: None or 1\.\.2"),
        ({"gamma": 1.0}, "gamma 1.0, allowed: at least 0, below 1"),
        ({"utd_ratio": 0}, "utd_ratio 0, allowed: at least 1"),
        ({"adam_ticks": "serl"}, "adam_ticks 'serl', allowed: own"),
    ],
)
def test_bad_config_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change).build()
