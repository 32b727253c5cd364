"""The hybrid agent: a gripper that must be chosen by what is seen, its target, its penalty."""

import dataclasses
import functools

import jax
import numpy as np
import probes
import pytest
from probes import compiled
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.hybrid import GRASP_PENALTY, Hybrid, HybridConfig, HybridState
from mjx_serl.agents.sac import SACConfig
from mjx_serl.types import Batch, Transition

SAC = SACConfig(hidden=(32,), gamma=probes.GAMMA, tau=0.1, lr=3e-3, utd_ratio=2)
SMALL = HybridConfig(sac=SAC, grasp_penalty=0.25)
ACTION = action_spec_of(3, names=("x", "gripper", "y"))
SPEC = obs_spec_of({"state": jax.ShapeDtypeStruct((1,), np.float32)})


def batch_of(rows: int, seed: int = 0) -> Batch:
    """One step that pays 1 where the gripper does what the state says, and takes 1/4 off for +1."""
    rng = np.random.default_rng(seed)
    state = rng.choice([-1.0, 0.0, 1.0], (rows, 1)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    done = np.ones(rows, bool)
    reward = (np.round(action[:, 1]) == state[:, 0]).astype(np.float32)
    penalty = np.where(np.round(action[:, 1]) == 1.0, -0.25, 0.0).astype(np.float32)
    obs = {"state": state}
    return Batch(obs, action, reward, done, ~done, obs, {GRASP_PENALTY: penalty})


@functools.cache
def fresh(config: HybridConfig = SMALL) -> tuple[Hybrid, HybridState]:
    agent = config.build()
    return agent, compiled(agent, "init")(jax.random.key(0), SPEC, ACTION)


SEEN = {"state": np.float32([[-1.0], [0.0], [1.0]])}


@pytest.fixture(scope="module")
def learned() -> HybridState:
    """What is known after 300 updates of two steps each."""
    agent, state = fresh()
    update = compiled(agent, "update")
    for step in range(300):
        state, _ = update(state, batch_of(64, step), jax.random.key(step))
    return state


def test_the_gripper_does_what_is_seen_and_values_are_those_on_paper(learned: HybridState) -> None:
    agent, _ = fresh()
    values = compiled(agent, "grasp_values")(learned, SEEN)
    np.testing.assert_allclose(values, np.eye(3) - [0.0, 0.0, 0.25], atol=0.1)
    act = compiled(agent, "act")
    for deterministic in (True, False):
        got = act(learned, SEEN, jax.random.key(1), deterministic=deterministic).action[:, 0]
        np.testing.assert_array_equal(got[:, 1], [-1.0, 0.0, 1.0], "its best choice, always")
        assert np.abs(got).max() <= 1.0


def test_the_arms_critics_do_not_see_the_gripper(learned: HybridState) -> None:
    """They are SAC's of two entries, and know nothing of the penalty."""
    agent, state = fresh()
    batch, update = batch_of(64), compiled(agent, "update")
    free = batch.replace(extras={GRASP_PENALTY: np.zeros(64, np.float32)})
    one, two = (update(state, b, jax.random.key(2))[0] for b in (batch, free))
    jax.tree.map(np.testing.assert_array_equal, one.sac, two.sac)
    assert one.sac.action.names == ("x", "y")
    turned = batch.replace(action=batch.action * np.float32([1, -1, 1]))
    three, _ = update(state, turned, jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, one.sac.critic, three.sac.critic)
    leaves = zip(jax.tree.leaves(one.grasp), jax.tree.leaves(three.grasp), strict=True)
    assert any((a != b).any() for a, b in leaves)
    q_values = compiled(agent, "q_values")
    q = q_values(one, batch.obs, batch.action)
    assert q.shape == (SAC.critic_ensemble_size, 64)
    np.testing.assert_array_equal(q, q_values(one, batch.obs, turned.action))


def test_the_target_entropy_counts_the_gripper() -> None:
    """HIL-SERL's hybrid keeps the whole action's: -3.5 of six continuous entries and one."""
    agent, _ = fresh()
    assert agent._sac(action_spec_of(7)).cfg.target_entropy == -3.5
    told = HybridConfig(sac=dataclasses.replace(SAC, target_entropy=-1.0)).build()
    assert told._sac(ACTION).cfg.target_entropy == -1.0


def test_the_target_is_double_dqns_and_stops_where_the_episode_ended() -> None:
    agent, state = fresh()
    batch = batch_of(8).replace(terminated=np.arange(8) % 2 == 0)
    target = np.asarray(jax.jit(agent._target)(state, batch))
    values = np.asarray(compiled(agent, "grasp_values")(state, batch.next_obs))
    # Fresh: the target network is a copy, so its value of the best choice is the best value.
    later = np.where(batch.terminated, 0.0, probes.GAMMA * values.max(axis=-1))
    wanted = batch.reward + batch.extras[GRASP_PENALTY] + later
    np.testing.assert_allclose(target, wanted, rtol=1e-5)


def test_the_target_network_follows_at_rate_tau() -> None:
    agent, state = fresh(dataclasses.replace(SMALL, sac=dataclasses.replace(SAC, utd_ratio=1)))
    after, _ = compiled(agent, "update")(state, batch_of(8), jax.random.key(1))
    jax.tree.map(
        lambda old, new, got: np.testing.assert_allclose(got, 0.9 * old + 0.1 * new, atol=1e-6),
        *jax.device_get((state.grasp_target, after.grasp.params, after.grasp_target)),
    )


@pytest.mark.parametrize("utd_ratio", [1, 2])
def test_defect_21_the_penalty_is_learned_from_at_every_ratio(utd_ratio: int) -> None:
    """Lerobot's last batch of an update lacks it; here one without it is no batch."""
    sac = dataclasses.replace(SAC, utd_ratio=utd_ratio)
    agent, state = fresh(dataclasses.replace(SMALL, sac=sac))
    batch, key = batch_of(8), jax.random.key(1)
    update = compiled(agent, "update")
    free = batch.replace(extras={GRASP_PENALTY: np.zeros(8, np.float32)})
    _, paid = update(state, batch, key)
    _, unpaid = update(state, free, key)
    assert float(paid["learner/grasp_loss"]) != float(unpaid["learner/grasp_loss"])
    with pytest.raises(ValueError, match="a batch without 'grasp_penalty'"):
        agent.update(state, batch.replace(extras={}), key)


def test_penalties_are_found_from_what_is_observed_of_each_gripper() -> None:
    agent, _ = fresh()
    names = ("left/x", "left/gripper", "right/x", "right/gripper")
    action = np.float32([[0, 1, 0, 1], [0, 1, 0, -1], [0, 0, 0, -1]])
    obs = {
        "left/gripper_command": np.zeros((3, 1), np.float32),
        "right/gripper_command": np.ones((3, 1), np.float32),
    }
    none = np.zeros(3, bool)
    steps = Transition(obs, action, np.zeros(3, np.float32), none, none, ~none, none)
    beside = agent.beside(steps, action_spec_of(4, names=names))
    np.testing.assert_allclose(beside[GRASP_PENALTY], [-0.25, -0.5, -0.25])
    with pytest.raises(ValueError, match=r"'gripper_command' is not among .*--agent.grasp-penalty"):
        agent.beside(steps, ACTION)
    assert HybridConfig(grasp_penalty=0.0).build().beside(steps, ACTION) == {}


def test_what_acts_needs_neither_critics_nor_optimisers(learned: HybridState) -> None:
    agent, _ = fresh()
    acting = agent.acting(learned)
    act = compiled(agent, "act")
    one, two = (act(s, SEEN, jax.random.key(3)).action for s in (acting, learned))
    np.testing.assert_array_equal(one, two)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(acting)]
    assert all(p.startswith((".sac.actor.params", ".grasp.params")) for p in paths)
