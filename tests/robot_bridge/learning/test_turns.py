"""Two parts by turns at an arm: who goes on, what is put back, and from where."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_arm import Bench, bench_contract
from expert_arm import expert_arm

from robot_bridge.control.session import Session, Tally
from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.rigs import rig_makers
from robot_bridge.learning.turns import Turns, require_judged_apart
from robot_bridge.learning.workcell import WorkcellConfig
from robot_bridge.records.reader import RecordReader
from robot_bridge.records.reader import episodes as played
from scenes.contract.policy_contract import TURN

PARTS = ("there", "back")
EPISODES = 4


def test_a_success_hands_over_and_all_else_goes_on_with_the_same_part() -> None:
    turns, seen = Turns(PARTS), []
    for ending in ("timeout", "success", "cut", "success", "failure"):
        seen.append((turns.name, turns.in_place, turns.kept))
        turns.end(ending)
    assert seen == [
        ("there", False, False),
        ("there", True, True),
        ("back", True, True),
        ("back", False, True),  # the arm goes home, the scene stays
        ("there", True, True),
    ]
    assert (turns.name, turns.in_place, turns.kept) == ("there", False, False)
    assert turns.told == "there 1 of 3, back 1 of 2"


def test_without_parts_every_episode_is_set_up() -> None:
    turns = Turns(())
    turns.end("success")
    assert (turns.part, turns.name, turns.facts, turns.told) == (0, "", {}, None)
    assert not turns.in_place and not turns.kept


def test_the_cube_goes_to_and_fro_in_a_world_that_is_started_once(tmp_path: Path) -> None:
    deployment, world = expert_arm("franka/bin_relocation", episodes=EPISODES, record=tmp_path)
    starts: list[int] = []
    begin = world.start
    world.start = lambda episode: (starts.append(episode), begin(episode))[0]
    reports = deployment.run()
    assert starts == [0]
    assert sum(report.success for report in reports) >= EPISODES - 1
    assert deployment.recorder is not None
    seen = []
    for episode in played(RecordReader(deployment.recorder.path)):
        own = {float(step.obs[TURN][0]) for step in episode.steps}
        first, last = episode.steps[0].obs, episode.steps[-1].obs
        seen.append((own, episode.ending == "success", first, last))
    for (own, solved, _, last), (after, _, first, _) in itertools.pairwise(seen):
        assert len(own) == 1
        assert (after != own) is solved
        # It begins where the other ended, hand and gripper too.
        np.testing.assert_allclose(first["ee_position"], last["ee_position"], atol=0.05)


@pytest.mark.parametrize(("keeps", "closure"), [(True, 1.0), (False, 0.0)])
def test_a_hand_stays_closed_and_turned_where_an_episode_goes_on(
    keeps: bool, closure: float
) -> None:
    bench = Bench(lambda _: np.array([[0.0, 0.0, 0.0, 1.0]], np.float32))
    session = Session(bench.control, bench.stepper, Tally(), lambda: None)
    session.settle()
    turned = np.array([0.0, 0.98, 0.199, 0.0])
    bench.control.start_quat = turned  # of a start, which going on takes no notice of
    bench.control.keeps_grip = bench.control.keeps_turn = keeps
    bench.control.begin()
    tick = bench.control.sense()
    assert tick is not None and tick.goal.closure == closure
    assert np.array_equal(tick.goal.quat, turned) is not keeps


@pytest.mark.parametrize("cell", [None, WorkcellConfig(joint_reset_every=20)])
def test_a_workcell_without_a_target_fits_parts(cell: WorkcellConfig | None) -> None:
    require_judged_apart(PARTS, cell)
    require_judged_apart((), WorkcellConfig(target=(0.4, 0.0, 0.1, 3.14, 0.0, 0.0)))


def test_one_pose_cannot_judge_both() -> None:
    cell = WorkcellConfig(target=(0.4, 0.0, 0.1, 3.14, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"by turns \(there, back\), of which one pose cannot"):
        require_judged_apart(PARTS, cell)


def test_a_recording_does_not_take_turns() -> None:
    contract: Any = bench_contract()
    object.__setattr__(contract, "parts", PARTS)
    with pytest.raises(ValueError, match="replay with a task by turns .there, back., .* allowed"):
        rig_makers()["replay"](RigConfig(robot="replay", address="x"), contract)
