"""The pick task of other arms: solved by its expert, and all of its box in the governor's reach."""

import dataclasses
import itertools
import math
from functools import partial

import jax
import numpy as np
import pytest

from mjx_serl.envs.env import build_env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.pick_cube import PickCubeConfig
from mjx_serl.tasks.piper_desk_pick import DESK
from mjx_serl.tasks.ur5e_pick_cube import PICK
from mjx_serl.training.collect import demonstrate
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.limits import default_limits
from scenes.contract.rotations import quat_to_matrix

# The expert needs no more of the 100 control steps, and each costs as much.
EPISODES, STEPS = 40, 50
each_arm = pytest.mark.parametrize("task", [DESK, PICK], ids=["piper", "ur5e"])


@each_arm
def test_the_expert_solves_95_percent_of_noisy_episodes(task: PickCubeConfig):
    env = build_env(dataclasses.replace(task, episode_steps=STEPS), name="", physics="native")
    play = jax.jit(partial(demonstrate, Observer(env), episodes=EPISODES))
    rows, solved = play(jax.random.key(3))
    assert np.mean(solved) >= 0.95
    assert (np.where(rows.valid, rows.reward, 0.0).sum(axis=0) == np.asarray(solved)).all()


@each_arm
def test_the_bridge_can_follow_all_over_the_box(task: PickCubeConfig):
    robot = task.scene().robot
    limits, chain = default_limits(robot), Chain(robot)
    lean = np.asarray(task.control.orientation)
    # Degrees from straight down: the cone's 30 less what the arm may be behind.
    tilt = math.acos(-quat_to_matrix(lean)[2, 2])
    assert tilt + limits.leash_rotation < limits.orientation_cone
    low, high = robot.workspace_low, robot.workspace_high
    for corner in itertools.product(*zip(low, high, strict=True)):
        reached = chain.solve(np.asarray(corner), lean, start=np.asarray(task.home))
        assert reached.position_error < 1e-4
        assert (limits.q_low <= reached.q).all() and (reached.q <= limits.q_high).all()
    pace = task.control.pace
    assert pace is not None and pace.speed <= limits.tcp_speed
    assert task.control.scale <= limits.step_position
