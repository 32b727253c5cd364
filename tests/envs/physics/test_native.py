"""C MuJoCo as FFI calls: equal to its slow twin and to a plain mj_step loop, bit for bit."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from grasp import grasp_and_lift

from mjx_serl.envs.physics import native_ffi as native
from mjx_serl.envs.physics.native import (
    CallbackPhysics,
    NativePhysics,
    build_native,
    pinned_threads,
)
from scenes.build import Scene

STEPS, SUBSTEPS = 40, 5


def starts(scene: Scene, num: int) -> tuple[jax.Array, jax.Array]:
    """Starts [N, nq] and controls [T, N, nu] of worlds that differ."""
    pairs = [grasp_and_lift(scene, steps=STEPS, seed=i) for i in range(num)]
    return jnp.stack([q for q, _ in pairs]), jnp.stack([u for _, u in pairs], 1)


def roll(physics, qpos: jax.Array, ctrl: jax.Array):
    """Final carries and the SimState after every control step."""

    @jax.jit
    def run(qpos: jax.Array, ctrl: jax.Array):
        qvel = jnp.zeros((len(qpos), physics.model.nv))
        first, sim = jax.vmap(physics.reset)(qpos, qvel)

        def step(carry, u):
            return jax.vmap(lambda c, v: physics.step(c, v, SUBSTEPS))(carry, u)

        last, sims = jax.lax.scan(step, first, ctrl)
        return first, sim, last, sims

    return jax.block_until_ready(run(qpos, ctrl))


def assert_same(a, b) -> None:
    """Every leaf, every bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def physics(panda_scene: Scene) -> NativePhysics:
    return NativePhysics(panda_scene.model)


@pytest.mark.parametrize("num", [1, 7])
def test_equals_the_callback_bit_for_bit(panda_scene: Scene, physics: NativePhysics, num: int):
    inputs = starts(panda_scene, num)
    fast = roll(physics, *inputs)
    assert_same(fast, roll(CallbackPhysics(panda_scene.model), *inputs))
    cube = panda_scene.object("cube").body_id
    assert (fast[3].xpos[-1, :, cube, 2] > 0.1).all(), "the rollout must lift the cube"


@pytest.mark.parametrize("num", [1, 7])
def test_equals_plain_mujoco_in_float64(panda_scene: Scene, physics: NativePhysics, num: int):
    model, state = panda_scene.model, mujoco.mjtState.mjSTATE_INTEGRATION
    qpos, ctrl = starts(panda_scene, num)
    *_, last, sims = roll(physics, qpos, ctrl)
    rows = np.ascontiguousarray(last).view(np.float64)
    for world in range(num):
        data = mujoco.MjData(model)
        data.qpos[:] = qpos[world]
        for u in np.asarray(ctrl[:, world]):
            data.ctrl[:] = u
            for _ in range(SUBSTEPS):
                mujoco.mj_step(model, data)
        expected = np.zeros(mujoco.mj_stateSize(model, state))
        mujoco.mj_getState(model, data, expected, state)
        np.testing.assert_array_equal(rows[world], expected)
        mujoco.mj_kinematics(model, data)
        np.testing.assert_array_equal(sims.xpos[-1, world], data.xpos.astype(np.float32))
        np.testing.assert_array_equal(sims.site_xmat[-1, world], data.site_xmat.astype(np.float32))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_do_not_show(panda_scene: Scene, physics: NativePhysics, num_threads: int):
    inputs = starts(panda_scene, 7)
    other = NativePhysics(panda_scene.model, num_threads=num_threads)
    assert_same(roll(physics, *inputs), roll(other, *inputs))


@pytest.mark.parametrize(("usable", "threads"), [(8, 0), (3, 3), (600, 255)])
def test_a_process_on_some_processors_takes_no_more_threads(
    monkeypatch: pytest.MonkeyPatch, usable: int, threads: int
):
    monkeypatch.setattr(os, "cpu_count", lambda: 1024 if usable > 8 else 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    assert pinned_threads() == threads


def test_a_call_leaves_nothing_behind(panda_scene: Scene, physics: NativePhysics):
    """Other worlds stepped in between, in the same batch, do not change what a carry becomes."""
    qpos, ctrl = starts(panda_scene, 7)
    first = roll(physics, qpos, ctrl)
    roll(physics, qpos[::-1] + 0.01, ctrl[::-1])
    assert_same(first, roll(physics, qpos, ctrl))


def test_worlds_do_not_see_each_other(panda_scene: Scene, physics: NativePhysics):
    qpos, ctrl = starts(panda_scene, 7)
    _, _, together, _ = roll(physics, qpos, ctrl)
    _, _, alone, _ = roll(physics, qpos[3:4], ctrl[:, 3:4])
    np.testing.assert_array_equal(together[3], alone[0])


def test_reset_state_is_current(panda_scene: Scene, physics: NativePhysics):
    qpos, _ = grasp_and_lift(panda_scene, steps=1)
    _, sim = jax.jit(physics.reset)(qpos, jnp.full(physics.model.nv, 0.5))
    data = mujoco.MjData(physics.model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(physics.model, data)
    np.testing.assert_array_equal(sim.xquat, data.xquat.astype(np.float32))
    assert float(sim.time) == 0.0
    assert (sim.qvel == 0.5).all()
    assert (sim.ctrl == 0.0).all()


def test_a_reset_feels_nothing_of_other_worlds():
    """Touch is read in a step only; a thread's last world pressed on the floor."""
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><geom type="plane" size="1 1 .1"/>
        <body pos="0 0 .049"><freejoint/><geom size=".05" mass="1"/><site name="s" size=".06"/>
        </body></worldbody><sensor><touch site="s"/></sensor></mujoco>"""
    )
    physics = NativePhysics(model, num_threads=1)
    qpos, qvel = jnp.asarray(model.qpos0, jnp.float32), jnp.zeros(model.nv)
    carry, _ = jax.jit(physics.reset)(qpos, qvel)
    _, pressed = jax.jit(lambda c: physics.step(c, jnp.zeros(0), 1))(carry)
    _, fresh = jax.jit(physics.reset)(qpos, qvel)
    assert float(pressed.sensordata[0]) > 1.0
    assert float(fresh.sensordata[0]) == 0.0


@pytest.mark.parametrize("kind", [NativePhysics, CallbackPhysics])
def test_non_finite_worlds_are_noted_nowhere(
    panda_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, kind
):
    """MuJoCo would print a line for each and append it to MUJOCO_LOG.TXT in the working folder."""
    monkeypatch.chdir(tmp_path)
    qpos, ctrl = starts(panda_scene, 7)
    physics = kind(panda_scene.model)
    roll(physics, qpos, ctrl[:2].at[:, 1::2].set(jnp.nan))
    roll(physics, qpos.at[::2, 0].set(jnp.nan), ctrl[:2])
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    # What the user steps is still told.
    data = mujoco.MjData(panda_scene.model)
    data.qpos[0] = np.nan
    mujoco.mj_step(panda_scene.model, data)
    assert "Nan, Inf or huge value in QPOS" in (tmp_path / "MUJOCO_LOG.TXT").read_text()


def test_without_a_compiler_the_callback_serves(panda_scene: Scene, monkeypatch):
    def refuse(*_: object, **__: object) -> int:
        raise native.NativeBuildError("no C++ compiler: physics goes through a callback")

    monkeypatch.setattr(native, "register_model", refuse)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler"):
        physics = build_native(panda_scene.model)
    assert isinstance(physics, CallbackPhysics)


def test_a_world_that_is_paused_stays_and_the_others_go_on(
    panda_scene: Scene, physics: NativePhysics
):
    qpos, ctrl = starts(panda_scene, 7)
    running = jnp.arange(7) % 2 == 0
    first, _ = jax.vmap(physics.reset)(qpos, jnp.zeros((7, physics.model.nv)))
    step = jax.jit(jax.vmap(lambda c, u: physics.step(c, u, SUBSTEPS)))
    some = jax.jit(jax.vmap(lambda c, u, r: physics.step(c, u, SUBSTEPS, r)))
    all_of_them, paused = step(first, ctrl[0]), some(first, ctrl[0], running)
    assert_same(*(jax.tree.map(lambda x: x[running], found) for found in (all_of_them, paused)))
    still = np.ascontiguousarray(paused[0]).view(np.float64)[1::2]
    begun = np.ascontiguousarray(first).view(np.float64)[1::2]
    # The controls are written, and no time passes.
    assert (still != begun).sum() <= still.shape[0] * ctrl.shape[-1]
    assert (np.asarray(paused[1].time)[1::2] == 0.0).all() and (paused[1].qvel[1::2] == 0.0).all()
    assert (np.asarray(all_of_them[1].time) > 0.0).all()
