"""Intervals of a robot fit as what worlds draw: gains, losses, payload, delay."""

import dataclasses

import jax
import numpy as np
import pytest
from robot_fits import make_fit, value

from mjx_serl.config import TrainConfig
from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.fit_variation import fit_latency, fit_terms
from mjx_serl.envs.randomize import ON_TIME, Delay, Latency
from scenes.fitted import fitted_scene

TASK = "franka/pick_cube"
WORLDS = 4


@pytest.fixture(scope="module")
def fitted() -> Env:
    fit = make_fit()
    return make_env(
        TASK, physics="native", max_worlds=WORLDS, scene=lambda s: fitted_scene(s, fit), fit=fit
    )


def test_each_fitted_value_is_drawn_from_its_interval_and_no_other(fitted: Env):
    terms = {(t.field, *t.selector): (t.operation, t.range) for t in fit_terms_of(fitted)}
    assert terms == {
        ("gain", "joint2"): ("abs", pytest.approx((3600.0, 4400.0))),
        ("frictionloss", "joint1"): ("abs", pytest.approx((0.45, 0.55))),
        ("mass", "payload"): ("abs", pytest.approx((0.27, 0.33))),
    }


def fit_terms_of(env: Env):
    return fit_terms(env.scene, make_fit())


def test_worlds_have_those_numbers_and_the_damping_follows_the_stiffness(fitted: Env):
    worlds = jax.jit(jax.vmap(fitted.reset))(jax.random.split(jax.random.key(0), WORLDS))
    numbers = np.asarray(worlds.varied.drawn.numbers)
    # Gain, friction loss, payload, then the delay of actions [s].
    low, high = np.array([3600, 0.45, 0.27, 0.027]), np.array([4400, 0.55, 0.33, 0.033])
    assert numbers.shape == (WORLDS, 4)
    assert ((numbers >= low - 1e-4) & (numbers <= high + 1e-4)).all()
    assert (np.ptp(numbers, axis=0) > 0).all()


def test_the_delay_takes_the_place_of_the_task_s_own():
    found = fit_latency(Latency(action=Delay(high=0.5), pictures=Delay(high=0.1)), make_fit())
    assert (found.action.low, found.action.high) == pytest.approx((0.027, 0.033))
    assert found.pictures == Delay(high=0.1)
    assert fit_latency(ON_TIME, make_fit(value("payload", "", 0.3))) == ON_TIME


def test_what_the_task_set_itself_does_not_vary():
    # Insertions are soft: their gains are not the fitted ones, a payload is.
    fit = make_fit(sim_dt=0.0025)
    env = make_env("franka/peg_insertion", scene=lambda s: fitted_scene(s, fit))
    assert [t.field for t in fit_terms(env.scene, fit)] == ["frictionloss", "mass"]


def test_it_is_of_a_fit():
    with pytest.raises(ValueError, match="allowed: with --robot-fit FILE"):
        dataclasses.replace(TrainConfig(), robot_fit_varies=True).check()
