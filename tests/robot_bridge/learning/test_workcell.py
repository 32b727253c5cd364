"""A task at an arm as data: what counts as there, where episodes begin, what is refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robot_bridge.learning.workcell import Workcell, WorkcellConfig, read_workcell
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.limits import default_limits, tighten
from scenes.contract.errors import InputError
from scenes.robots import robot_named

PANDA = robot_named("panda")
LIMITS = default_limits(PANDA)
HOME = np.asarray(PANDA.home)
# SERL's peg (reference serl_family.md 2.2) nearer to the arm; its box begins at the goal.
PEG = WorkcellConfig(
    target=(0.4906, 0.0777, 0.0938, 3.110, 0.0147, -0.0079),
    reset_range=(0.05, 0.05, 0.0),
    joint_reset_every=3,
    workspace_low=(0.4406, 0.0277, 0.0938),
    workspace_high=(0.5406, 0.1277, 0.1938),
)


def build(config: WorkcellConfig = PEG) -> Workcell:
    return Workcell(config, PANDA, tighten(LIMITS, **config.tightened))


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
    cell, chain = build(), Chain(PANDA)
    ways = [cell.starts(number, HOME) for number in range(6)]
    assert [len(way) for way in ways] == [2, 1, 1, 2, 1, 1]
    np.testing.assert_array_equal(ways[3][0], HOME)
    places = np.array([chain.forward(way[-1])[0] for way in ways])
    middle = np.asarray(PEG.target[:3]) + PEG.reset_offset
    assert np.abs(places - middle)[:, :2].max() <= 0.051
    assert places.std(0)[:2].min() > 0.01
    assert places.std(0)[2] < 1e-3


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
        ('{"threshold": [-1, 1, 1, 1, 1, 1]}', "must not be negative"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=line):
            read_workcell(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_workcell(tmp_path / "none.json")
