"""The residual: the base itself at first, never further from it than it may, and better after."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import compiled
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.residual import Residual, ResidualConfig, ResidualState
from mjx_serl.agents.sac import SACConfig

BASE = SACConfig(hidden=(8, 8))
SMALL = ResidualConfig(
    base=BASE, hidden=(32, 32), gamma=probes.GAMMA, tau=0.1, lr=3e-3, actor_lr=3e-3,
    n_step=1, utd_ratio=2, actor_delay=20, critic_ensemble_size=4, scale=0.2,
)  # fmt: skip
SPEC = obs_spec_of({"state": jax.ShapeDtypeStruct((1,), jnp.float32)})
OBS = {"state": np.linspace(-2, 2, 16, dtype=np.float32)[:, None]}


def fresh(config: ResidualConfig) -> tuple[Residual, ResidualState]:
    agent = config.build()
    return agent, compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(1))


def base_of(agent: Residual, state: ResidualState) -> np.ndarray:
    act = compiled(agent.base, "act")
    return np.asarray(act(state.base, OBS, jax.random.key(9), deterministic=True).action)


@pytest.mark.parametrize("horizon", [1, 3])
def test_at_first_it_is_the_base_bit_for_bit(horizon: int) -> None:
    base = dataclasses.replace(BASE, horizon=horizon)
    agent, state = fresh(SMALL.over(base))
    assert (agent.horizon, agent.n_step) == (horizon, horizon)
    act = compiled(agent, "act")
    chosen = act(state, OBS, jax.random.key(1), deterministic=True).action
    assert chosen.shape == (16, horizon, 1)
    np.testing.assert_array_equal(chosen, base_of(agent, state))
    acting = agent.acting(state)
    again = act(acting, OBS, jax.random.key(1), deterministic=True).action
    np.testing.assert_array_equal(chosen, again)


def test_it_never_goes_further_than_its_scale() -> None:
    agent, state = fresh(dataclasses.replace(SMALL, noise=0.5))
    wild = jax.tree.map(
        lambda x: 9.0 * jax.random.normal(jax.random.key(x.size), x.shape), state.actor.params
    )
    state, base = state.replace(actor=state.actor.replace(params=wild)), base_of(agent, state)
    act = compiled(agent, "act")
    for deterministic in (False, True):
        chosen = act(state, OBS, jax.random.key(1), deterministic=deterministic).action
        gap = np.abs(np.asarray(chosen) - base)
        assert 0.9 * 0.2 < gap.max() <= 0.2 + 1e-6 and np.abs(chosen).max() <= 1.0


@pytest.fixture(scope="module")
def learned() -> tuple[Residual, ResidualState, ResidualState]:
    """A residual before and after 800 updates where the reward is 1 - (a - 0.5)^2."""
    return probes.learned_action(SMALL.build(), SPEC, action_spec_of(1))


def test_it_corrects_as_far_as_it_may(learned: tuple) -> None:
    agent, start, state = learned
    jax.tree.map(np.testing.assert_array_equal, start.base, state.base)
    before, after = (probes.action_at_zero(agent, s) for s in (start, state))
    assert before + 0.2 < 0.5  # the best action is out of reach
    np.testing.assert_allclose(after, before + 0.2, atol=0.04)
    assert int(state.step) == 1600 and int(state.skipped) == 0
    tried = np.float32([[0.2], [0.5], [0.8]])
    q = compiled(agent, "q_values")(state, {"state": np.zeros((3, 1), np.float32)}, tried)
    np.testing.assert_allclose(q.mean(axis=0), 1 - (tried[:, 0] - 0.5) ** 2, atol=0.05)


def test_the_actor_waits_for_the_critics_and_a_state_goes_on_from_a_copy() -> None:
    agent, state = fresh(dataclasses.replace(SMALL, actor_delay=3))
    update = compiled(agent, "update")
    once, metrics = update(state, probes.random_batch(agent), jax.random.key(1))
    assert int(once.step) == 2 and float(metrics["learner/correction"]) == 0
    jax.tree.map(np.testing.assert_array_equal, state.actor, once.actor)
    kept: Any = jax.tree.map(jnp.asarray, jax.device_get(once))
    twice, again = (
        update(s, probes.random_batch(agent), jax.random.key(2))[0] for s in (once, kept)
    )
    jax.tree.map(np.testing.assert_array_equal, twice, again)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), once.actor.params, twice.actor.params)
    assert max(jax.tree.leaves(moved)) > 0


def test_bad_config_is_named() -> None:
    with pytest.raises(ValueError, match="critic_subsample_size 5, allowed: 1 to 4"):
        dataclasses.replace(SMALL, critic_subsample_size=5).build()
    with pytest.raises(ValueError, match="scale 0, allowed: above 0"):
        dataclasses.replace(SMALL, scale=0).build()
