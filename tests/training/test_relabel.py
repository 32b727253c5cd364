"""Demonstrations judged anew, against states whose worth is plain: a cube at known heights."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.training.demonstrations import demo_contract
from mjx_serl.training.relabel import relabel, scene_digest, state_fields, states_of
from mjx_serl.types import Transition

HEIGHTS = np.array([0.0, 0.05, 0.08, 0.1, 0.15, 0.2], np.float32)  # above the start [m]
# Two episodes: the first lasts to the end of the arrays, the second ends after two steps.
LENGTHS = (6, 2)


@pytest.fixture(scope="module")
def dense() -> Env:
    return make_env("franka/pick_cube_dense", physics="native")


@pytest.fixture(scope="module")
def lifted(dense: Env) -> Transition:
    """Rows in which the cube rises through HEIGHTS while the hand stays where it is."""
    start = dense.reset(jax.random.key(0))
    # Here nothing but the cube has moved.
    kept = states_of(start, start)
    shape = (len(HEIGHTS), len(LENGTHS))
    states = {
        k: np.broadcast_to(np.asarray(v), (*shape, *np.shape(v))).copy() for k, v in kept.items()
    }
    cube = dense.scene.objects["cube"].body_id
    states["sim/xpos"][:, :, cube, 2] += HEIGHTS[:, None]
    after = np.arange(shape[0])[:, None] - (np.array(LENGTHS) - 1)
    rows: dict[str, Any] = {
        "obs": {"x": np.zeros((*shape, 1), np.float32)},
        "action": np.zeros((*shape, 4), np.float32),
        "reward": np.full(shape, 7.0, np.float32),
        "terminated": np.zeros(shape, bool),
        "truncated": after == 0,
        "valid": after <= 0,
        "expert": np.ones(shape, bool),
    }
    return Transition(**rows, extras=states)


def test_a_dense_task_pays_for_each_step_and_ends_none(dense: Env, lifted: Transition):
    rows = relabel(dense, lifted)
    hand = lifted.extras["sim/site_xpos"][0, 0, dense.scene.arm.ee_site_id]
    cube = lifted.extras["sim/xpos"][:, 0, dense.scene.objects["cube"].body_id]
    reach = np.exp(-20.0 * np.linalg.norm(cube - hand, axis=1))
    wanted = 0.3 * reach + 0.7 * HEIGHTS / 0.2
    np.testing.assert_allclose(rows.reward[:, 0], wanted, atol=2e-5)
    np.testing.assert_allclose(rows.reward[:, 1], [*wanted[:2], 0, 0, 0, 0], atol=2e-5)
    assert not rows.terminated.any() and rows.truncated[5, 0] and rows.truncated[1, 1]
    np.testing.assert_array_equal(rows.valid, lifted.valid)
    assert rows.extras == {}


def test_a_sparse_task_pays_once_and_ends_there(lifted: Transition):
    """HIL-SERL-sim's is solved at 9 cm: rows after that are no part of the episode."""
    rows = relabel(make_env("franka/pick_cube_sim", physics="native"), lifted)
    np.testing.assert_array_equal(rows.reward[:, 0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows.terminated[:, 0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows.valid[:, 0], [1, 1, 1, 1, 0, 0])
    # The second stops before it is solved: cut off, which is no failure.
    assert not rows.terminated[:, 1].any() and not rows.reward[:, 1].any()
    np.testing.assert_array_equal(rows.truncated, [[0, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]])


def test_a_step_that_physics_failed_in_stays_an_end(dense: Env, lifted: Transition):
    truncated, valid = np.array(lifted.truncated), np.array(lifted.valid)
    failed = np.zeros_like(valid)
    failed[3, 0], truncated[5, 0], valid[3:, 0] = True, False, False
    rows = relabel(dense, lifted.replace(terminated=failed, truncated=truncated, valid=valid))
    np.testing.assert_array_equal(rows.terminated, failed)
    np.testing.assert_array_equal(rows.valid, valid)
    assert not rows.truncated[:, 0].any()


def test_a_shorter_time_limit_truncates(dense: Env, lifted: Transition):
    task: Any = dense.task
    config = dataclasses.replace(task.config, episode_steps=4)
    task = dataclasses.replace(task, config=config)
    rows = relabel(dataclasses.replace(dense, task=task), lifted)
    np.testing.assert_array_equal(rows.truncated[:, 0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows.valid[:, 0], [1, 1, 1, 1, 0, 0])


def test_the_contract_names_the_states_and_their_scene(dense: Env, lifted: Transition):
    contract = demo_contract(Observer(dense), states=True)
    assert contract.states == state_fields(dense)
    shapes = {name: (shape, dtype) for name, shape, dtype in contract.states}
    assert shapes.keys() == lifted.extras.keys()
    for name, x in lifted.extras.items():
        assert shapes[name] == (x.shape[2:], str(x.dtype))
    assert "task_state/start_height" in shapes and "sim/sensordata" in shapes
    sim = make_env("franka/pick_cube_sim", physics="native")
    assert contract.scene == scene_digest(sim.scene.model)
    other = make_env("franka/peg_insertion", physics="native")
    assert contract.scene != scene_digest(other.scene.model)
    assert demo_contract(Observer(dense)).states == ()
