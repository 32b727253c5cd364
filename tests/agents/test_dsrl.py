"""Steering by noise: the base itself at first, never beyond its noise, and better after."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import compiled
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.dsrl import DSRL, DSRLConfig, DSRLState
from mjx_serl.agents.flow_bc import FlowBCConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.nets.distributions import tanh_normal_log_prob
from scenes.contract.errors import InputError

BASE = FlowBCConfig(flow=FlowNetConfig(hidden=(8, 8), steps=4), horizon=1)
SMALL = DSRLConfig(
    base=BASE, hidden=(32, 32), gamma=probes.GAMMA, tau=0.1, lr=3e-3, utd_ratio=2, distill_ratio=2,
    target_entropy=-2.0,
)  # fmt: skip
SPEC = obs_spec_of({"state": jax.ShapeDtypeStruct((1,), jnp.float32)})
OBS = {"state": np.linspace(-2, 2, 16, dtype=np.float32)[:, None]}


def fresh(config: DSRLConfig) -> tuple[DSRL, DSRLState]:
    agent = config.build()
    return agent, compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(1))


@pytest.mark.parametrize("horizon", [1, 3])
def test_at_first_it_is_the_base_bit_for_bit(horizon: int) -> None:
    agent, state = fresh(SMALL.over(dataclasses.replace(BASE, horizon=horizon)))
    assert (agent.horizon, agent.n_step) == (horizon, horizon)
    act = compiled(agent, "act")
    chosen = act(state, OBS, jax.random.key(1), deterministic=True).action
    assert chosen.shape == (16, horizon, 1)
    base = compiled(agent.base, "act")(state.base, OBS, jax.random.key(9), deterministic=True)
    np.testing.assert_array_equal(chosen, base.action)
    again = act(agent.acting(state), OBS, jax.random.key(1), deterministic=True).action
    np.testing.assert_array_equal(chosen, again)


def test_it_does_what_the_base_does_from_the_noise_that_it_draws() -> None:
    agent, state = fresh(SMALL)
    drawn = jax.tree.map(
        lambda x: 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), state.actor.params
    )
    state = state.replace(actor=state.actor.replace(params=drawn))
    nets, key = agent._networks(SPEC, action_spec_of(1)), jax.random.key(4)

    @jax.jit
    def draw(state: DSRLState, obs: dict) -> tuple:
        features = nets.policy_features(state.critic.params, obs)
        noise, log_prob = agent._draw(nets, state.actor.params, features, key)
        mean, std = nets.policy(state.actor.params, features)
        # The density of m x is that of x over m.
        wanted = tanh_normal_log_prob(noise / 1.5, mean, std) - np.log(1.5)
        return noise, log_prob, wanted, mean, agent.base.carried(state.base, obs, noise)

    noise, log_prob, wanted, mean, carried = jax.device_get(draw(state, OBS))
    assert 1.0 < np.abs(noise).max() <= 1.5
    inside = np.abs(mean[:, 0]) < 3
    assert inside.sum() > 4
    np.testing.assert_allclose(log_prob[inside], wanted[inside], atol=0.02)
    acted = compiled(agent, "act")(state, OBS, key, deterministic=False).action
    np.testing.assert_allclose(acted[:, 0], carried, atol=1e-6)


@pytest.fixture(scope="module")
def learned() -> tuple[DSRL, DSRLState, DSRLState]:
    """Before and after 800 updates where the reward is 1 - (a - 0.5)^2."""
    return probes.learned_action(SMALL.build(), SPEC, action_spec_of(1))


def test_it_steers_to_the_best_action_and_leaves_the_base_alone(learned: tuple) -> None:
    agent, start, state = learned
    jax.tree.map(np.testing.assert_array_equal, start.base, state.base)
    before, after = (probes.action_at_zero(agent, s) for s in (start, state))
    assert abs(before - 0.5) > 0.4 and abs(after - 0.5) < 0.2, (before, after)
    assert int(state.step) == 1600 and int(state.skipped) == 0


def test_a_state_goes_on_from_a_copy_bit_for_bit() -> None:
    agent, state = fresh(SMALL)
    update = compiled(agent, "update")
    once, metrics = update(state, probes.random_batch(agent), jax.random.key(1))
    assert 0.0 < float(metrics["learner/noise_size"]) < 1.5
    kept: Any = jax.tree.map(jnp.asarray, jax.device_get(once))
    twice, again = (
        update(s, probes.random_batch(agent), jax.random.key(2))[0] for s in (once, kept)
    )
    jax.tree.map(np.testing.assert_array_equal, twice, again)
    for part in ("actor", "critic", "noise_critic", "log_temperature"):
        first, second = (getattr(state, part).params for state in (once, twice))
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, second)
        assert max(jax.tree.leaves(moved)) > 0, part
    jax.tree.map(np.testing.assert_array_equal, once.base, state.base)


def test_the_noise_s_critics_are_fitted_to_the_actions_critics(learned: tuple) -> None:
    agent, _, state = learned
    nets = agent._networks(SPEC, action_spec_of(1))
    zero, noise = {"state": np.zeros((21, 1), np.float32)}, np.linspace(-1.4, 1.4, 21)[:, None]

    @jax.jit
    def values(state: DSRLState, noise: jax.Array) -> tuple:
        features = nets.features(state.critic.params, zero)
        action = agent.base.carried(state.base, zero, noise)
        own = nets.q(state.noise_critic.params, features, noise)
        return own, nets.q(state.critic.params.members, features, action)

    own, wanted = jax.device_get(values(state, jnp.asarray(noise, jnp.float32)))
    assert np.ptp(wanted) > 0.5
    assert np.abs(own - wanted).mean() < 0.15 * np.ptp(wanted)


def test_what_is_no_flow_cannot_be_steered() -> None:
    with pytest.raises(InputError, match="--init is of 'sac', which starts from none"):
        SMALL.over(SACConfig())
    with pytest.raises(ValueError, match="magnitude 0, allowed: above 0"):
        dataclasses.replace(SMALL, magnitude=0).build()
    with pytest.raises(ValueError, match="target_entropy inf"):
        dataclasses.replace(SMALL, target_entropy=float("inf")).build()
