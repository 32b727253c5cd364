"""Wrench control: the hand is pushed with the force that is said, and held in what is not said."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.control.wrench import WrenchConfig
from mjx_serl.envs.env import Env, build_env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.egg_flip import EGG_FLIP
from scenes.build import build_scene
from scenes.layouts import pick_cube


@pytest.fixture(scope="module")
def env() -> Env:
    """The egg's task in a narrow room: walls of 10 cm around the start, and of 0.3 rad."""
    control = dataclasses.replace(EGG_FLIP.control, turn_limit=0.3)
    low, high = (0.35, -0.1, 0.3), (0.55, 0.1, 0.5)
    near = dataclasses.replace(EGG_FLIP, control=control, low=low, high=high)
    return build_env(near, name="franka/egg_flip", physics="native")


@pytest.fixture(scope="module")
def pushed(env: Env) -> Any:
    """States after 40 control steps of one action each: the hand leans against walls."""
    actions = jnp.eye(3)

    def push(key: jax.Array, action: jax.Array) -> Any:
        state = env.reset(key)
        begun, _ = jax.lax.scan(lambda s, _: (env.step(s, action), None), state, length=40)
        return state.sim, begun.sim

    return jax.device_get(jax.jit(jax.vmap(push, (None, 0)))(jax.random.key(0), actions))


def tool(env: Env, sim: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Position [m] and rotation of the tool centre in a world."""
    site = env.scene.arm.ee_site_id
    return sim.site_xpos[i, site], sim.site_xmat[i, site].reshape(3, 3)


@pytest.mark.parametrize(("entry", "axis", "newtons"), [(0, 0, 13.0), (1, 2, 12.0)])
def test_a_wall_gives_by_the_force_that_is_said(env: Env, pushed: Any, entry, axis, newtons):
    """At rest the wall's stiffness carries the whole push."""
    high = env.scene.spec.robot.workspace_high[axis]
    position, _ = tool(env, pushed[1], entry)
    # What lies in the pan weighs half a newton.
    weight = 9.81 * EGG_FLIP.mass if axis == 2 else 0.0
    expected = (newtons - weight) / EGG_FLIP.control.stiffness
    assert position[axis] - high == pytest.approx(expected, rel=0.1)


def test_a_torque_turns_about_its_axis_up_to_the_soft_limit(env: Env, pushed: Any):
    _, turned = tool(env, pushed[1], 2)
    pitch = np.arctan2(-turned[2, 0], turned[0, 0])
    control = EGG_FLIP.control
    weight = 9.81 * EGG_FLIP.mass * (EGG_FLIP.reach + EGG_FLIP.pan)
    low, high = 0.3 + 3.5 / control.turn_stiffness, 0.3 + (3.5 + weight) / control.turn_stiffness
    assert low - 2e-3 < pitch < high + 2e-3


def test_what_the_action_does_not_name_stays(env: Env, pushed: Any):
    before, after = pushed
    for entry in range(3):
        (was, _), (now, turned) = tool(env, before, entry), tool(env, after, entry)
        assert abs(now[1] - was[1]) < 1e-3
        # Neither rolled nor yawed.
        assert max(abs(turned[1, 0]), abs(turned[1, 2])) < 5e-3


def test_an_action_is_clipped_and_says_newtons(env: Env):
    state = jax.jit(env.reset)(jax.random.key(1))
    command: Any = env.controller.command(state.command, state.sim, jnp.array([5.0, -0.5, 1.0]))
    np.testing.assert_allclose(command.wrench, [13.0, 0.0, -6.0, 0.0, 3.5, 0.0], rtol=1e-6)
    spec = env.action_spec
    assert (spec.mode, spec.names, spec.scale) == ("wrench", ("fx", "fz", "ty"), (13.0, 12.0, 3.5))


def test_a_wrench_that_cannot_be_is_refused_in_one_line(env: Env):
    with pytest.raises(ValueError, match=r"names \['f'\], allowed: fx, fy, fz, tx, ty, tz"):
        WrenchConfig(wrench=(("f", 1.0),))
    with pytest.raises(ValueError, match="names nothing, allowed: fx"):
        WrenchConfig(wrench=())
    with pytest.raises(ValueError, match="wrench must be positive and finite"):
        WrenchConfig(wrench=(("fx", 0.0),))
    with pytest.raises(ValueError, match="law 'wrench' commands torques; .* take positions"):
        build_controller(EGG_FLIP.control, build_scene(pick_cube()))
    with pytest.raises(ValueError, match="law 'wrench' has no contract with a robot"):
        _ = Observer(env).contract
