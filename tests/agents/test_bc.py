"""Behaviour cloning: what it fits, whom it imitates, what it does not read."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compiled
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.bc import BC, BCConfig, BCState
from mjx_serl.agents.networks import build_mlp
from mjx_serl.nets.mlp import dropped
from mjx_serl.types import Batch

SMALL = BCConfig(hidden=(16,), lr=1e-2)
SHAPES = {
    "hand": jax.ShapeDtypeStruct((2,), jnp.float32),
    "state": jax.ShapeDtypeStruct((1,), jnp.float32),
}
SPEC = obs_spec_of(SHAPES)
STD = 0.1


def batch_of(rows: int = 64, *, seed: int = 0) -> Batch:
    """An expert that does half of what `state` is, with a deviation of `STD`; all its samples."""
    rng = np.random.default_rng(seed)
    obs = {"hand": rng.normal(size=(rows, 2)), "state": rng.choice([-1.0, 1.0], (rows, 1))}
    obs = {name: x.astype(np.float32) for name, x in obs.items()}
    action = obs["state"] / 2 + rng.normal(0, STD, (rows, 1)).astype(np.float32)
    none = np.zeros(rows, bool)
    return Batch(obs, action, np.zeros(rows, np.float32), none, ~none, obs)


@functools.cache
def fresh(config: BCConfig = SMALL) -> tuple[BC, BCState]:
    agent = config.build()
    return agent, compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(1))


@pytest.fixture(scope="module")
def learned() -> BCState:
    """What is known after 400 batches."""
    agent, state = fresh()
    update = compiled(agent, "update")
    for step in range(400):
        state, _ = update(state, batch_of(seed=step), jax.random.key(step))
    return state


def test_it_finds_the_experts_mean_and_its_spread(learned: BCState) -> None:
    agent, _ = fresh()
    signs = np.repeat(np.float32([[-1.0], [1.0]]), 400, axis=0)
    obs = {"state": signs, "hand": np.zeros((800, 2), np.float32)}
    act = compiled(agent, "act")
    mean = act(learned, obs, jax.random.key(1), deterministic=True).action
    np.testing.assert_allclose(mean[:, 0], signs / 2, atol=0.05)
    drawn = np.asarray(act(learned, obs, jax.random.key(1)).action[:, 0])
    assert np.std(drawn[:400]) == pytest.approx(STD, rel=0.25)
    assert int(learned.step) == 400 and int(learned.skipped) == 0


def test_actions_stay_inside_although_nothing_squashes_them(learned: BCState) -> None:
    agent, _ = fresh()
    far = {"state": np.float32([[50.0]]), "hand": np.full((1, 2), 50, np.float32)}
    state = learned.replace(
        policy=jax.tree.map(lambda x: 30 * x if x.dtype == np.float32 else x, learned.policy)
    )
    for deterministic in (True, False):
        got = compiled(agent, "act")(state, far, jax.random.key(0), deterministic=deterministic)
        assert got.action.shape == (1, 1, 1) and abs(float(got.action[0, 0, 0])) <= 1.0


def test_only_the_experts_samples_are_imitated() -> None:
    agent, state = fresh()
    update, batch = compiled(agent, "update"), batch_of()
    some = batch.replace(expert=np.arange(64) < 32)
    other = some.replace(action=np.where(np.arange(64)[:, None] < 32, some.action, -1.0))
    one, two = (update(state, b, jax.random.key(1))[0] for b in (some, other))
    jax.tree.map(np.testing.assert_array_equal, one.policy, two.policy)
    nobody, metrics = update(state, batch.replace(expert=np.zeros(64, bool)), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, nobody.policy.params, state.policy.params)
    assert float(metrics["learner/bc_loss"]) == 0.0


def test_what_is_left_out_is_not_read_and_must_be_observed() -> None:
    """SERL's `remove_xy`, by the names of what is observed."""
    agent, state = fresh(dataclasses.replace(SMALL, leave_out=("hand",)))
    obs = batch_of().obs
    act = compiled(agent, "act")
    moved = obs | {"hand": obs["hand"] + 1.0}
    one, two = (act(state, o, jax.random.key(0), deterministic=True).action for o in (obs, moved))
    np.testing.assert_array_equal(one, two)
    wrong = dataclasses.replace(SMALL, leave_out=("hands",)).build()
    with pytest.raises(KeyError, match="'hands'. Did you mean 'hand'"):
        wrong.init(jax.random.key(0), SPEC, action_spec_of(1))


def test_a_bad_batch_is_skipped_and_counted() -> None:
    agent, state = fresh()
    batch = batch_of()
    bad = batch.replace(action=np.where(np.arange(64)[:, None] == 3, np.nan, batch.action))
    after, metrics = compiled(agent, "update")(state, bad, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, after.policy, state.policy)
    assert float(metrics["learner/skipped_updates"]) == 1.0


def test_what_acts_needs_no_optimiser() -> None:
    agent, state = fresh()
    leaves = jax.tree_util.tree_leaves_with_path(agent.acting(state))
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    assert paths and all(path.startswith(".policy.params") for path in paths)


def test_dropout_leaves_out_its_share_while_learning_alone() -> None:
    x = jnp.ones((50, 200))
    kept = np.asarray(dropped(jax.random.key(0), x, 0.25))
    assert np.mean(kept == 0.0) == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(kept[kept > 0], 4 / 3, rtol=1e-6)
    agent, state = fresh(dataclasses.replace(SMALL, dropout=0.5))
    act, update, batch = compiled(agent, "act"), compiled(agent, "update"), batch_of()
    first, second = (
        act(state, batch.obs, jax.random.key(i), deterministic=True).action for i in (0, 1)
    )
    np.testing.assert_array_equal(first, second)
    losses = [float(update(state, batch, jax.random.key(i))[1]["learner/bc_loss"]) for i in (0, 1)]
    assert losses[0] != losses[1]
    # The very networks of before where there is none.
    assert build_mlp(SMALL, agent._encoder(state.obs), 2).dropout == 0.0


def test_bad_config_is_named() -> None:
    with pytest.raises(ValueError, match="BCConfig: activation 'gelu', allowed: .*tanh"):
        dataclasses.replace(SMALL, activation="gelu").build()
    with pytest.raises(ValueError, match="dropout 1.0, allowed: at least 0, below 1"):
        dataclasses.replace(SMALL, dropout=1.0).build()
    with pytest.raises(ValueError, match="BC gives one continuous action at a time"):
        fresh()[0].init(jax.random.key(0), SPEC, action_spec_of(1, horizon=2))
