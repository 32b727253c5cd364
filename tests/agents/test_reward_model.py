"""VICE: its regularisers by hand, its goals, and that it learns (serl_family.md 7, 12)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mjx_serl.agents.reward_model import (
    ViceConfig,
    ViceState,
    goals_of,
    gradient_penalty,
    mix_up,
    smooth,
    unpaid,
)
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.types import Batch, Transition
from scenes.contract.specs import ObsField, ObsSpec

X = ObsSpec(fields=(ObsField(name="x", shape=(2,)), ObsField(name="other", shape=(1,))))


def rows(valid: np.ndarray, **fields: Any) -> Transition:
    """Demonstrations [T, M] that observe the number of each row."""
    no, number = np.zeros(valid.shape, bool), np.arange(valid.size).reshape(valid.shape)
    obs = {"x": np.stack([number, -number], -1).astype(np.float32)}
    base: dict[str, Any] = {"reward": no.astype(np.float32), "terminated": no, "truncated": no}
    return Transition(obs=obs, action=number, valid=valid, expert=no, **(base | fields))


def test_labels_are_smoothed():
    np.testing.assert_allclose(smooth(jnp.array([0.0, 1.0])), [0.1, 0.9], rtol=1e-6)


def test_a_mixture_has_one_share_of_each_row_and_the_rest_of_another():
    features, target = jnp.arange(8.0)[:, None] * jnp.ones(3), jnp.arange(8.0)
    mixed, other, share = mix_up(jax.random.key(1), features, target)
    np.testing.assert_array_equal(np.sort(other), target)
    expected = share * target + (1 - share) * other
    np.testing.assert_allclose(mixed, expected[:, None] * np.ones(3), rtol=1e-5)
    shares = [float(mix_up(jax.random.key(k), features, target)[2]) for k in range(200)]
    np.testing.assert_allclose([np.mean(shares), np.std(shares)], [0.5, 12**-0.5], atol=0.05)


def test_the_penalty_is_the_distance_of_the_gradients_norm_from_one():
    """Logit 3 a + 4 b has gradient (3, 4), norm 5 and penalty 16, wherever it is asked."""
    features = jnp.arange(12.0).reshape(6, 2)
    linear: Any = lambda x: x @ jnp.array([3.0, 4.0])  # noqa: E731
    penalty, norm = gradient_penalty(linear, features, jax.random.key(0))
    np.testing.assert_allclose([penalty, norm], [16.0, 5.0], rtol=1e-5)
    # a^2 / 2 has gradient a: between 1 and 3 it is what the share makes it.
    square: Any = lambda x: 0.5 * jnp.square(x).sum(-1)  # noqa: E731
    _, norm = gradient_penalty(square, jnp.array([[1.0], [3.0]]), jax.random.key(0))
    share = jax.random.uniform(jax.random.key(0), (1, 1))[0, 0]
    np.testing.assert_allclose(norm, share * 1.0 + (1 - share) * 3.0, rtol=1e-5)


def test_goals_are_the_last_states_of_each_demonstration():
    """Five steps of three episodes, of 5, 3 and 1."""
    valid = np.arange(5)[:, None] < np.array([5, 3, 1])
    goals = goals_of(rows(valid), 2)["x"][:, 0]
    np.testing.assert_array_equal(np.asarray(goals).reshape(2, 3), [[12, 7, 2], [9, 4, 2]])


def test_what_demonstrations_were_paid_is_forgotten():
    valid = np.ones((1, 3), bool)
    ended, paid = np.array([[True, True, False]]), np.array([[1.0, 0.0, 1.0]])
    found = unpaid(rows(valid, terminated=ended, reward=paid))
    np.testing.assert_array_equal(found.terminated, [[False, True, False]])
    np.testing.assert_array_equal(found.truncated, [[True, False, False]])


def batch_of(x: np.ndarray, terminated: np.ndarray) -> Batch:
    obs = {"x": jnp.asarray(x, jnp.float32), "other": jnp.zeros((len(x), 1))}
    nothing: Any = jnp.zeros(len(x))
    return Batch(obs, nothing, nothing, jnp.asarray(terminated), nothing, obs)


def test_it_learns_to_tell_goals_from_what_is_visited():
    """Goals lie about (2, 2), the agent about the origin; where a return ended nothing is paid."""
    vice = ViceConfig(updates=1, batch_size=64, lr=3e-3, hidden=16).build(X, ["x"])
    assert vice is not None and vice.obs.names == ("x",)
    demos = rows(np.ones((4, 5), bool))
    near = 2.0 + 0.3 * np.random.default_rng(0).normal(size=(4, 5, 2))
    demos = demos.replace(obs={"x": near.astype(np.float32), "other": np.zeros((4, 5, 1))})

    @jax.jit
    def learn(key: jax.Array) -> tuple[ViceState, dict]:
        def step(state: ViceState, key: jax.Array) -> tuple[ViceState, dict]:
            k_visited, k_learn = jax.random.split(key)
            visited = {"x": 0.3 * jax.random.normal(k_visited, (32, 2)), "other": jnp.ones((32, 1))}
            return vice.update(state, visited, k_learn)

        return jax.lax.scan(step, vice.init(key, demos), jax.random.split(key, 300))

    state, metrics = learn(jax.random.key(0))
    assert set(state.goals) == {"x"}
    tested = batch_of(
        np.array([[2, 2], [1.8, 2.1], [0, 0], [0.3, -0.2], [2, 2]]), np.arange(5) == 4
    )
    np.testing.assert_array_equal(vice.reward(state, tested), [1, 1, 0, 0, 0])
    assert np.mean(metrics["vice/loss"][-50:]) < np.mean(metrics["vice/loss"][:20])
    assert 0.3 < np.mean(metrics["vice/gradient_norm"][-50:]) < 1.7


@pytest.mark.parametrize("name", ["small", "serl_small"])
def test_it_can_be_built_and_updated_with_an_encoder_that_it_trains(name: str):
    """SERL's factory fails on every encoder, and its loss leaves the encoder as it was drawn."""
    spec = ObsSpec(fields=(ObsField(name="eye", shape=(32, 32, 3), dtype="uint8"), *X.fields))
    cfg = ViceConfig(
        updates=1, batch_size=4, encoder=EncoderConfig(name=name, features=4), hidden=4
    )
    vice = cfg.build(spec, ["eye"])
    assert vice is not None
    draw = np.random.default_rng(0)
    seen = {"eye": draw.integers(0, 256, (2, 32, 32, 3), np.uint8)}
    demos = rows(np.ones((1, 2), bool)).replace(obs={"eye": seen["eye"][None] // 2})

    @jax.jit
    def once(key: jax.Array) -> tuple[ViceState, ViceState]:
        first = vice.init(key, demos)
        return first, vice.update(first, seen, key)[0]

    first, after = jax.device_get(once(jax.random.key(0)))
    moved = optax.tree.sub(after.net.params, first.net.params)
    for part in ("encoder", "head"):
        assert any(np.any(x) for x in jax.tree.leaves(moved[part]))


def test_it_is_off_unless_it_is_asked_for():
    assert ViceConfig().build(X, ["x"]) is None
