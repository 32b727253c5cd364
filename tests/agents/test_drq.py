"""SAC on images: a probe, who trains the encoder, what is cropped, mixtures from two buffers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import compiled
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.sac import SAC, SACConfig, SACState
from mjx_serl.data.replay import ReplayBuffer, mix
from mjx_serl.nets.augment import crop_batch
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.types import Batch, Transition

SIZE = 28
TINY = EncoderConfig(features=16)
SMALL = SACConfig(hidden=(32, 32), encoder=TINY, gamma=probes.GAMMA, tau=0.1, lr=3e-3)
SHAPES = {
    "front": jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.uint8),
    "state": jax.ShapeDtypeStruct((3,), jnp.float32),
}
SPEC = obs_spec_of(SHAPES)
CRITIC_LOSS = "learner/critic_loss"


def transitions(lead: tuple[int, ...], seed: int = 0) -> Transition:
    rng = np.random.default_rng(seed)
    obs = {
        name: rng.integers(0, 256, (*lead, *s.shape)).astype(s.dtype) for name, s in SHAPES.items()
    }
    return Transition(
        obs=obs | {"state": obs["state"] / np.float32(255)},
        action=rng.uniform(-1, 1, (*lead, 2)).astype(np.float32),
        reward=rng.normal(size=lead).astype(np.float32),
        terminated=rng.random(lead) < 0.2,
        truncated=np.zeros(lead, bool),
        valid=np.ones(lead, bool),
        expert=rng.random(lead) < 0.5,
    )


def batch_of(rows: int, seed: int = 0) -> Batch:
    now, after = transitions((rows,), seed), transitions((rows,), seed + 100)
    return Batch(now.obs, now.action, now.reward, now.terminated, now.expert, after.obs)


def fresh(**changes: object) -> tuple[SAC, SACState]:
    agent = dataclasses.replace(SMALL, **changes).build()
    return agent, compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(2))


@jax.jit
def updates(state: SACState, batch: Batch, key: jax.Array) -> dict[str, tuple[SACState, dict]]:
    """Updates of `SMALL` as it is, with another loss of the actor, and without crops.

    In one program, where what they have in common is compiled once; of the last only the metrics.
    """
    changes = {"plain": {}, "imitating": {"bc_weight": 100.0}, "whole": {"crop": 0}}
    after = {
        name: dataclasses.replace(SMALL, **change).build().update(state, batch, key)
        for name, change in changes.items()
    }
    return after | {"whole": (None, {CRITIC_LOSS: after["whole"][1][CRITIC_LOSS]})}


def update(state: SACState, batch: Batch, key: jax.Array) -> tuple[SACState, dict]:
    """The update of `SMALL`."""
    return updates(state, batch, key)["plain"]


def largest_change(before: object, after: object) -> list[float]:
    before, after = jax.device_get((before, after))
    return jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after))


# -- what it learns ------------------------------------------------------------------------------


@jax.jit
def show(sign: jax.Array) -> jax.Array:
    """A dark image with a bright square: left for -1, right for +1, in the middle for 0."""
    column = jnp.arange(SIZE)
    middle = SIZE / 2 + SIZE / 4 * sign[..., None]
    lit = jnp.abs(column - middle + 0.5) < 3
    square = lit[..., None, :] & (jnp.abs(column - SIZE / 2 + 0.5) < 3)[:, None]
    return jnp.repeat(square[..., None], 3, axis=-1).astype(jnp.uint8) * 255


@pytest.fixture(scope="module")
def learn() -> Callable:
    return probes.make_learn(SMALL.build(), updates=300, batch_size=32)


@pytest.mark.parametrize("name", ["obs_action_reward", "two_step"])
def test_probe_seen_by_a_camera(name: str, learn: Callable) -> None:
    probe, agent = probes.PROBES[name](), SMALL.build()
    steps = probe.steps.replace(obs={"front": show(probe.steps.obs["state"][..., 0])})
    state, metrics = learn(steps, jax.random.key(0))
    for obs, action, q in probe.expected_q:
        seen = {"front": show(np.float32([obs]))}
        got = compiled(agent, "q_values")(state, seen, np.float32([[action]]))
        np.testing.assert_allclose(got, q, atol=0.1)
    for obs, action in probe.expected_action:
        seen, key = {"front": show(np.float32([obs]))}, jax.random.key(0)
        got = compiled(agent, "act")(state, seen, key, deterministic=True).action[:, 0]
        np.testing.assert_allclose(got, action, atol=0.15)
    assert float(metrics["learner/skipped_updates"]) == 0


# -- who trains the encoder ----------------------------------------------------------------------


def test_defect_13_the_critic_trains_the_encoder_and_the_target_follows() -> None:
    _, state = fresh()
    after, _ = update(state, batch_of(8), jax.random.key(1))
    old, new = state.critic.params.encoder, after.critic.params.encoder
    assert min(largest_change(old, new)) > 0
    jax.tree.map(
        lambda a, b, got: np.testing.assert_allclose(got, 0.9 * a + 0.1 * b, atol=1e-6),
        *jax.device_get((old, new, after.target_params.encoder)),
    )


def test_the_actor_does_not_train_the_encoder() -> None:
    _, state = fresh()
    after = updates(state, batch_of(8), jax.random.key(1))
    # The same critic step, another loss of the actor.
    one, other = after["plain"][0], after["imitating"][0]
    assert max(largest_change(one.critic.params, other.critic.params)) == 0
    assert min(largest_change(one.actor.params, other.actor.params)) > 0
    assert "dense_embed" in one.actor.params["params"]  # vectors have one of the actor's own


def test_the_target_critic_sees_through_the_target_encoder() -> None:
    _, state = fresh()
    other = jax.tree.map(lambda x: x + np.float32(0.1), jax.device_get(state.target_params.encoder))
    odd = state.replace(target_params=state.target_params.replace(encoder=other))
    usual, changed = (update(s, batch_of(8), jax.random.key(1))[1] for s in (state, odd))
    assert float(usual["learner/critic_loss"]) != float(changed["learner/critic_loss"])
    # The policy at next_obs looks through the online encoder.
    assert float(usual["learner/entropy"]) == float(changed["learner/entropy"])


# -- crops ---------------------------------------------------------------------------------------


def test_learning_crops_and_acting_does_not() -> None:
    batch = batch_of(8)
    _, state = fresh()
    after = updates(state, batch, jax.random.key(1))
    cropped, whole = after["plain"][1], after["whole"][1]
    assert float(cropped[CRITIC_LOSS]) != float(whole[CRITIC_LOSS])
    act = compiled(SMALL.build(), "act")
    first, second = (
        act(state, batch.obs, jax.random.key(i), deterministic=True).action for i in (0, 1)
    )
    np.testing.assert_array_equal(first, second)


def test_the_same_image_is_cropped_differently_now_and_later() -> None:
    batch = batch_of(16)
    crop = jax.jit(crop_batch, static_argnums=2, static_argnames="cameras")
    same_twice = batch.replace(next_obs=batch.obs)
    cropped = jax.device_get(crop(jax.random.key(0), same_twice, SMALL.crop, cameras=("front",)))
    assert cropped.obs["front"].dtype == jnp.uint8
    assert cropped.obs["front"].shape == batch.obs["front"].shape
    same = np.all(cropped.obs["front"] == cropped.next_obs["front"], axis=(1, 2, 3))
    assert int(same.sum()) < 4  # 1 in 81 by chance
    np.testing.assert_array_equal(cropped.obs["state"], batch.obs["state"])


# -- batches -------------------------------------------------------------------------------------


def test_pixels_of_two_buffers_are_learned_from_together() -> None:
    agent, state = fresh(utd_ratio=2, n_step=3, critic_ensemble_size=4, critic_subsample_size=2)
    buffers = online, demos = ReplayBuffer(12, 2), ReplayBuffer(10, 1)
    steps = [transitions((buffer.capacity_rows, buffer.num_envs)) for buffer in buffers]

    @jax.jit
    def drawn(steps: list[Transition], key: jax.Array) -> Batch:
        stores = []
        for buffer, rows in zip(buffers, steps, strict=True):
            example = jax.tree.map(lambda x: x[0, 0], rows)
            stores.append(buffer.add(buffer.init(example), rows))
        return mix((0.5, 0.5), (online, demos)).sample(stores, key, 16, n_step=3, gamma=0.9)

    batch = drawn(steps, jax.random.key(0))
    assert batch.obs["front"].dtype == jnp.uint8
    after, metrics = jax.jit(agent.update, donate_argnums=0)(state, batch, jax.random.key(1))
    assert int(after.step) == 2 and int(after.skipped) == 0
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_a_high_update_ratio_copies_no_whole_batch_of_images() -> None:
    _, state = fresh()
    agent = dataclasses.replace(SMALL, utd_ratio=4).build()
    jaxpr = jax.make_jaxpr(agent.update)(state, batch_of(16), jax.random.key(1))
    whole = {
        equation.primitive.name
        for equation in jaxpr.eqns
        for out in equation.outvars
        if out.aval.dtype == jnp.uint8 and out.aval.size >= 16 * SIZE * SIZE * 3
    }
    assert whole <= {"reshape"}  # which moves nothing


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"encoder": EncoderConfig(name="smal")}, KeyError, "'smal'. Did you mean 'small'"),
        (
            {"encoder": EncoderConfig(features=0)},
            ValueError,
            "features 0, allowed: at least 1",
        ),
        ({"crop": -1}, ValueError, "crop -1, allowed: at least 0"),
    ],
)
def test_bad_config_is_named(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dataclasses.replace(SMALL, **change).build()


def test_an_image_too_small_is_refused_before_tracing() -> None:
    shapes = {"front": jax.ShapeDtypeStruct((16, 16, 3), jnp.uint8)}
    with pytest.raises(ValueError, match="Image 'front' has 16x16 px, .* at least 28x28"):
        SMALL.build().init(jax.random.key(0), obs_spec_of(shapes), action_spec_of(2))
