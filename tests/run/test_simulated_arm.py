"""The training environment as an arm: in lock-step the bridge sees and does what training does."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from as_users import user_env
from robot_fits import make_fit

from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.run.simulated_arm import build_world
from mjx_serl.tasks.pick_cube import PACED, SPARSE
from mjx_serl.tasks.pick_turned_bar import TURNED, TURNED_PACED
from robot_bridge.driver import ArmInfo
from robot_bridge.drivers.simulated import SteppedGovernor
from scenes.contract.serialize import digest
from scenes.fitted import fitted_scene

ROOT = Path(__file__).parents[2]
# What turns in each: the hand of the 4-D tasks keeps its orientation.
TURNS = {
    "franka/pick_cube": False,
    "franka/pick_cube_paced": False,
    "franka/pick_turned_bar": True,
    "franka/pick_turned_bar_paced": True,
    "test/tool_frame": True,
}


def test_the_tasks_are_what_the_comparison_is_about() -> None:
    assert SPARSE.control.pace is None and PACED.control.pace is not None
    assert TURNED.control.pace is None and TURNED_PACED.control.pace is not None
    assert SPARSE.control.action_spec().dim == 4 and TURNED.control.action_spec().dim == 7


@pytest.fixture(scope="module")
def compared() -> dict[str, dict[str, float]]:
    """What one process finds of all tasks."""
    command = [sys.executable, str(Path(__file__).with_name("lock_step.py")), *TURNS]
    env = user_env() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(TURNS, rows, strict=True))


@pytest.mark.parametrize("task", TURNS)
def test_the_bridge_and_the_environment_go_in_step(
    compared: dict[str, dict[str, float]], task: str
) -> None:
    """Twenty-five steps from the same start: every observation and action equal."""
    found = compared[task]
    assert found["steps"] == 25 and found["moved"] > 0.05
    assert found["obs"] == 0.0 and found["action"] == 0.0
    assert (found["turned"] > 0.3) == TURNS[task]


def test_a_task_that_has_changed_since_is_refused() -> None:
    observer = Observer(make_env("franka/pick_cube", physics="native"))
    with pytest.raises(ValueError, match="is not what this policy was trained in"):
        build_world("franka/pick_cube_paced", observer.contract, seed=0, episodes=1)


def test_a_policy_of_a_fitted_robot_finds_its_own_in_its_contract() -> None:
    change = partial(fitted_scene, fit=make_fit())
    fitted = make_env("franka/pick_cube_paced", physics="native", scene=change)
    contract = Observer(fitted).contract
    assert contract.robot.friction_loss[0] == 0.5 and contract.robot.payload == 0.3
    world = build_world("franka/pick_cube_paced", contract, seed=0, episodes=1)
    world.advance(4)
    assert digest(world._observer.contract) == digest(contract)


def test_an_arm_that_is_real_takes_no_ungoverned_targets() -> None:
    info = ArmInfo(robot="fr3", serial="1", firmware="1", takes="pose")
    with pytest.raises(ValueError, match="must be simulated"):
        SteppedGovernor(info)
