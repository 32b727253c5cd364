"""Every objective against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.agents import objectives

NEXT_Q = jnp.array([[2.0, 5.0, 1.0], [3.0, 4.0, 9.0]])
REWARD = jnp.array([1.0, 0.0, -1.0])
DONE = jnp.array([False, False, True])


def test_critic_target_takes_the_least_member_and_stops_at_termination() -> None:
    target = objectives.critic_target(REWARD, DONE, NEXT_Q, 0.5)
    np.testing.assert_allclose(target, [1 + 0.5 * 2, 0.5 * 4, -1.0])


def test_critic_target_discounts_the_entropy_bonus_and_masks_it() -> None:
    bonus = -0.1 * jnp.array([2.0, -4.0, 100.0])
    target = objectives.critic_target(REWARD, DONE, NEXT_Q, 0.5, entropy_bonus=bonus)
    np.testing.assert_allclose(target, [1 + 0.5 * 1.8, 0.5 * 4.4, -1.0], rtol=1e-6)


def test_a_terminated_row_ignores_a_non_finite_successor() -> None:
    target = objectives.critic_target(REWARD, DONE, NEXT_Q.at[:, 2].set(jnp.nan), 0.5)
    assert float(target[2]) == -1.0


def test_critic_loss_is_the_mean_over_members_and_batch_with_target_fixed() -> None:
    q, y = jnp.array([[1.0, 2.0], [4.0, 0.0]]), jnp.array([2.0, 0.0])
    assert float(objectives.critic_loss(q, y)) == pytest.approx((1 + 4 + 4 + 0) / 4)
    np.testing.assert_allclose(jax.grad(objectives.critic_loss)(q, y), (q - y) / 2)
    np.testing.assert_allclose(jax.grad(objectives.critic_loss, argnums=1)(q, y), 0.0)


@pytest.mark.parametrize("reduce, value", [("mean", (2.5 + 4.5) / 2), ("min", (2.0 + 4.0) / 2)])
def test_actor_loss_weighs_entropy_against_q(reduce: str, value: float) -> None:
    log_prob = jnp.array([1.0, -3.0])
    loss = objectives.actor_loss(NEXT_Q[:, :2], log_prob, jnp.float32(0.2), reduce=reduce)
    assert float(loss) == pytest.approx(0.2 * -1.0 - value)
    slope = jax.grad(objectives.actor_loss, argnums=2)(NEXT_Q[:, :2], log_prob, jnp.float32(0.2))
    assert float(slope) == 0.0  # the temperature has a loss of its own


def test_temperature_starts_where_it_is_told() -> None:
    theta = objectives.initial_log_temperature(0.01)
    assert theta == pytest.approx(-4.600166, abs=1e-5)  # log(e^0.01 - 1)
    assert float(objectives.temperature_of(jnp.float32(theta))) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("entropy, sign", [(-3.0, -1.0), (-1.0, 1.0)])
def test_temperature_grows_while_entropy_is_below_target(entropy: float, sign: float) -> None:
    slope = jax.grad(objectives.temperature_loss)(jnp.float32(0.0), jnp.float32(entropy), -2.0)
    assert float(slope) == pytest.approx(0.5 * sign)  # softplus'(0) = 1/2; Adam steps against it
    loss = objectives.temperature_loss(jnp.float32(0.0), jnp.float32(entropy), -2.0)
    assert float(loss) == pytest.approx(np.log(2.0) * sign)


def test_imitation_is_the_mean_error_of_the_experts_samples() -> None:
    action = jnp.array([[0.5, 0.0], [0.0, 0.0], [1.0, -1.0]])
    wanted = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    # |.|^2 is 0.25, 2 and 2; the second sample is no expert's.
    loss = objectives.imitation_loss(action, wanted, jnp.array([True, False, True]))
    assert loss == pytest.approx((0.25 + 2.0) / 2)
    assert objectives.imitation_loss(action, wanted, jnp.zeros(3, bool)) == 0.0


def test_likelihood_is_the_mean_of_the_experts_samples() -> None:
    log_prob = jnp.array([-1.0, -7.0, 3.0])
    loss = objectives.likelihood_loss(log_prob, jnp.array([True, False, True]))
    assert float(loss) == pytest.approx(-(-1.0 + 3.0) / 2)
    assert objectives.likelihood_loss(log_prob, jnp.zeros(3, bool)) == 0.0


def test_a_choice_is_made_by_one_network_and_valued_by_the_other() -> None:
    online = jnp.array([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    held = jnp.array([[7.0, 3.0, 8.0], [4.0, 9.0, 9.0], [0.0, 0.0, jnp.nan]])
    target = objectives.double_dqn_target(REWARD, DONE, online, held, 0.5)
    np.testing.assert_allclose(target, [1 + 0.5 * 3, 0.5 * 4, -1.0])
