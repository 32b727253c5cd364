"""A simulated arm with other parameters and a delay is found again from the bridge's recordings."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from benchmarks.sysid import drawn_arm, misses, record_arm
from mjx_serl.sysid import __main__ as command
from mjx_serl.sysid.arm_model import build_arm_model
from mjx_serl.sysid.identifiability import dependents, hidden_directions, intervals, lasting_errors
from mjx_serl.sysid.identify import identify
from mjx_serl.sysid.motion import Motion, cut_motions, delayed, split_motions
from mjx_serl.sysid.parameters import candidates
from scenes.contract.robot_fit import FILE, load_robot_fit
from scenes.contract.serialize import to_json
from scenes.robots import robot_named

PIPER = robot_named("piper")
DELAY = 0.03
# Seconds of a recording: what CI can pay. `python -m benchmarks.sysid` runs 20 trials of 90 s.
SECONDS = 8.0


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of an arm that differs from the Piper's spec in everything that is fitted."""
    folder = tmp_path_factory.mktemp("recordings")
    arm = drawn_arm(PIPER, seed=0)
    record_arm(arm, folder, recordings=2, seconds=SECONDS, delay=DELAY, seed=0)
    return folder


def test_parameters_are_found_within_five_percent_and_the_delay_within_five_ms(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main((recorded,), robot="piper", out=tmp_path) == 0
    said = capsys.readouterr().out
    fit = load_robot_fit(tmp_path / FILE)
    # Nothing tells a joint's damping from its drive's: it is held, and that is said.
    assert {v.field for v in fit.values if v.held} == {"damping"}
    assert "held     damping joint1: does what kd joint1 does" in said
    found = {m.name: m for m in _misses(fit)}
    assert abs(found.pop("delay").relative) < 0.005
    assert {"kp joint1", "kd joint2", "armature joint3", "friction_loss joint4"} <= set(found)
    assert {name: m.relative for name, m in found.items() if abs(m.relative) > 0.05} == {}
    assert sum(m.inside for m in found.values()) >= 0.9 * len(found)
    # On motions that were not fitted the errors are the noise of the readings: 1e-5, 1e-3.
    after, before = fit.validation.position_after, fit.validation.position_before
    assert after < 1.5e-5 < 1e-3 < before and fit.validation.velocity_after < 1.5e-3
    names = {path.name for path in recorded.iterdir()}
    assert {r.name for r in fit.recordings} == names and len(fit.recordings[0].sha256) == 64
    page = (tmp_path / command.REPORT).read_text()
    assert "kp joint1" in page and "<svg" in page and "<script" not in page
    assert not re.search(r"(src|href)=.http|@import|url\(.?http", page)


def _misses(fit) -> list:
    return misses(fit, drawn_arm(PIPER, seed=0), PIPER, DELAY)


def still_motion(moved: int, seconds: float = 3.1) -> Motion:
    """Only one joint is told to move; the readings are those of the nominal arm, with noise."""
    arm, draw = build_arm_model(PIPER, sim_dt=0.005), np.random.default_rng(0)
    sent = np.arange(0.0, seconds, 0.01)
    target = np.repeat([PIPER.home], len(sent), axis=0)
    target[:, moved] += 0.1 * np.sin(2 * np.pi * 1.5 * sent) * np.minimum(1.0, sent)
    data = mujoco.MjData(arm.model)
    mujoco.mj_resetDataKeyframe(arm.model, data, 0)
    rows = []
    for q in target:
        rows.append(np.concatenate([data.qpos[arm.qpos], data.qvel[arm.dofs]]))
        data.ctrl[:] = arm.controls(q[None], 0.07)[0]
        mujoco.mj_step(arm.model, data, 2)
    noise = draw.standard_normal((len(sent), 12)) * np.repeat([1e-5, 1e-3], 6)
    read = np.array(rows) + noise
    return Motion(
        name="one joint",
        t=sent,
        q=read[:, :6],
        dq=read[:, 6:],
        sent=sent,
        target=target,
        width=0.07,
    )


def test_what_the_motion_does_not_show_is_held_and_named() -> None:
    said: list[str] = []
    found = identify(PIPER, [still_motion(0)], say=said.append)
    # What is written is read without running anything: strict JSON of known fields.
    assert not {"NaN", "Infinity"} & set(json.dumps(to_json(found.fit)).split('"'))
    held = {f"{v.field} {v.joint}".strip(): v for v in found.fit.values if v.held}
    free = {f"{v.field} {v.joint}".strip() for v in found.fit.values} - set(held)
    # A joint that is never told to move shows its inertia only by what it does to the others.
    assert {"armature joint1", "armature joint2", "armature joint3"} <= set(held)
    assert {"delay", "kp joint1", "kd joint1", "friction_loss joint1"} <= free
    # The scale of the joint that moves is that of its inertia, of which half may be wrong.
    kp = next(v for v in found.fit.values if (v.field, v.joint) == ("kp", "joint1"))
    assert kp.low < kp.nominal < kp.high and kp.high - kp.low > 0.2 * kp.nominal
    assert all(f"held     {name}: {v.held}" in said for name, v in held.items())
    assert all(v.value == pytest.approx(v.nominal) and v.low < v.high for v in held.values())


class TestIdentifiability:
    """Of Jacobians made up by hand, in units of the noise."""

    four = candidates(PIPER)[1:4]  # kp joint1, kp joint2, kp joint3

    def test_two_that_do_the_same_are_told(self) -> None:
        draw = np.random.default_rng(0)
        a, b = draw.standard_normal((2, 1000))
        everything = {c.name: c for c in candidates(PIPER)}
        three = [everything[name] for name in ("kd joint1", "damping joint1", "kp joint1")]
        jacobian = np.stack([a, 0.1 * a, b], axis=1)
        assert dependents(three, jacobian) == {"damping joint1": "does what kd joint1 does"}

    def test_a_direction_below_the_noise_holds_one_of_it(self) -> None:
        draw = np.random.default_rng(0)
        a, b, c = draw.standard_normal((3, 1000))
        assert hidden_directions(self.four, np.stack([a, b, c], axis=1)) == {}
        weak = np.stack([a, a + 1e-3 * c, b], axis=1)
        held = hidden_directions(self.four, weak)
        assert list(held.values()) == ["the motions show it only together with kp joint2"]
        none = hidden_directions(self.four, np.stack([a, b, 1e-3 * c], axis=1))
        assert none == {"kp joint3": "the motions do not show it"}

    def test_intervals_hold_the_truth_where_errors_last(self) -> None:
        """Of 400 fits of a line through errors that last five samples, 95 % hold its slope."""
        draw, x = np.random.default_rng(1), np.linspace(-1.0, 1.0, 500)[:, None]
        inside = 0
        for _ in range(400):
            steps = draw.standard_normal(700)
            errors = np.convolve(steps, np.ones(5), "valid")[:500, None]
            slope = float((x * errors).sum() / (x**2).sum())
            half = intervals(x, np.zeros((500, 0)), [errors - slope * x])
            inside += abs(slope) < half[0]
        assert 0.92 < inside / 400 < 0.98
        assert lasting_errors(draw.standard_normal((2000, 1)))[0] == pytest.approx(1.0, abs=0.2)

    def test_a_value_that_is_held_widens_what_depends_on_it(self) -> None:
        draw = np.random.default_rng(0)
        a, b = 100.0 * draw.standard_normal((2, 2000))
        errors = [draw.standard_normal((2000, 1))]
        alone = intervals(a[:, None], np.zeros((2000, 0)), errors)[0]
        with_held = intervals(a[:, None], (0.5 * a + b)[:, None], errors)[0]
        # A held value that is off by one moves it by a half.
        assert alone < 0.01 and with_held == pytest.approx(1.96 * 0.5, rel=0.05)


class TestMotions:
    """Cutting, splitting and delaying what was recorded."""

    def log(self, gaps: tuple[float, ...] = (), length: float = 10.0) -> Motion:
        t = np.arange(0.0, length, 0.01)
        target = np.sin(t)[:, None] * np.ones(2)
        for gap in gaps:
            target[(t > gap) & (t < gap + 0.5)] = np.nan
        return Motion(name="a", t=t, q=target * 1.0, dq=target * 0, sent=t, target=target, width=0)

    def test_where_nothing_is_sent_a_motion_ends(self) -> None:
        parts = cut_motions(self.log(gaps=(4.0, 5.0)))
        assert [m.name for m in parts] == ["a #1", "a #2"]
        assert parts[0].t[-1] == pytest.approx(4.0) and parts[1].t[0] == pytest.approx(5.5)

    def test_one_motion_is_split_in_time_and_several_by_motion(self) -> None:
        one = cut_motions(self.log())[0]
        (fitted,), (validation,) = split_motions([one])
        assert fitted.t[-1] <= validation.t[0] and fitted.seconds > 2.5 * validation.seconds
        assert split_motions([one, one, one])[1] == [one]

    def test_long_motions_are_cut_and_too_many_refused(self) -> None:
        pieces = cut_motions(self.log(length=130.0))
        assert [round(m.seconds) for m in pieces] == [43, 43, 43]
        assert len(pieces[2].sent) == 13_000  # what was sent before still acts
        with pytest.raises(ValueError, match=r"650 s of motion, allowed are 600"):
            split_motions(pieces * 5)

    def test_nothing_that_moves_is_one_line(self) -> None:
        still = dataclasses.replace(self.log(), q=np.zeros((1000, 2)))
        for log in (still, self.log(length=2.0)):
            with pytest.raises(ValueError, match=r"No recording holds a motion.*mjx-serl excite"):
                split_motions(cut_motions(log))

    @pytest.mark.parametrize("delay", [0.0, 0.01, 0.0125, 0.03])
    def test_a_delay_shifts_what_is_held(self, delay: float) -> None:
        log, step = self.log(), 0.005
        grid = np.arange(1.0, 2.0, step)
        told = delayed(log, grid, step, delay)[:, 0]
        # By brute force: the mean over each step of the command that was sent last.
        fine = grid[:, None] + np.linspace(0, step, 1001)[None] - delay + 1e-9
        rows = np.searchsorted(log.sent, fine, side="right") - 1
        assert told == pytest.approx(log.target[rows, 0].mean(axis=1), abs=2e-5)


class TestRefusals:
    """What a person got wrong is one line that says what is allowed."""

    def test_recordings(self, recorded: Path, tmp_path: Path) -> None:
        one = next(iter(recorded.iterdir()))
        for paths, robot, said in (
            ((tmp_path,), "piper", "There is no recording in"),
            ((), "piper", "No recording is given; make one with `mjx-serl excite"),
            ((one,), "panda", "is of a 'piper', got --robot panda"),
            ((one,), "pipr", "Did you mean 'piper'"),
        ):
            with pytest.raises((ValueError, KeyError)) as error:
                command.main(paths, robot=robot, out=tmp_path / "out")
            assert said in str(error.value) and "\n" not in str(error.value)

    def test_without_the_extra(self, recorded: Path, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "tabulate", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'mjx-serl\[sysid\]'"):
            command.main((recorded,), robot="piper", out=tmp_path)
