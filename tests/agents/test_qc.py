"""Q-chunking and flow behaviour cloning: a two-step world known on paper, and the pieces of it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compiled
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.flow_bc import FlowBCConfig
from mjx_serl.agents.qc import QCConfig, best_of
from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.types import Batch, Transition
from scenes.contract.specs import ObsField, ObsSpec

GAMMA, ROWS, WORLDS, HORIZON = 0.9, 64, 8, 2
FLOW = FlowNetConfig(hidden=(32, 32), steps=2)
QC_SMALL = QCConfig(
    horizon=HORIZON, flow=FLOW, hidden=(32, 32), gamma=GAMMA, tau=0.1, lr=3e-3, candidates=8
)
FQL_SMALL = dataclasses.replace(QC_SMALL, actor="one_step", imitation=0.02)
EXPO_SMALL = dataclasses.replace(QC_SMALL, actor="edited", edit_scale=0.3, candidates=4)
BC_SMALL = FlowBCConfig(horizon=HORIZON, flow=FLOW, lr=3e-3)
SPEC = obs_spec_of({"state": jax.ShapeDtypeStruct((1,), jnp.float32)})
CONFIGS = {"qc": QC_SMALL, "qc_fql": FQL_SMALL, "expo": EXPO_SMALL, "flow_bc": BC_SMALL}


def two_steps() -> Transition:
    """Episodes of two steps, uniform actions: 1 - (a - 0.5)^2, then 1 - (a + 0.5)^2, the end."""
    second = np.broadcast_to((np.arange(ROWS) % 2 == 1)[:, None], (ROWS, WORLDS))
    action = np.random.default_rng(1).uniform(-1, 1, second.shape)
    no = np.zeros_like(second)
    return Transition(
        obs={"state": jnp.asarray(second, jnp.float32)[..., None]},
        action=jnp.asarray(action, jnp.float32)[..., None],
        reward=jnp.asarray(1 - np.square(action - np.where(second, -0.5, 0.5)), jnp.float32),
        terminated=jnp.asarray(second),
        truncated=jnp.asarray(no),
        valid=jnp.asarray(~no),
        expert=jnp.asarray(no),
    )


@functools.cache
def batches(count: int, size: int = 32) -> Batch:
    buffer = ReplayBuffer(ROWS, WORLDS)

    @jax.jit
    def draw(steps: Transition) -> Batch:
        state = buffer.add(buffer.init(jax.tree.map(lambda x: x[0, 0], steps)), steps)
        span = {"n_step": HORIZON, "horizon": HORIZON, "gamma": GAMMA}
        return buffer.sample(state, jax.random.key(0), (count, size), **span)

    return draw(two_steps())


def fresh(name: str) -> tuple[Any, Any]:
    agent = CONFIGS[name].build()
    return agent, compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(1))


HALF = 300


@functools.cache
def learning(name: str) -> Callable:
    """`HALF` updates of an agent, compiled."""
    agent = CONFIGS[name].build()

    @jax.jit
    def learn(state: Any, batches: Batch, key: jax.Array) -> tuple[Any, dict]:
        xs = (batches, jax.random.split(key, HALF))
        state, metrics = jax.lax.scan(lambda s, x: agent.update(s, *x), state, xs)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return learn


@functools.cache
def learned(name: str) -> tuple[Any, Any, dict]:
    """An agent after twice `HALF` updates on the two-step world."""
    (agent, state), learn = fresh(name), learning(name)
    state, _ = learn(state, batches(HALF), jax.random.key(0))
    return agent, *learn(state, batches(HALF), jax.random.key(1))


STARTS = {"state": np.float32([[0.0], [1.0]])}


@pytest.mark.parametrize("name", ["qc", "qc_fql"])
def test_q_of_chunks_in_a_two_step_world(name: str) -> None:
    agent, state, metrics = learned(name)
    q = compiled(agent, "q_values")
    first = {"state": np.zeros((3, 1), np.float32)}
    chunks = np.float32([[0.5, -0.5], [-0.5, -0.5], [0.5, 0.5]])
    want = [1 + GAMMA, GAMMA, 1.0]
    np.testing.assert_allclose(q(state, first, chunks), np.tile(want, (2, 1)), atol=0.15)
    # From the second step on the second action comes after the end: whatever it is.
    second = {"state": np.ones((3, 1), np.float32)}
    chunks = np.float32([[-0.5, -0.8], [-0.5, 0.0], [-0.5, 0.8]])
    np.testing.assert_allclose(q(state, second, chunks), np.ones((2, 3)), atol=0.15)
    assert float(metrics["learner/skipped_updates"]) == 0


@pytest.mark.parametrize("name", ["qc", "qc_fql", "expo"])
def test_chunks_are_chosen_for_their_value(name: str) -> None:
    agent, state, _ = learned(name)
    many = {"state": np.zeros((64, 1), np.float32)}
    chosen = compiled(agent, "act")(state, many, jax.random.key(4)).action
    assert chosen.shape == (64, HORIZON, 1) and np.abs(chosen).max() <= 1
    gap = np.abs(np.asarray(chosen)[..., 0] - [0.5, -0.5]).mean()
    # Uniform chunks, which the data are of, are 0.625 away on average.
    assert gap < (0.2 if name == "qc_fql" else 0.4)


def test_an_edit_is_small_and_the_unedited_sample_stays_among_the_candidates() -> None:
    agent, state, _ = learned("expo")
    assert state.edit is not None
    features, noise = STARTS["state"], np.float32(np.random.default_rng(0).normal(size=(1, 2, 2)))
    flow = agent._flow(state.action)
    plain = flow.transport(state.flow.params, features, noise[0])
    edit, _ = agent._edits(state.edit.params, features, plain, None)
    assert 0 < np.abs(edit).max() <= 0.3
    # Whichever of the two target critics value more.
    edited = jnp.clip(plain + edit, -1, 1)
    swapped = state.replace(critic=state.critic.replace(params=state.target_params))
    q = [compiled(agent, "q_values")(swapped, STARTS, a).mean(axis=0) for a in (plain, edited)]
    want = np.where((q[1] > q[0])[:, None], edited, plain)
    one = dataclasses.replace(EXPO_SMALL, candidates=1).build()
    np.testing.assert_allclose(one._choose(state, features, noise, None), want, atol=1e-6)
    # Edits of no size leave the flow's sample, as the target of plain flow cloning has it.
    none = dataclasses.replace(EXPO_SMALL, candidates=1, edit_scale=1e-9).build()
    np.testing.assert_allclose(none._choose(state, features, noise, None), plain, atol=1e-6)


def test_the_best_candidate_is_taken_wherever_it_is_planted() -> None:
    candidates = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (5, 4, 3)), jnp.float32)
    planted = np.array([3, 0, 4, 1])
    value = np.zeros((5, 4), np.float32)
    value[planted, np.arange(4)] = 1.0
    np.testing.assert_array_equal(
        best_of(candidates, jnp.asarray(value)), candidates[planted, np.arange(4)]
    )
    np.testing.assert_array_equal(best_of(candidates, jnp.zeros((5, 4))), candidates[0])


def test_the_target_is_the_mean_of_the_target_critics_after_the_chunk() -> None:
    agent, state = fresh("qc_fql")
    moved = jax.tree.map(lambda x: x + 0.1, state.target_params)
    state = state.replace(target_params=moved)
    batch = jax.tree.map(lambda x: x[0], batches(HALF))
    batch = batch.replace(terminated=jnp.arange(32) % 2 == 0)
    key = jax.random.key(7)
    target = compiled(agent, "target")(state, batch, key)
    # The same policy by hand: its noise, its network, then both target critics.
    noise = jax.random.normal(key, (1, 32, HORIZON))[0]
    action = agent._one_step(state.one_step.params, batch.next_obs["state"], noise)
    swapped = state.replace(critic=state.critic.replace(params=moved))
    q = compiled(agent, "q_values")(swapped, batch.next_obs, action).mean(axis=0)
    want = np.where(batch.terminated, batch.reward, batch.reward + GAMMA**HORIZON * q)
    np.testing.assert_allclose(target, want, rtol=1e-5, atol=1e-6)


def test_flow_cloning_gives_what_was_shown() -> None:
    """All chunks are (0.5, -0.5), but what comes after the end is noise and does not count."""
    agent, state = fresh("flow_bc")
    batch = batches(HALF)
    shown = jnp.broadcast_to(jnp.array([0.5, -0.5]), (HALF, 32, 2))
    batch = batch.replace(action=jnp.where(batch.played, shown, 0.9))

    for i in range(2):
        state, _ = learning("flow_bc")(state, batch, jax.random.key(i))
    act = compiled(agent, "act")
    many = {"state": np.zeros((64, 1), np.float32)}
    drawn = np.asarray(act(state, many, jax.random.key(0)).action)[..., 0]
    assert np.abs(drawn - [0.5, -0.5]).mean() < 0.1
    mean = act(state, STARTS, jax.random.key(0), deterministic=True).action
    np.testing.assert_allclose(mean[:, 0, 0], 0.5, atol=0.15)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_acts_is_enough_and_a_state_goes_on_from_a_copy(name: str) -> None:
    agent, state = fresh(name)
    act, learn = compiled(agent, "act"), learning(name)
    once, _ = learn(state, batches(HALF), jax.random.key(1))
    # k + k = 2k: all that is learned from is in the state.
    kept = jax.tree.map(jnp.asarray, jax.device_get(once))
    results = [learn(s, batches(HALF), jax.random.key(2))[0] for s in (once, kept)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    small, key = agent.acting(once), jax.random.key(3)
    for deterministic in (False, True):
        whole, part = (
            act(s, STARTS, key, deterministic=deterministic).action for s in (once, small)
        )
        np.testing.assert_array_equal(whole, part)
    others = [act(once, STARTS, jax.random.key(i), deterministic=True).action for i in (4, 5)]
    np.testing.assert_array_equal(*others)


def test_what_they_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="actor 'best', allowed: best_of, one_step, edited"):
        dataclasses.replace(QC_SMALL, actor="best").build()
    hidden = ObsSpec(fields=(*SPEC.fields, ObsField(name="h", shape=(1,), critic_only=True)))
    with pytest.raises(ValueError, match="'best_of' asks its critics when it acts"):
        QC_SMALL.build().init(jax.random.key(0), hidden, action_spec_of(1))
    with pytest.raises(ValueError, match="FlowBC gives one continuous action"):
        BC_SMALL.build().init(jax.random.key(0), SPEC, action_spec_of(1, choices=(3,)))
