"""A goal without a body of the physics: drawn, observed and moved by the task."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from flax import struct
from foreign_arms import mjcf, six
from jaxtyping import Array, Float
from two_joints import TwoJoints

from mjx_serl.envs.env import Env, EnvState, build_env
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.run.simulated_arm import SimulatedArm
from mjx_serl.tasks.pick_cube import OBS, SPARSE, PickCube, PickState
from scenes import layouts
from scenes.build import build_scene
from scenes.contract.rotations import UNIT_QUAT
from scenes.contract.specs import ObsField, ObsSpec
from scenes.shapes import Cylinder, MarkerMount, Sphere
from scenes.specs import ObjectSpec

BLUE = (0.05, 0.1, 0.95, 1.0)
GOAL = ObjectSpec(
    name="goal", shape=Sphere(0.04), mount=MarkerMount(), rgba=BLUE, pos=(0.5, 0.0, 0.04)
)
SPEC = ObsSpec(
    fields=(
        ObsField(name="goal_position", shape=(3,), unit="m"),
        *(f for f in OBS.fields if f.name != "joint_velocity"),
    )
)


@struct.dataclass
class GoalState(PickState):
    """Where the goal is [m]."""

    goal: Float[Array, " 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReachGoal(TwoJoints):
    """Two joints and a goal that is elsewhere in every episode."""

    def scene(self):
        scene = super().scene()
        front = layouts.front_camera()
        return dataclasses.replace(scene, objects=(*scene.objects, GOAL), cameras=(front,))

    def build(self, scene):
        return Reach(config=self, scene=scene, obs_spec=SPEC)


class Reach(PickCube):
    """The goal rises by 1 cm in every step; its name can be changed to a wrong one."""

    marker = "goal"

    def sample(self, key):
        k_cube, k_goal = jax.random.split(key)
        qpos, state = super().sample(k_cube)
        low, high = jnp.array([0.3, -0.3, 0.05]), jnp.array([0.7, 0.3, 0.3])
        goal = jax.random.uniform(k_goal, (3,), minval=low, maxval=high)
        return qpos, GoalState(start_height=state.start_height, goal=goal)

    def resume(self, sim, last, key):
        return self.sample(key)[1]

    def advance(self, sim, command, task_state):
        return task_state.replace(goal=task_state.goal + jnp.array([0.0, 0.0, 0.01]))

    def markers(self, sim, task_state):
        return {self.marker: (task_state.goal, jnp.array(UNIT_QUAT))}


@pytest.fixture(scope="module")
def env() -> Env:
    fields = {field.name: getattr(SPARSE, field.name) for field in dataclasses.fields(SPARSE)}
    return build_env(ReachGoal(**fields | {"home": (0.0, 0.0)}), name="reach", physics="native")


@pytest.fixture(scope="module")
def started(env: Env) -> EnvState:
    """Two worlds with a goal each."""
    return jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2))


def test_the_goal_is_observed_where_the_task_put_it_and_follows(env: Env, started: EnvState):
    body = env.scene.marker("goal").body_id
    for state in (started, jax.jit(jax.vmap(env.step))(started, jnp.zeros((2, env.action_dim)))):
        np.testing.assert_array_equal(state.obs["goal_position"], state.task_state.goal)
        np.testing.assert_array_equal(state.sim.xpos[:, body], state.task_state.goal)
        np.testing.assert_array_equal(state.sim.xquat[:, body], np.tile(UNIT_QUAT, (2, 1)))
    assert np.abs(np.subtract(*started.obs["goal_position"])).max() > 0.05
    np.testing.assert_allclose(
        state.obs["goal_position"] - started.obs["goal_position"], [[0, 0, 0.01]] * 2, atol=1e-6
    )
    again = jax.jit(jax.vmap(env.carry_on))(state, jax.random.split(jax.random.key(1), 2))
    np.testing.assert_array_equal(again.obs["goal_position"], again.task_state.goal)
    np.testing.assert_array_equal(again.sim.xpos[:, body], again.task_state.goal)
    assert np.abs(again.task_state.goal - state.task_state.goal).max(-1).min() > 0.01


def test_the_camera_draws_the_goal_where_it_is(env: Env, started: EnvState):
    observer = PixelConfig(cameras=("front",), size=64, splats=800).build(env)
    pictures = np.asarray(observer.pictures(started, observer.looks(jax.random.key(0), 2))["front"])
    camera = env.scene.spec.camera("front")
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, np.array(camera.quat))
    focal = 32 / np.tan(np.radians(camera.fovy) / 2)
    for picture, goal in zip(pictures.astype(int), started.task_state.goal, strict=True):
        x, y, z = turn.reshape(3, 3).T @ (np.asarray(goal) - camera.pos)
        blue = picture[..., 2] - picture[..., :2].max(-1) > 60
        rows, columns = np.nonzero(blue)
        assert len(rows) > 5
        expected = 32 + focal * np.array([x, -y]) / -z
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected, atol=1.5)


def test_the_arm_of_the_bridge_sees_the_same_goal(env: Env):
    arm = SimulatedArm(PixelConfig().build(env), seed=3, episodes=2)
    starts = []
    for episode in range(2):
        arm.start(episode)
        starts.append(arm.objects()["goal"])
        arm.advance(2)
        np.testing.assert_array_equal(arm.objects()["goal"], starts[-1])
    assert np.abs(starts[0] - starts[1]).max() > 0.01


def test_nothing_touches_a_marker_and_it_weighs_nothing(env: Env):
    model, goal = env.scene.model, env.scene.marker("goal")
    assert not model.geom_contype[goal.geom_ids].any()
    assert not model.geom_conaffinity[goal.geom_ids].any()
    assert model.body_mass[goal.body_id] == 0.0 and len(goal.qpos_ids) == 0


def test_a_task_that_moves_what_is_no_marker_is_told(env: Env):
    task = Reach(config=env.task.config, scene=env.scene, obs_spec=SPEC)
    task.__dict__["marker"] = "cube"
    with pytest.raises(KeyError, match="Unknown marker 'cube'. Allowed: goal"):
        jax.eval_shape(dataclasses.replace(env, task=task).reset, jax.random.key(0))
    with pytest.raises(ValueError, match="ObjectSpec 'ball': give its mass"):
        ObjectSpec(name="ball", shape=Sphere(0.1))


def test_a_mocap_body_of_a_users_file_is_a_marker():
    target = '<body name="target0" mocap="true" pos=".4 0 .2"><geom size=".02"/></body>'
    text = mjcf().replace("</worldbody>", f"{target}</worldbody>")
    added = ObjectSpec(name="exit", shape=Cylinder(0.05, 0.001), mount=MarkerMount())
    scene = build_scene(six(text=text, objects={"goal": "target0"}, add=(added,)))
    assert scene.marker("goal").body_id == scene.model.body("target0").id
    assert scene.marker("exit").body_id == scene.model.body("exit").id
