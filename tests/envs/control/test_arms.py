"""Two arms under one action: each gets its part, in the frame of its own base."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.control.arms import ArmsConfig, command_of
from mjx_serl.envs.control.controller import ControlConfig
from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.readings import observe_arms
from mjx_serl.tasks.handover import HANDOVER, LEFT, RIGHT
from scenes.bases import Planar
from scenes.build import build_scene
from scenes.layouts import pick_cube, two_arms

BOTH = ((LEFT, ControlConfig()), (RIGHT, ControlConfig()))


@pytest.fixture
def env(make_native: Callable[[str], Env]) -> Env:
    return make_native("dual_franka/handover")


def test_an_action_names_the_arm_before_each_entry(env: Env):
    spec = env.action_spec
    own = ("x", "y", "z", "ry", "gripper")
    assert spec.names == tuple(f"{role}/{name}" for role in (LEFT, RIGHT) for name in own)
    assert spec.scale == (0.04, 0.04, 0.04, 0.2, 1.0) * 2
    assert (spec.mode, spec.rate) == ("ee_delta", 10.0)


def test_each_arm_goes_along_its_own_base_and_leaves_the_other(env: Env):
    """Both towards their own -x is apart: the right one stands turned by half a turn."""
    state = jax.jit(env.reset)(jax.random.key(0))
    step, action = jax.jit(env.step), np.zeros(10, np.float32)
    action[5] = -1.0
    after = step(state, action)
    for name in ("target", "target_quat", "gripper"):
        before, now = (getattr(x.command, name) for x in (state, after))
        np.testing.assert_allclose(now[0], before[0], atol=1e-4)  # a start on the box's edge
    right = after.command.target[1] - state.command.target[1]
    np.testing.assert_allclose(right, [-0.04, 0.0, 0.0], atol=1e-4)
    site = env.scene.arms[RIGHT].ee_site_id
    for _ in range(5):
        after = step(after, np.zeros(10, np.float32))
    moved = np.asarray(after.sim.site_xpos[site] - state.sim.site_xpos[site])
    np.testing.assert_allclose(moved, [0.04, 0.0, 0.0], atol=2e-3)


def test_readings_are_in_the_frame_of_each_base(env: Env):
    """Both begin where the ancestor's do, in numbers of their own bases."""
    obs = jax.device_get(jax.jit(env.reset)(jax.random.key(1)).obs)
    for role, place in zip((LEFT, RIGHT), HANDOVER.starts, strict=True):
        np.testing.assert_allclose(obs[f"{role}/ee_position"], place, atol=2e-4)
        np.testing.assert_allclose(obs[f"{role}/ee_turn"], np.zeros(3), atol=2e-3)
    # The same stick, seen from opposite sides.
    np.testing.assert_allclose(obs["left/stick_rotation6d"], [1, 0, 0, 0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(obs["right/stick_rotation6d"], [-1, 0, 0, 0, -1, 0], atol=1e-5)


def test_an_arm_of_two_is_told_what_it_would_be_told_alone():
    """The turned arm against the same law in a scene where that arm stands at the origin."""
    both, alone = build_scene(two_arms()), build_scene(pick_cube())
    arms = build_controller(ArmsConfig(arms=BOTH), both)
    single = build_controller(ControlConfig(), alone)
    sims = []
    for scene in (both, alone):
        sims.append(_standing(scene))
    two, one = arms.start(sims[0]), single.start(sims[1])
    np.testing.assert_allclose(command_of(two, 1).target, one.target, atol=1e-5)
    action = np.float32([0.5, -1.0, 0.3, 1.0])
    two = arms.pace(arms.command(two, sims[0], jnp.tile(action, 2)), sims[0])
    one = single.pace(single.command(one, sims[1], jnp.asarray(action)), sims[1])
    np.testing.assert_allclose(command_of(two, 1).target, one.target, atol=1e-5)
    expected = np.asarray(single.ctrl(one, sims[1]))[alone.arm.driven_ctrl_ids]
    ctrl = np.asarray(arms.ctrl(two, sims[0]))
    for role in (LEFT, RIGHT):
        np.testing.assert_allclose(ctrl[both.arms[role].driven_ctrl_ids], expected, atol=1e-4)


def _standing(scene: Any) -> Any:
    """The state of a scene in its first keyframe."""
    from mjx_serl.envs.physics.registry import PHYSICS

    home = jnp.asarray(scene.model.key_qpos[0], jnp.float32)
    return PHYSICS["native"](scene.model, 1).reset(home, jnp.zeros(scene.model.nv))[1]


def test_arms_that_do_not_fit_are_refused_in_one_line(env: Env):
    with pytest.raises(ValueError, match=r"rate is \[10.0, 20.0\], allowed: one value for all"):
        ArmsConfig(arms=((LEFT, ControlConfig()), (RIGHT, ControlConfig(rate=20.0))))
    with pytest.raises(ValueError, match="arms right, left, allowed: .* its order: left, right"):
        build_controller(ArmsConfig(arms=BOTH[::-1]), env.scene)
    spec = two_arms()
    moving = (dataclasses.replace(spec.arms[0], base=Planar()), spec.arms[1])
    scene = build_scene(dataclasses.replace(spec, arms=moving))
    with pytest.raises(ValueError, match="Arm 'left' stands on a base that moves, allowed: a fix"):
        build_controller(ArmsConfig(arms=BOTH), scene)
    with pytest.raises(KeyError, match="Unknown arm 'middle'. Allowed: left, right"):
        observe_arms(["middle/ee_lag"], dict.fromkeys((LEFT, RIGHT)))


def test_no_contract_with_a_robot_is_made_up(env: Env):
    observer = Observer(env)
    assert not observer.has_contract
    with pytest.raises(ValueError, match="law 'arms' has no contract with a robot: .* dls or osc"):
        _ = observer.contract
