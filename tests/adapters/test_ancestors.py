"""Environments of other projects by their own ids: spaces, numbers, actions, options."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.adapters.ancestors import ANCESTORS, ancestors_table
from mjx_serl.adapters.gymnasium import MjxSerlEnv, MjxSerlVectorEnv
from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import TASKS
from mjx_serl.types import Obs
from scenes.contract.errors import UnknownNameError

ROOT = Path(__file__).resolve().parents[2]
BASE = "gym_hil/PandaPickCubeBase-v0"
NUMBERS = {
    "PandaPickCube-v0": {"panda/tcp_pos": 3, "panda/tcp_vel": 3, "panda/gripper_pos": 1},
    BASE: {"agent_pos": 18, "environment_state": 3},
    "FrankaPegInsert-Vision-v0": {
        "tcp_pose": 7,
        "tcp_vel": 6,
        "gripper_pose": 1,
        "tcp_force": 3,
        "tcp_torque": 3,
    },
    "GSEnv-PutCubeOnPlate-v0": {"qpos": 9},
    "gym_hil/PandaArrangeBoxes-v0": {"agent_pos": 18, "environment_state": 3},
    "PiperMobileRobot-v0": {"state": 7},
}


@pytest.mark.parametrize("name", sorted(ANCESTORS))
def test_an_ancestors_task_and_cameras_are_there(name: str):
    entry = ANCESTORS[name]
    assert entry.task in TASKS
    ours = {camera.name for camera in TASKS[entry.task].scene().cameras}
    for picture in entry.pictures:
        # Named ones the scene has, others it lacks.
        assert (picture.name in ours) == isinstance(picture.camera, str), picture.name
    assert name in gymnasium.registry
    assert entry.id == name and len(entry.low) == len(entry.high)


def test_the_readme_has_the_table():
    """Written by python -m benchmarks.task_page."""
    assert ancestors_table() in (ROOT / "README.md").read_text()


def leaves(tree: dict) -> Obs:
    """All entries of dicts in dicts by their last name."""
    inner = {k: v for v in tree.values() if isinstance(v, dict) for k, v in leaves(v).items()}
    return {k: v for k, v in tree.items() if not isinstance(v, dict)} | inner


def played(make_native: Callable[[str], Env], name: str, theirs: np.ndarray):
    """Two worlds of an ancestor's task before and after actions of its, and what it observes."""
    entry = ANCESTORS[name]
    env = make_native(entry.task)

    def step(state):
        return jax.vmap(env.step)(state, entry.act(env, state, jnp.asarray(theirs)))

    before = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(3), 2))
    after = jax.jit(step)(before)
    seen = jax.device_get(entry.observe(Observer(env), after, {}))
    first = jax.tree.map(lambda x: x[0], seen)
    assert entry.spaces(Observer(env))[0].contains(first)
    return env, before, after, leaves(seen)


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_are_the_worlds(make_native: Callable[[str], Env], name: str):
    entry = ANCESTORS[name]
    theirs = np.random.default_rng(0).uniform(entry.low, entry.high, (2, len(entry.low)))
    env, _, after, seen = played(make_native, name, theirs)
    sizes = NUMBERS[name]
    assert {k: v.shape for k, v in seen.items() if k in sizes} == {
        k: (2, n) for k, n in sizes.items()
    }

    data = mujoco.MjData(env.scene.model)
    data.qpos[:], data.qvel[:] = np.asarray(after.sim.qpos[0]), np.asarray(after.sim.qvel[0])
    mujoco.mj_forward(env.scene.model, data)
    site, speed = env.scene.arm.ee_site_id, np.zeros(6)
    mujoco.mj_objectVelocity(env.scene.model, data, mujoco.mjtObj.mjOBJ_SITE, site, speed, 0)
    if "panda/tcp_vel" in seen:
        np.testing.assert_allclose(seen["panda/tcp_vel"][0], speed[3:], atol=2e-4)
        np.testing.assert_allclose(seen["panda/tcp_pos"][0], data.site_xpos[site], atol=1e-5)
    if "tcp_vel" in seen:
        np.testing.assert_allclose(seen["tcp_vel"][0], [*speed[3:], *speed[:3]], atol=2e-4)
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, data.site_xmat[site])
        assert abs(seen["tcp_pose"][0, 3:] @ quat[[1, 2, 3, 0]]) == pytest.approx(1, abs=1e-5)
    if "agent_pos" in seen:
        np.testing.assert_allclose(seen["agent_pos"][0, :7], data.qpos[:7], atol=1e-6)
        assert seen["agent_pos"][0, 14] == 255 * after.command.gripper[0]


def test_actions_move_as_theirs_do(make_native: Callable[[str], Env]):
    """Metres as metres; SERL's sixth entry turns; turns that cannot be done are left out."""
    _, before, after, _ = played(make_native, BASE, np.array([[0.02, 0, -0.01, 1, 1, 1, 0.5]] * 2))
    moved = np.asarray(after.command.target - before.command.target)
    np.testing.assert_allclose(moved, [[0.02, 0.0, -0.01]] * 2, atol=1e-6)
    np.testing.assert_allclose(after.command.gripper, [0.5, 0.5])

    wrapped = np.array([[0.0, 0.02, 0.0, 1.0], [0.0, 0.02, 0.0, 2.0]])
    _, before, after, _ = played(make_native, "gym_hil/PandaPickCube-v0", wrapped)
    np.testing.assert_allclose(
        (after.command.target - before.command.target)[:, 1], 0.02, atol=1e-6
    )
    np.testing.assert_allclose(after.command.gripper, [0.0, 1.0])

    peg = np.array([[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
    _, before, after, _ = played(make_native, "FrankaPegInsert-Vision-v0", peg)
    same = np.abs(np.sum(before.command.target_quat * after.command.target_quat, -1))
    np.testing.assert_allclose(2 * np.arccos(np.minimum(same, 1)), [0.0, 0.1], atol=2e-3)


def test_a_gripper_of_theirs_opens_and_closes_as_there(make_native: Callable[[str], Env]):
    """SERL's robot closes at -0.9 and opens at 0.9; Piper's entry is a step that opens."""
    bins = np.zeros((2, 7))
    bins[:, 6] = -0.95, -0.5
    _, _, after, _ = played(make_native, "FrankaBinRelocation-Vision-v0", bins)
    np.testing.assert_allclose(after.command.gripper, [1.0, 0.0])

    piper = np.zeros((2, 7))
    piper[0, 0], piper[1, 6] = 1.0, -1.0
    env, before, after, seen = played(make_native, "PiperMobileRobot-v0", piper)
    step = np.asarray(after.command.joints - before.sim.qpos[:, env.scene.arm.qpos_ids])
    np.testing.assert_allclose(step[0], [0.05, 0, 0, 0, 0, 0], atol=1e-6)
    closes = np.asarray(after.command.gripper - before.command.gripper)
    np.testing.assert_allclose(closes, [0.0, 0.005 / 0.035], atol=1e-3)
    assert seen["state"][0, 6] == pytest.approx(0.035, abs=2e-3)  # open


def test_maniskills_gripper_entry_is_where_the_fingers_go(make_native: Callable[[str], Env]):
    """1 is open (4 cm), -0.5 closed but for 2.5 mm, as its demonstrations close."""
    theirs = np.array([[0, 0, 0.05, 0, 0, 0, 1.0], [0, 0, 0.05, 0, 0, 0, -0.5]])
    _, before, after, _ = played(make_native, "GSEnv-PutCubeOnPlate-v0", theirs)
    np.testing.assert_allclose(after.command.gripper, [0.0, 1 - 0.0025 / 0.04], atol=1e-6)
    up = (after.command.target - before.command.target)[:, 2]
    np.testing.assert_allclose(up, 0.05, atol=1e-6)


def test_pictures_are_theirs_and_cut_to_their_shape():
    """Drawn small: one world, and the vector of it, through Gymnasium."""
    entry = dataclasses.replace(ANCESTORS["GSEnv-PutCubeOnPlate-v0"], picture_shape=(12, 16))
    options = entry.choose({"render_mode": None}, {"render_mode"})
    envs = MjxSerlVectorEnv(entry.task, num_envs=2, interface=entry, **options)
    seen, _ = envs.reset(seed=0)
    assert envs.get_language_instruction() == ["pick up the cube and put it on the plate"] * 2
    picture = seen["sensor_data"]["3rd_view_camera"]["rgb"]
    assert picture.shape == (2, 12, 16, 3) and picture.dtype == np.uint8
    assert picture.std() > 10
    assert envs.observation_space.contains(seen)
    assert set(seen) == {"agent", "sensor_data"}
    seen, reward, *_ = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(seen) and reward.shape == (2,)


def test_a_single_world_by_its_old_id():
    env = gymnasium.make(BASE, episode_steps=2)
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    assert env.action_space.shape == (7,) and env.spec.max_episode_steps == 2
    steps = [env.step(np.zeros(7, np.float32)) for _ in range(2)]
    assert [(s[2], s[3]) for s in steps] == [(False, False), (False, True)]
    assert steps[-1][4]["succeed"] is False
    assert isinstance(env.unwrapped, MjxSerlEnv)


@pytest.mark.parametrize(
    ("name", "options", "wrong"),
    [
        ("FrankaPegInsert-Vision-v0", {"image_obs": True}, "image_obs"),
        ("PandaPickCube-v0", {"reward_type": "dense"}, "reward_type"),
        ("GSEnv-PutCubeOnPlate-v0", {"cameras": ["wrist"]}, "cameras"),
    ],
)
def test_another_ids_option_is_answered_with_the_allowed_ones(name: str, options: dict, wrong: str):
    with pytest.raises(UnknownNameError) as told:
        gymnasium.make(name, **options)
    said = str(told.value)
    assert said.startswith(f"Unknown option of {name} '{wrong}'.") and "\n" not in said
    assert "episode_steps" in said and "render_mode" in said


def test_pictures_are_a_choice_where_they_were():
    def asked(name: str, **options: bool) -> dict:
        return ANCESTORS[name].choose(options, set())

    assert asked(BASE) == {}
    assert asked(BASE, image_obs=True) == {"cameras": ["front", "wrist"], "image_size": 128}
    assert asked("PandaPickCubeVision-v0")["image_size"] == 128
    assert asked("PandaPickCubeVision-v0", image_obs=False) == {}
