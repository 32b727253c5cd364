"""The legs stand and walk as they are told, and the arm's target goes with them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.control.legged import HIGHEST, LOWEST, LeggedArm, into
from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.env import Env, EnvState, vary
from mjx_serl.envs.randomize import Delay, Latency
from scenes.build import Scene

STEPS = 30
FACING = jnp.array([0.0, 0.0, 0.3454, 1.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def env(make_native: Callable[[str], Env]) -> Env:
    return make_native("go2_piper/pick")


@functools.cache
def program(env: Env) -> Callable[[jax.Array], tuple[EnvState, EnvState]]:
    """A dog two metres before the stand that does one thing for three seconds."""

    @jax.jit
    def play(action: jax.Array) -> tuple[EnvState, EnvState]:
        def act(state: EnvState, _: None) -> tuple[EnvState, EnvState]:
            state = env.step(state, jnp.append(jnp.zeros(4), action))
            return state, state

        state = env.reset(jax.random.key(0))
        qpos = state.sim.qpos.at[env.scene.arm.base_qpos_ids[:7]].set(FACING.at[0].add(-2.0))
        carry, sim = env.physics.reset(qpos, jnp.zeros(env.scene.model.nv))
        state = state.replace(carry=carry, sim=sim, command=env.controller.start(sim))
        return state, jax.lax.scan(act, state, None, length=STEPS)[1]

    return play


def walked(env: Env, *action: float) -> list[EnvState]:
    """Its states: at the start, and after each action."""
    first, rest = jax.device_get(program(env)(jnp.array(action)))
    return [first, *(jax.tree.map(lambda x, i=i: x[i], rest) for i in range(STEPS))]


def base(env: Env, state: EnvState) -> np.ndarray:
    assert isinstance(env.controller, LeggedArm)
    return np.asarray(env.controller.heading(state.sim))


def test_the_trot_bends_legs_to_where_its_feet_are_to_be(env: Env):
    assert isinstance(env.controller, LeggedArm)
    trot, model = env.controller.trot, env.scene.model
    data = mujoco.MjData(model)
    for time, walk in ((0.0, (0.0, 0.0, 0.0)), (0.13, (0.25, -0.1, 0.4)), (0.31, (-0.2, 0.1, 0.0))):
        feet, _ = trot._feet(jnp.float32(time), jnp.array(walk), jnp.float32(0.26))
        q, _ = trot._bend(feet)
        data.qpos[3] = 1.0
        data.qpos[env.scene.arm.base_qpos_ids[7:]] = np.asarray(q).reshape(-1)
        mujoco.mj_kinematics(model, data)
        for i, leg in enumerate(("FL", "FR", "RL", "RR")):
            found = data.geom(f"{leg}_foot").xpos - data.body(f"{leg}_hip").xpos
            # The foot's middle is 2 mm behind the end of the calf.
            np.testing.assert_allclose(found, feet[i], atol=2.5e-3)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_it_stands_still_and_level_at_the_height_it_is_told(env: Env, sign: float):
    states = walked(env, 0.0, 0.0, 0.0, sign)
    last = states[-1]
    assert float(last.command.height) == pytest.approx(HIGHEST if sign > 0 else LOWEST)
    trunk = env.scene.model.body("trunk").id
    assert float(last.sim.xpos[trunk, 2]) == pytest.approx(float(last.command.height), abs=0.015)
    assert np.abs(base(env, last) - base(env, states[0]))[1:].max() < 0.02
    assert float(last.obs["base_up"][2]) > 0.999


@pytest.mark.parametrize(
    ("action", "ahead", "left", "turn"),
    [
        ((1.0, 0.0, 0.0), 0.25, 0.0, 0.0),
        ((0.0, 1.0, 0.0), 0.0, 0.15, 0.0),
        ((0.0, 0.0, 1.0), 0.0, 0.0, 0.5),
        ((-0.6, 0.0, 0.0), -0.15, 0.0, 0.0),
    ],
)
def test_it_walks_as_it_is_told(env: Env, action, ahead: float, left: float, turn: float):
    states = walked(env, *action, 0.0)
    half, last = base(env, states[15]), base(env, states[-1])
    moved = np.append(into(half, np.append(last[:2], 0.0))[:2], last[2] - half[2]) / 1.5
    for got, wanted, tolerance in zip(moved, (ahead, left, turn), (0.07, 0.07, 0.15), strict=True):
        assert got == pytest.approx(wanted, abs=tolerance)
    assert min(float(state.obs["base_up"][2]) for state in states) > 0.98
    assert not any(state.terminated for state in states)


def test_a_slow_wish_is_none(env: Env):
    states = walked(env, 0.15, 0.0, 0.0, 0.0)
    assert float(jnp.abs(states[-1].command.walk).max()) == 0.0


def test_the_tools_target_goes_along_and_the_tool_with_it(env: Env):
    states = walked(env, 0, 0, 1, 0.0)
    begin, end = (
        (s.command, into(s.command.seen, s.command.target)) for s in (states[0], states[-1])
    )
    np.testing.assert_allclose(end[1], begin[1], atol=1e-4)
    turned = float(end[0].seen[2] - begin[0].seen[2])
    assert turned > 1.0
    target, start = (c.target_quat for c in (end[0], begin[0]))
    half = 2 * np.arccos(min(1.0, abs(float(np.dot(target, start)))))
    assert half == pytest.approx(turned, abs=0.02)
    lag = states[-1].sim.site_xpos[env.scene.arm.ee_site_id] - end[0].target
    assert np.linalg.norm(lag) < 0.03


def test_it_walks_and_sees_the_same_where_commands_come_late(env: Env):
    """The commands of a delay's arm go along with the base, and its legs get faster."""
    late = vary(env, terms=(), latency=Latency(action=Delay(low=0.0, high=0.0)))
    states = [env.reset(jax.random.key(0)), late.reset(jax.random.key(0))]
    steps, action = (
        (jax.jit(env.step), jax.jit(late.step)),
        jnp.zeros(8).at[jnp.array([4, 6])].set(1),
    )
    for _ in range(8):
        states = [step(state, action) for step, state in zip(steps, states, strict=True)]
    plain, delayed = states
    assert float(delayed.command.walk[0]) == pytest.approx(0.25)
    for name, seen in plain.obs.items():
        np.testing.assert_allclose(delayed.obs[name], seen, atol=1e-3, err_msg=name)


def test_an_arm_that_does_not_walk_is_refused(panda_scene: Scene, env: Env):
    with pytest.raises(ValueError, match=r"'legged': .*on a Fixed, .*allowed: Legged, with four"):
        build_controller(env.task.control, panda_scene)
