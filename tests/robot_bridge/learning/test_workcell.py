"""A task at an arm as data: what counts as there, where episodes begin, what is refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench_arm import Bench, bench_contract
from scipy.spatial.transform import Rotation

from robot_bridge.learning.workcell import Workcell, WorkcellConfig, read_workcell
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.limits import default_limits, tighten
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract
from scenes.contract.specs import ActionSpec

CONTRACT = bench_contract()
LIMITS = default_limits(CONTRACT.robot)
HOME = np.asarray(CONTRACT.home)
# SERL's peg (reference serl_family.md 2.2) nearer to the arm; its box begins at the goal.
PEG = WorkcellConfig(
    target=(0.4906, 0.0777, 0.0938, 3.110, 0.0147, -0.0079),
    reset_range=(0.05, 0.05, 0.0),
    joint_reset_every=3,
    workspace_low=(0.4406, 0.0277, 0.0938),
    workspace_high=(0.5406, 0.1277, 0.1938),
)


# SERL's yaw of the peg, +-30 degrees.
TURNED = dataclasses.replace(PEG, reset_yaw=0.52)


def turning(limit: float | None = None) -> Contract:
    """A contract whose actions turn the tool about the vertical."""
    action = ActionSpec(
        mode="ee_delta",
        names=("x", "y", "z", "rz", "gripper"),
        scale=(0.02, 0.02, 0.02, 0.1, 1.0),
        rate=10.0,
        turn_limit=limit,
    )
    return dataclasses.replace(CONTRACT, action=action)


def build(config: WorkcellConfig = PEG, contract: Contract = CONTRACT) -> Workcell:
    return Workcell(config, contract, tighten(LIMITS, **config.tightened))


def tick(pose: np.ndarray) -> Any:
    x, y, z, w = Rotation.from_euler("xyz", pose[3:]).as_quat()
    quat = np.array([w, x, y, z]) * (-1.0 if w < 0 else 1.0)
    return SimpleNamespace(state=SimpleNamespace(position=pose[:3], quat=quat))


@pytest.mark.parametrize("entry", range(6))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_each_distance_counts_by_itself_also_where_an_angle_passes_pi(entry, sign) -> None:
    away = np.zeros(6)
    away[entry] = sign * PEG.threshold[entry]
    for share, wanted in ((0.95, "success"), (1.05, None)):
        pose = np.asarray(PEG.target) + share * away
        assert build().judge(lambda pose=pose: tick(pose))() == wanted
    assert build().judge(lambda: None)() is None


def test_episodes_begin_in_their_region_and_now_and_then_at_home() -> None:
    cell, chain = build(), Chain(CONTRACT.robot)
    starts = [cell.start(number) for number in range(6)]
    assert all(start.quat is None for start in starts)  # what cannot turn begins as the policy's
    ways = [start.way for start in starts]
    assert [len(way) for way in ways] == [2, 1, 1, 2, 1, 1]
    np.testing.assert_array_equal(ways[3][0], HOME)
    places = np.array([chain.forward(way[-1])[0] for way in ways])
    middle = np.asarray(PEG.target[:3]) + PEG.reset_offset
    assert np.abs(places - middle)[:, :2].max() <= 0.051
    assert places.std(0)[:2].min() > 0.01
    assert places.std(0)[2] < 1e-3


def test_episodes_begin_turned_about_the_vertical_and_are_commanded_to_stay_so() -> None:
    cell, chain = build(TURNED, turning()), Chain(CONTRACT.robot)
    target, yaws = Rotation.from_euler("xyz", PEG.target[3:]), []
    for number in range(8):
        start = cell.start(number)
        assert start.quat is not None
        reached = chain.forward(start.way[-1])[1]
        assert abs(reached @ start.quat) > 0.9999
        turn = (Rotation.from_quat(np.roll(reached, -1)) * target.inv()).as_rotvec()
        assert np.abs(turn[:2]).max() < 0.02
        yaws.append(turn[2])
    assert np.std(yaws) > 0.2 and np.abs(yaws).max() <= 0.53


def test_the_control_loop_begins_with_the_orientation_of_the_start() -> None:
    bench = Bench(running=False)
    bench.arm_it()
    quat = np.array([0.0, 0.98, 0.199, 0.0])
    bench.control.start_quat = quat
    bench.control.begin()
    tick = bench.control.sense()
    assert tick is not None
    np.testing.assert_array_equal(tick.goal.quat, quat)


@pytest.mark.parametrize(
    ("change", "contract", "line"),
    [
        ({}, CONTRACT, "reset_yaw 0.52, allowed: 0 unless the policy's actions turn the tool"),
        ({"target": None}, turning(), "allowed: 0 unless there is a target"),
        ({}, turning(0.3), r"turned by 0.5\d rad .* allowed: 0.3 rad; make reset_yaw smaller"),
        ({"target": (*PEG.target[:3], 2.4, 0, 0)}, turning(), "tilts the tool by 0.74 rad"),
        ({"reset_yaw": 3.1}, turning(), r"turned by -?3.10 rad, which is out of the arm's reach"),
    ],
)
def test_turns_that_cannot_be_are_refused(change: Any, contract: Contract, line: str) -> None:
    with pytest.raises(InputError, match=line):
        build(dataclasses.replace(TURNED, **change), contract)


def test_what_is_out_of_reach_is_refused_before_anything_moves() -> None:
    for change in ({"reset_range": (0.5, 0.0, 0.0)}, {"reset_offset": (0.0, 0.0, -0.3)}):
        with pytest.raises(InputError, match="out of the arm's reach or its workspace"):
            build(dataclasses.replace(PEG, **change))
    with pytest.raises(InputError, match="may only be tightened"):
        build(dataclasses.replace(PEG, workspace_high=(2.0, 2.0, 2.0)))


def test_files_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text(json.dumps({"target": PEG.target, "threshold": PEG.threshold}))
    assert read_workcell(path).target == PEG.target
    for text, line in (
        ('{"goal": 1}', "goal"),
        ('{"target": [1, 2]}', "target"),
        ("{", "Expecting"),
        ('{"reset_yaw": -0.1}', "reset_yaw -0.1, allowed: 0 to 3.14"),
        ('{"threshold": [-1, 1, 1, 1, 1, 1]}', "must not be negative"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=line):
            read_workcell(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_workcell(tmp_path / "none.json")
