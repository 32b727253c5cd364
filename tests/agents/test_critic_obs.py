"""Critics that see more than the policy: what each reads, and who trains the encoder then."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs_of import action_spec_of

from mjx_serl.agents.sac import SAC, SACConfig, SACState
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.types import Batch
from scenes.contract.specs import ObsField, ObsSpec

SPEC = ObsSpec(
    fields=(
        ObsField(name="a_hidden", shape=(2,), critic_only=True),
        ObsField(name="front", shape=(28, 28, 3), dtype="uint8"),
        ObsField(name="state", shape=(3,)),
    )
)
ROWS = 16


def batch_of(spec: ObsSpec) -> Batch:
    """Pictures that show the hidden numbers, in their brightness left and right."""
    rng = np.random.default_rng(0)

    def obs() -> dict[str, np.ndarray]:
        hidden = rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32)
        shade = (127 + 100 * hidden).astype(np.uint8)
        front = np.repeat(shade[:, None, :, None], 14, axis=2) * np.ones((28, 1, 3), np.uint8)
        state = rng.normal(size=(ROWS, 3)).astype(np.float32)
        every = {"a_hidden": hidden, "front": front, "state": state}
        return {name: every[name] for name in spec.names}

    action = rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32)
    none = np.zeros(ROWS, bool)
    return Batch(obs(), action, np.zeros(ROWS, np.float32), none, none, obs())


def fresh(spec: ObsSpec) -> tuple[SAC, SACState]:
    config = SACConfig(hidden=(32,), encoder=EncoderConfig(features=8), lr=1e-2, crop=0)
    agent = config.build()
    return agent, agent.init(jax.random.key(0), spec, action_spec_of(2))


@pytest.fixture(scope="module")
def numbers() -> ObsSpec:
    """The same without pictures."""
    return dataclasses.replace(SPEC, fields=(SPEC["a_hidden"], SPEC["state"]))


def test_the_policy_neither_needs_nor_reads_what_critics_see(numbers: ObsSpec):
    agent, state = fresh(numbers)
    obs = batch_of(numbers).obs
    act = jax.jit(lambda s, o: agent.act(s, o, jax.random.key(1)).action)
    seen = {"state": obs["state"]}
    np.testing.assert_array_equal(act(state, obs), act(agent.acting(state), seen))
    other = obs | {"a_hidden": -obs["a_hidden"]}
    np.testing.assert_array_equal(act(state, obs), act(state, other))
    q = jax.jit(agent.q_values)
    action = jnp.zeros((ROWS, 2))
    assert (q(state, obs, action) != q(state, other, action)).all()


def test_without_hidden_fields_nothing_is_added(numbers: ObsSpec):
    """The very networks of before: the same leaves, and so the same checkpoints."""
    plain = ObsSpec(fields=(numbers["state"],))
    _, state = fresh(plain)
    assert not jax.tree.leaves(state.critic.params.probe)
    agent, pictures = fresh(SPEC.policy)
    assert not jax.tree.leaves(pictures.critic.params.probe)
    assert agent.cfg.encoder.features == 8


def test_the_encoder_learns_to_tell_what_critics_are_told():
    """Rewards are all zero here: nothing else could teach it where things are."""
    agent, state = fresh(SPEC)
    batch, update = batch_of(SPEC), jax.jit(agent.update)
    nets = agent._nets_of(state)

    @jax.jit
    def loss(state: SACState) -> jax.Array:
        params = state.critic.params
        return nets.probe_loss(params, nets.features(params, batch.obs))

    before = float(loss(state))
    for step in range(60):
        state, _ = update(state, batch, jax.random.key(step))
    spread = float(np.square(batch.obs["a_hidden"]).mean())
    assert before > 0.5 * spread > 4 * float(loss(state))
