"""From a bundle to episodes: what is checked, what is asked, what is remembered."""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from bench_arm import HOME, BenchArm, ScriptedPolicy, bench_contract, steady

from robot_bridge.clock import ManualClock
from robot_bridge.compliance import Compliance
from robot_bridge.control.session import EpisodeReport, Session
from robot_bridge.deploy import commands
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.ledger import Ledger
from robot_bridge.deploy.rig import Rig, RigConfig, Senses
from robot_bridge.driver import ArmInfo, DriverError
from robot_bridge.policy.fit import connected_robot
from robot_bridge.policy.observation import FixedObjects
from robot_bridge.records import recorder as recorder_module
from robot_bridge.records.reader import Event, RecordReader, episodes, read_recording
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.supervisor import NotAllowedError
from scenes.contract.operator import OperatorInput
from scenes.contract.policy_contract import TURN
from scenes.contract.specs import ObsField
from scenes.contract.success_rate import success_line
from scenes.robots import robot_named

DIGEST = "0123456789abcdef" * 4
PHRASE = f"{DIGEST[:8]} A7"
REAL = ArmInfo(robot="panda", serial="A7", firmware="5", takes="joints", simulated=False)


class RealArm(BenchArm):
    """A bench arm that says it is real; `robot` changes what it says it is."""

    robot = "panda"
    compliance: Any = "never"

    @property
    def info(self) -> ArmInfo:
        return dataclasses.replace(REAL, robot=self.robot, compliance=self.compliance)

    def way(self) -> float:
        """From home to where it was left [m]."""
        self.connect()
        ends = [Chain(robot_named("panda")).forward(q)[0] for q in (HOME, self.state().q)]
        return float(np.linalg.norm(ends[1] - ends[0]))

    def yaw(self) -> float:
        """How far it was left turned away from the fingers straight down [rad]."""
        self.connect()
        _, x, y, _ = self.state().quat
        return 2.0 * math.atan(y / x)


class Pedal:
    """An operator's device whose key is held or not."""

    help_text, lost = "hold the pedal", None

    def __init__(self, *, held: bool, event: Any = None, action: Any = None) -> None:
        self.held, self.event, self.action, self.opened = held, event, action, 0

    def open(self) -> None:
        self.opened += 1

    def poll(self, now: float) -> OperatorInput:
        return OperatorInput(action=self.action, enabled=self.held, event=self.event)

    def close(self) -> None:
        pass


class Stage:
    """A deployment of a steady policy on a bench arm, and all that was said."""

    def __init__(self, tmp_path: Path, *, typed: str = PHRASE, **options: Any) -> None:
        self.clock, self.contract = ManualClock(), bench_contract()
        self.arm = RealArm(self.contract, self.clock)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.typed = typed
        self.ledger = tmp_path / "ledger.json"
        self.options = {"separate": False, "ledger": self.ledger, "seconds": 1.0} | options
        self.operator: Pedal | None = None
        self.judge: Any = None
        self.horizon = 1

    def ask(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.typed if "type" in prompt else ""

    def run(self) -> Sequence[EpisodeReport]:
        manifest = SimpleNamespace(task="bench", measured=None, horizon=self.horizon)
        bundle: Any = SimpleNamespace(
            contract=self.contract,
            digest=DIGEST,
            policy=ScriptedPolicy(steady),
            manifest=manifest,
        )
        rig = Rig(
            driver=self.arm,
            clock=self.clock,
            senses=lambda: Senses(objects=FixedObjects({"cube": (0.4, 0.0, 0.02)})),
            operator=self.operator,
            judge=self.judge,
        )
        talk = Talk(self.said.append, self.ask)
        self.deployment = Deployment(DeployConfig(**self.options), bundle, rig, talk)
        return self.deployment.run()


def test_the_first_run_on_an_arm_is_dry_and_the_second_needs_a_held_key(tmp_path: Path) -> None:
    first = Stage(tmp_path)
    assert [report.ending for report in first.run()] == ["timeout"]
    assert "servo" not in first.arm.calls and any("DRY RUN" in line for line in first.said)
    assert Ledger(first.ledger).of(DIGEST, "A7").dry == 1

    with pytest.raises(NotAllowedError, match="--operator keyboard"):
        Stage(tmp_path).run()

    second = Stage(tmp_path)
    second.operator = Pedal(held=True)
    assert second.run()[0].ending == "timeout"
    assert "servo" in second.arm.calls
    assert Ledger(second.ledger).of(DIGEST, "A7").episodes == 1


def test_a_new_bundle_is_slow_until_it_has_run_three_episodes(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1)
    ways = []
    for _ in range(4):
        stage = Stage(tmp_path, seconds=2.0)
        stage.operator = Pedal(held=True)
        stage.run()
        ways.append(stage.arm.way())
    assert max(ways[:3]) < 0.5 * ways[3]


def test_an_episode_that_begins_turned_is_played_turned(tmp_path: Path) -> None:
    target = [0.45, 0.05, 0.1, math.pi, 0, 0]
    stage = with_cell(tmp_path, target=target, reset_yaw=0.5, seed=1)
    stage.options |= {"episodes": 1}
    action = dataclasses.replace(stage.contract.action, names=("x", "y", "rz", "gripper"))
    scale = (0.025, 0.025, 0.1, 1.0)
    stage.contract = dataclasses.replace(
        stage.contract, action=dataclasses.replace(action, scale=scale)
    )
    assert stage.run()[0].ending == "timeout"
    drawn = 0.5 * np.random.default_rng(1).uniform(-1.0, 1.0, 4)[3]
    assert drawn > 0.3
    assert stage.arm.yaw() == pytest.approx(drawn, abs=0.02)


def test_parts_by_turns_go_on_where_the_arm_is_until_someone_has_to_set_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, dry_run=False, episodes=5, seconds=0.5)
    fields = (*stage.contract.obs.fields, ObsField(name=TURN, shape=(1,)))
    obs = dataclasses.replace(stage.contract.obs, fields=fields)
    stage.contract = dataclasses.replace(stage.contract, obs=obs, parts=("there", "back"))
    endings = iter(["success", "success", "failure", "cut", "success"])
    stage.judge = lambda: next(endings)
    stage.operator = Pedal(held=True)
    homed: list[bool] = []
    with patch.object(Session, "home", lambda session, q: homed.append(True)):
        reports = stage.run()
    assert [report.ending for report in reports] == [
        "success", "success", "failure", "cut", "success",
    ]  # fmt: skip
    # At first, after the failure, and after the cut.
    assert len(homed) == 3
    set_up = [re.sub(": .*", "", line) for line in stage.asked[1:]]
    assert set_up == ["Episode 1 (there)", "Episode 4 (there)", "Episode 5 (there)"]
    told = [re.match(r"episode \d \(\w+\)(?=:)", line) for line in stage.said]
    assert [found[0] for found in told if found] == [
        "episode 1 (there)", "episode 2 (back)", "episode 3 (there)",
        "episode 4 (there)", "episode 5 (there)",
    ]  # fmt: skip
    assert stage.deployment.turns.told == "there 2 of 4, back 1 of 1"


class WarmArm(RealArm):
    """One whose third joint grows warmer by a degree with each look."""

    warmest = 50.0

    def joint_readings(self) -> dict[str, np.ndarray]:
        self.warmest += 1.0
        row = np.full(7, 30.0)
        row[2] = self.warmest
        return {"motor_temperature": row, "current": np.zeros(7)}


def warm_stage(tmp_path: Path, warmest: float, **options: Any) -> Stage:
    stage = with_cell(tmp_path)
    stage.options |= {"seconds": 3.0, "episodes": 1} | options
    stage.arm = WarmArm(stage.contract, stage.clock)
    stage.arm.warmest = warmest
    return stage


def test_a_joint_that_grows_too_warm_ends_the_episode_as_a_fault_with_its_name(
    tmp_path: Path,
) -> None:
    stage = warm_stage(tmp_path, 72.0, record=tmp_path / "records")
    (report,) = stage.run()
    assert report.ending == "fault" and "joint_overloaded" in report.fault
    assert "joint3: motor temperature 76 °C, allowed 75 °C" in report.fault
    assert any("CAUTION  joint3: motor temperature 7" in line for line in stage.said)
    monitor = stage.deployment.joints
    assert monitor is not None and "motor temperature 76 °C (joint3)" in monitor.summary()
    (folder,) = (tmp_path / "records").iterdir()
    events = [entry for entry in RecordReader(folder) if isinstance(entry, Event)]
    read = [event.facts for event in events if event.name == "joints"]
    assert [facts["motor_temperature"][2] for facts in read][:2] == [74.0, 75.0]


def test_a_joint_that_is_too_warm_already_is_not_armed(tmp_path: Path) -> None:
    with pytest.raises(NotAllowedError, match="joint3: motor temperature 91 °C, allowed 75 °C"):
        warm_stage(tmp_path, 90.0).run()


def test_a_warm_joint_is_told_of_once(tmp_path: Path) -> None:
    stage = warm_stage(tmp_path, 60.0, episodes=2)
    assert [report.ending for report in stage.run()] == ["timeout", "timeout"]
    assert len([line for line in stage.said if "CAUTION  joint3" in line]) == 1


class YieldingArm(RealArm):
    """One that takes a compliance while it stands, and counts what came between."""

    compliance = "standing"

    def comply(self, compliance: Compliance) -> None:
        self.calls.append(f"comply {compliance.translational_stiffness:g}")


SOFT, STIFF = {"translational_stiffness": 1000}, {"translational_stiffness": 3000}


def with_cell(tmp_path: Path, **cell: Any) -> Stage:
    """A bundle that has earned its speed, in a workcell."""
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=9)
    (tmp_path / "cell.json").write_text(json.dumps(cell))
    return Stage(tmp_path, workcell=tmp_path / "cell.json", episodes=2)


def test_an_arm_is_stiff_on_its_way_to_a_start_and_yields_in_the_episode(tmp_path: Path) -> None:
    stage = with_cell(tmp_path, compliance=SOFT, precision=STIFF)
    stage.arm = YieldingArm(stage.contract, stage.clock)
    stage.run()
    told = [call for call, _ in itertools.groupby(stage.arm.calls) if "stop" not in call]
    # The first start is where it stands.
    first = ["comply 1000", "comply 3000", "comply 1000", "servo"]
    assert told == [*first, "comply 3000", "servo", "comply 1000", "servo"]
    assert "yields   1000 N/m, up to 10, 10, 10 N along x, y, z" in stage.said


def test_a_dry_arm_is_not_told_to_yield(tmp_path: Path) -> None:
    stage = with_cell(tmp_path, compliance=SOFT)
    stage.arm = YieldingArm(stage.contract, stage.clock)
    stage.options |= {"dry_run": True}
    stage.run()
    assert stage.arm.calls == []


@pytest.mark.parametrize(
    ("cell", "when", "line"),
    [
        ({"compliance": SOFT}, "never", "driver sets no compliance; leave out compliance"),
        ({"compliance": SOFT, "precision": STIFF}, "arming", "once, when the arm is armed"),
        ({"precision": STIFF}, "standing", "give the episodes' compliance too"),
        ({"compliance": {"translational_stiffness": 9000}}, "standing", "allowed: above 0, at mo"),
        ({"compliance": {"translational_clip": [0.01, 0, 0.01]}}, "standing", "clip 0.0, allowed"),
    ],
)
def test_a_compliance_that_an_arm_cannot_take_is_refused(
    tmp_path: Path, cell: dict[str, Any], when: Any, line: str
) -> None:
    stage = with_cell(tmp_path, **cell)
    stage.arm.compliance = when
    with pytest.raises(ValueError, match=line):
        stage.run()
    assert stage.asked == []


def test_a_released_key_keeps_a_new_bundle_still(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1)
    stage = Stage(tmp_path)
    stage.operator = Pedal(held=False)
    report = stage.run()[0]
    assert report.reasons["operator_released"] >= 90
    assert stage.arm.way() < 1e-3


@pytest.mark.parametrize(
    ("scale", "offset", "line"),
    [
        (0.08, 0.0, r"reads 0\.0064 m open and 0\.0000 m closed, this robot's is 0\.08 m and 0 m"),
        (1000.0, 0.0, "reads 80.0000 m open"),  # millimetres
        (-1.0, 0.08, "reads 0.0000 m open and 0.0800 m closed"),
        (0.0, 0.08, "reads 0.0800 m open and 0.0800 m closed"),  # it does not move
        (float("nan"), 0.0, "reads nan m open"),
    ],
)
def test_a_gripper_that_reads_another_unit_ends_it_before_the_arm_moves(
    tmp_path: Path, scale: float, offset: float, line: str
) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=5)
    stage = Stage(tmp_path)
    stage.arm.spoil = lambda state: dataclasses.replace(
        state, gripper_width=scale * state.gripper_width + offset
    )
    with pytest.raises(NotAllowedError, match=line):
        stage.run()
    assert "servo" not in stage.arm.calls and stage.arm.calls[-1] == "stop soft"


def test_something_in_the_gripper_is_no_reason_not_to_begin(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=5)
    stage = Stage(tmp_path)
    stage.arm.spoil = lambda state: dataclasses.replace(
        state, gripper_width=max(0.04, state.gripper_width)
    )
    assert stage.run()[0].ending == "timeout"


@pytest.mark.parametrize("typed", ["", "yes", PHRASE[:-1]])
def test_nothing_is_armed_without_the_phrase(tmp_path: Path, typed: str) -> None:
    stage = Stage(tmp_path, typed=typed)
    with pytest.raises(NotAllowedError, match=f"type exactly: {PHRASE}"):
        stage.run()
    assert "servo" not in stage.arm.calls


def test_a_persons_verdict_ends_an_episode(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=5)
    stage = Stage(tmp_path, seconds=5.0)
    stage.judge = lambda: "success" if stage.clock.now() > 1000.6 else None
    report = stage.run()[0]
    assert report.success and report.seconds < 5.0


def test_a_fault_ends_the_session_and_the_arm_is_let_go(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=5)
    stage = Stage(tmp_path, episodes=3, seconds=2.0)
    stage.judge = lambda: setattr(stage.arm, "broken", True)
    reports = stage.run()
    assert [report.ending for report in reports] == ["fault"]
    assert reports[0].reasons["driver_error"] >= 1
    assert stage.said[-1] == "fault    driver_error: The link is gone"


def test_records_that_are_lost_are_said_and_are_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=5)
    stage = Stage(tmp_path, record=tmp_path / "records")

    def full(file: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder_module.os, "write", full)
    stage.run()
    lost = stage.deployment.lost
    assert lost is not None and re.search(r"\d+ records of .* are lost: .*No space left", lost)

    ended: Any = SimpleNamespace(
        run=lambda: stage.deployment.reports,
        turns=stage.deployment.turns,
        learned=None,
        lost=lost,
        timings={},
        joints=None,
    )
    monkeypatch.setattr(commands, "Deployment", lambda *_: ended)
    monkeypatch.setattr(commands, "build_rig", lambda *_: None)
    manifest = SimpleNamespace(measured=None)
    bundle: Any = SimpleNamespace(contract=stage.contract, digest=DIGEST, manifest=manifest)
    options = DeployConfig(ledger=tmp_path / "l", audit=tmp_path / "a")
    assert commands.deploy(bundle, RigConfig(), options, {}) == 1
    assert f"CAUTION  {lost}" in capsys.readouterr().out
    ended.lost = None
    assert commands.deploy(bundle, RigConfig(), options, {}) == 0


def test_sessions_are_recorded_with_what_the_policy_saw(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=5)
    stage = Stage(tmp_path, record=tmp_path / "records", episodes=2)
    stage.run()
    (folder,) = (tmp_path / "records").iterdir()
    recording = read_recording(folder)
    assert recording.header.bundle == DIGEST and recording.header.serial == "A7"
    assert [event.name for event in recording.events] == ["begin", "timeout"] * 2
    seen = [r.obs for r in recording.records if getattr(r, "obs", None) is not None]
    assert len(seen) >= 18 and set(seen[0]) == set(stage.contract.obs.names)


def test_limits_may_only_be_tightened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'tcp_speed' may only be tightened: got 0.5"):
        Stage(tmp_path, limits={"tcp_speed": 0.5}).run()
    stage = Stage(tmp_path, limits={"tcp_speed": 0.05})
    stage.run()
    assert any("0.05 m/s" in line for line in stage.said)


def test_a_pandas_policy_runs_on_an_fr3_and_not_on_a_piper() -> None:
    contract = bench_contract()
    assert connected_robot(contract, dataclasses.replace(REAL, robot="fr3")).name == "fr3"
    with pytest.raises(ValueError, match="trained on a panda, this is a piper"):
        connected_robot(contract, dataclasses.replace(REAL, robot="piper"))


def test_a_home_outside_the_arms_limits_is_refused() -> None:
    low = dataclasses.replace(bench_contract(), home=(0.0, 0.2, 0.0, -2.4, 0.0, 0.3, 0.8))
    with pytest.raises(ValueError, match="home of the policy of joint6 is 0.3 rad"):
        connected_robot(low, dataclasses.replace(REAL, robot="fr3"))


def test_an_arm_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    def refuse() -> None:
        raise DriverError("No answer from A7")

    stage.arm.connect = refuse
    with pytest.raises(DriverError, match="No answer from A7"):
        stage.run()


@pytest.mark.parametrize("options", [{"episodes": 0}, {"seconds": 0.0}, {"seconds": 1e9}])
def test_nonsense_is_refused_before_anything_is_opened(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave out --separate"):
        DeployConfig(separate=True, policy_server="ws://127.0.0.1:1")
    with pytest.raises(ValueError, match="allowed"):
        DeployConfig(**options)


def test_a_damaged_ledger_counts_as_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text("{")
    assert Ledger(path).of(DIGEST, "A7").episodes == 0
    Ledger(path).note(DIGEST, "A7", episodes=2)
    assert Ledger(path).of(DIGEST, "A7").episodes == 2


def test_the_result_has_an_interval() -> None:
    # Wilson: 93.0 to 99.4 %, as mjx_serl.run.summary computes it.
    assert "98/100 = 98.0% (95 % interval 93.0% to 99.4%)" in success_line(98, 100)


def test_by_hand_alone_the_policy_moves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotAllowedError, match="--hands-only needs somebody who moves the arm"):
        Stage(tmp_path, hands_only=True, dry_run=False).run()
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=9)
    for by_hand in (True, False):
        stage = Stage(tmp_path, hands_only=by_hand)
        stage.operator = Pedal(held=True)
        assert stage.run()[0].ending == "timeout"
        assert (stage.arm.way() < 1e-3) == by_hand  # the steady policy would have moved it


def test_what_hands_do_is_recorded_with_what_is_seen_at_each_action(tmp_path: Path) -> None:
    """Also where the bundle's policy is asked only for every fourth action."""
    Ledger(tmp_path / "ledger.json").note(DIGEST, "A7", dry=1, episodes=9)
    stage = Stage(tmp_path, hands_only=True, record=tmp_path / "records")
    stage.horizon = 4
    stage.operator = Pedal(held=True, action=np.array([0.0, -0.4, 0.0, 0.0]))
    assert stage.run()[0].ending == "timeout"
    (session,) = (tmp_path / "records").iterdir()
    (episode,) = episodes(RecordReader(session))
    seen = [step.obs["ee_position"][1] for step in episode.steps if step.intervened]
    assert len(seen) >= 8 and (np.diff(seen)[1:] < 0).all()
