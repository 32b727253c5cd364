"""Worlds that differ in entries of the model: native, its slow twin and MJX do the same."""

import importlib.util

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.physics.constants import make_constants
from mjx_serl.envs.physics.entries import ModelEntries
from mjx_serl.envs.physics.mjx import MjxPhysics
from mjx_serl.envs.physics.native import CallbackPhysics, NativePhysics
from scenes.build import Scene, build_scene
from scenes.contract.errors import InputError

# A ball that slides on a plane until it rolls, and an arm of one hinge with a position actuator and
# a limit: nothing that tumbles, which float32 would do otherwise.
MODEL = """
<mujoco><option timestep="0.005" integrator="implicitfast"/><worldbody>
  <geom name="floor" type="plane" size="2 2 .1"/>
  <body name="ball" pos="0 0 .05"><freejoint/>
    <geom name="ball" type="sphere" size=".05" mass=".5" friction=".5"/></body>
  <body pos="0 0 2"><joint name="hinge" axis="0 1 0" damping=".5" armature=".1" frictionloss=".05"
      actuatorfrcrange="-3 3"/>
    <geom name="rod" type="capsule" size=".02" fromto="0 0 0 .4 0 0" mass="1"
      contype="0" conaffinity="0"/></body>
</worldbody><actuator><position joint="hinge" kp="20" kv="2"/></actuator></mujoco>
"""
ENTRIES = ModelEntries(
    (
        ("actuator_biasprm", (1, 2)),
        ("actuator_gainprm", (0,)),
        ("body_inertia", (3, 4, 5)),
        ("body_mass", (1,)),
        ("dof_armature", (6,)),
        ("dof_damping", (6,)),
        ("dof_frictionloss", (6,)),
        ("geom_friction", (0, 3)),
        ("jnt_actfrcrange", (2, 3)),
    )
)
WORLDS, STEPS, SUBSTEPS = 3, 20, 5


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(MODEL)


@pytest.fixture(scope="module")
def values(model: mujoco.MjModel) -> jax.Array:
    """The model's own, and two worlds that differ in every entry."""
    nominal = ENTRIES.nominal(model)
    scales = np.random.default_rng(0).uniform(0.6, 1.6, (WORLDS, ENTRIES.size))
    scales[0] = 1.0
    return jnp.asarray(nominal * scales, jnp.float32)


def roll(model: mujoco.MjModel, physics, values: jax.Array) -> np.ndarray:
    """qpos [T, N, nq] of a ball that is pushed off and an arm that is told to lift."""
    qvel = jnp.zeros(model.nv).at[0].set(1.5)
    start = jnp.broadcast_to(jnp.asarray(model.qpos0, jnp.float32), (WORLDS, model.nq))
    ctrl = jnp.full((WORLDS, 1), -0.8)

    @jax.jit
    def run(values):
        first, _ = jax.vmap(physics.reset, (0, None, 0))(start, qvel, values)

        def step(carry, _):
            stepped, sim = jax.vmap(lambda c, u: physics.step(c, u, SUBSTEPS))(carry, ctrl)
            return stepped, sim.qpos

        return jax.lax.scan(step, first, None, length=STEPS)[1]

    return np.asarray(run(values))


@pytest.fixture(scope="module")
def native(model: mujoco.MjModel, values: jax.Array) -> np.ndarray:
    return roll(model, NativePhysics(model).varied(ENTRIES), values)


def test_worlds_differ_and_the_nominal_one_is_the_model_itself(model, values, native):
    assert np.abs(native[-1, 1] - native[-1, 0]).max() > 0.01
    assert np.abs(native[-1, 2] - native[-1, 1]).max() > 0.01
    data = mujoco.MjData(model)
    data.qvel[0], data.ctrl[0] = 1.5, np.float32(-0.8)
    for wanted in native[:, 0]:
        mujoco.mj_step(model, data, SUBSTEPS)
        np.testing.assert_allclose(data.qpos, wanted, atol=1e-6)


def test_the_callback_does_the_same_to_the_last_bit(model, values, native):
    slow = roll(model, CallbackPhysics(model).varied(ENTRIES), values)
    np.testing.assert_array_equal(slow, native)


def test_worlds_keep_their_values_whatever_was_stepped_before(model, values, native):
    """A batch remembers what it wrote last; other values in between must not stay."""
    physics = NativePhysics(model).varied(ENTRIES)
    other = roll(model, physics, values[::-1])
    np.testing.assert_array_equal(other[:, ::-1], native)
    np.testing.assert_array_equal(roll(model, physics, values), native)


def test_mjx_agrees_in_randomised_worlds(model, values, native):
    """Masses, inertias and armatures change constants that MJX does not derive itself."""
    found = roll(model, MjxPhysics(model).varied(ENTRIES), values)
    np.testing.assert_allclose(found, native, atol=2e-5)


def test_constants_are_those_that_mujoco_derives(panda_scene: Scene):
    model = build_scene(panda_scene.spec).model  # of its own: it is changed
    rng = np.random.default_rng(1)
    fields = {
        name: getattr(model, name) * rng.uniform(0.5, 2.0, getattr(model, name).shape)
        for name in ("body_mass", "body_inertia", "dof_armature")
    }
    found = make_constants(model)({k: jnp.asarray(v, jnp.float32) for k, v in fields.items()})
    for name, value in fields.items():
        getattr(model, name)[:] = value
    mujoco.mj_setConst(model, mujoco.MjData(model))
    for name, value in found.items():
        np.testing.assert_allclose(value, getattr(model, name), rtol=1e-5, err_msg=name)


@pytest.mark.skipif(importlib.util.find_spec("warp") is None, reason="warp-lang is not installed")
def test_warp_refuses_in_one_line(model: mujoco.MjModel):
    with pytest.raises(InputError, match="allowed: mjx, native") as error:
        MjxPhysics(model, impl="warp").varied(ENTRIES)
    assert "\n" not in str(error.value)


def test_a_world_that_is_paused_keeps_its_values(model: mujoco.MjModel, values: jax.Array):
    physics = NativePhysics(model).varied(ENTRIES)
    start = jnp.broadcast_to(jnp.asarray(model.qpos0, jnp.float32), (WORLDS, model.nq))
    qvel = jnp.zeros(model.nv).at[0].set(1.5)
    first, _ = jax.vmap(physics.reset, (0, None, 0))(start, qvel, values)
    ctrl, running = jnp.full((WORLDS, 1), -0.8), jnp.array([True, False, True])
    plain, every = jax.vmap(lambda c, u: physics.step(c, u, SUBSTEPS))(first, ctrl)
    carry, sim = jax.vmap(lambda c, u, r: physics.step(c, u, SUBSTEPS, r))(first, ctrl, running)
    np.testing.assert_array_equal(carry.values, values)
    np.testing.assert_array_equal(carry.carry[::2], plain.carry[::2])
    np.testing.assert_array_equal(sim.qpos[::2], every.qpos[::2])
    np.testing.assert_array_equal(sim.qpos[1], start[1])
