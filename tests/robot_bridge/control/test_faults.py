"""Every fault of the list (robot_bridge.md section 5) that the runtime answers for.

For each: the phase it ends in, the reason that is given, and the time until it is noticed.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bench_arm import PHRASE, REFLEX, Bench, at_rest, changed, steady

from robot_bridge.control.session import Session, Tally
from robot_bridge.driver import ArmState, ArmToken, DriverError, Mode
from robot_bridge.messages import Command
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.supervisor import NotAllowedError
from scenes.contract.rotations import multiply_quats

FINE = np.array([[0.0, 0.4, 0.0, 0.0]], np.float32)


def bad_after(bad: Any, *, first: int = 7) -> Callable[[int], Any]:
    """A policy that is fine, and from call `first` on returns `bad`."""
    return lambda count: FINE if count < first else bad


def reasons_of(ticks: list[Any]) -> Reason:
    """All reasons given."""
    total = Reason.NONE
    for tick in ticks:
        total |= tick.reasons
    return total


# -- actions -----------------------------------------------------------------------------------

BAD_ACTIONS = {
    "nan": (np.array([[0, np.nan, 0, 0]], np.float32), Reason.NOT_FINITE),
    "inf": (np.array([[np.inf, 0, 0, 0]], np.float32), Reason.NOT_FINITE),
    "wrong shape": (np.zeros((1, 7), np.float32), Reason.BAD_SHAPE),
    "no chunk": (np.zeros(4, np.float32), Reason.BAD_SHAPE),
    "empty": (np.zeros((0, 4), np.float32), Reason.BAD_SHAPE),
    "integers": (np.zeros((1, 4), np.int64), Reason.BAD_SHAPE),
    "objects": (np.array([[None] * 4]), Reason.BAD_SHAPE),
}


@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_bad_actions_are_refused_and_the_arm_holds(name: str) -> None:
    bad, reason = BAD_ACTIONS[name]
    bench = Bench(bad_after(bad))
    took = bench.run_until(Phase.HOLD, within=1.0)
    # 0.2 s of good actions are left after the start; then nothing valid comes for 0.25 s.
    assert took <= 0.2 + 0.35 and reason & reasons_of(bench.ticks)
    assert bench.run_until(Phase.FAULT, within=3.0) <= 2.1
    for tick in bench.ticks:
        assert tick.target is None or np.isfinite(tick.target.q).all()


def test_huge_actions_are_clipped_and_the_arm_goes_on() -> None:
    bench = Bench(lambda _: np.array([[0, 1e30, 0, 0]], np.float32))
    ticks = bench.run(0.5)
    assert bench.phase is Phase.RUN and Reason.ACTION_CLIPPED & reasons_of(ticks)
    moved = np.diff([tick.target.position for tick in ticks], axis=0)
    assert np.linalg.norm(moved, axis=1).max() <= bench.limits.tcp_speed * 0.01 + 1e-9


# -- policies ----------------------------------------------------------------------------------


def raising(count: int) -> np.ndarray:
    if count >= 7:
        raise RuntimeError("out of memory")
    return FINE


def test_a_policy_that_raises_holds_then_faults() -> None:
    bench = Bench(raising)
    assert bench.run_until(Phase.HOLD, within=1.0) <= 0.25
    assert Reason.POLICY_ERROR & reasons_of(bench.ticks)
    assert bench.run_until(Phase.FAULT, within=3.0) <= 2.1


def test_a_policy_that_dies_holds_within_350_ms_and_comes_to_rest() -> None:
    bench = Bench()
    bench.policy.count = 0
    # Nobody turns the policy's loop any more.
    last = bench.clock.now()
    while bench.phase is Phase.RUN and bench.clock.now() - last < 1.0:
        bench.control.tick()
        bench.clock.advance(0.01)
    assert Reason.COMMAND_STALE & bench.ticks[-1].reasons
    assert bench.clock.now() - last <= 0.35
    for _ in range(50):
        bench.control.tick()
        bench.clock.advance(0.01)
    assert bench.phase is Phase.HOLD and at_rest(bench.ticks)


def test_a_policy_that_comes_back_goes_on_from_where_the_arm_is() -> None:
    bench = Bench()
    for _ in range(80):
        bench.control.tick()
        bench.clock.advance(0.01)
    assert bench.phase is Phase.HOLD
    stood = bench.ticks[-1].target.position
    ticks = bench.run(0.3)
    assert bench.phase is Phase.RUN
    assert np.linalg.norm(ticks[1].target.position - stood) < 1e-3
    np.testing.assert_allclose(ticks[0].goal.position, stood, atol=0.03)


def test_a_policy_at_1_hz_is_held_between_its_words() -> None:
    bench = Bench()
    for second in range(3):
        bench.loop.tick()
        for _ in range(100):
            bench.control.tick()
            bench.clock.advance(0.01)
        assert bench.phase is Phase.HOLD, second
    share = np.mean([tick.phase is Phase.RUN for tick in bench.ticks[-300:]])
    assert 0.2 < share < 0.4


@pytest.mark.parametrize("seq", [0, 3])
def test_old_and_repeated_commands_move_nothing(seq: int) -> None:
    bench = Bench()
    now = bench.clock.now()
    bench.control.offer(
        Command(seq=seq, t=now, actions=FINE * 2, dt=0.1, valid_for=0.25, source="policy")
    )
    tick = bench.control.tick()
    assert Reason.OLD_COMMAND & tick.reasons and tick.action is None


def test_a_command_from_the_past_is_refused() -> None:
    bench = Bench()
    late = bench.clock.now() - 0.3
    bench.control.offer(Command(seq=10_000, t=late, actions=FINE, dt=0.1, valid_for=5.0))
    assert Reason.OLD_COMMAND & bench.control.tick().reasons


def test_a_person_goes_before_the_policy_and_both_are_recorded() -> None:
    bench = Bench()
    push = np.array([[0.0, -0.4, 0.0, 0.0]], np.float32)
    bench.control.offer(
        Command(seq=1, t=bench.clock.now(), actions=push, dt=0.1, valid_for=0.25, source="operator")
    )
    tick = bench.run(0.02)[0]
    assert tick.intervened and tick.action[1] < 0 < tick.policy_action[1]
    # The person keeps the arm for half a second after the last push, then the policy has it.
    ticks = bench.run(1.0)
    assert bench.phase is Phase.RUN and not ticks[-1].intervened


def test_what_a_person_does_goes_with_what_is_seen_meanwhile() -> None:
    """A step's observation is of the state that its action changes, whoever chose the action."""
    bench = Bench()
    collector, positions = bench.collect_steps()
    push = np.array([[0.0, -0.4, 0.0, 0.0]], np.float32)
    now = bench.clock.now
    for seq in range(1, 9):
        bench.control.offer(
            Command(seq=seq, t=now(), actions=push, dt=0.1, valid_for=0.25, source="operator")
        )
        bench.run(0.1)
    steps = collector.steps
    assert len(steps) == 8 and all(step.intervened for step in steps)
    for step, position in zip(steps, positions, strict=True):
        np.testing.assert_allclose(step.obs["ee_position"], position, atol=1e-6)
    assert np.ptp([step.obs["ee_position"][1] for step in steps]) > 0.01


# -- observations ------------------------------------------------------------------------------


def test_a_camera_that_stops_holds_then_faults() -> None:
    bench = Bench(camera=True)
    stopped, clock, eye = bench.clock.now(), bench.clock, bench.eye
    frozen = clock.now()
    type(eye).age = property(lambda self: clock.now() - frozen, lambda self, value: None)
    try:
        assert bench.run_until(Phase.HOLD, within=1.0) <= 0.25
        assert Reason.OBSERVATION_STALE & reasons_of(bench.ticks)
        bench.run_until(Phase.FAULT, within=1.0)
        assert clock.now() - stopped <= 0.75
    finally:
        del type(eye).age


def test_a_camera_without_a_picture_holds() -> None:
    bench = Bench(camera=True)
    bench.eye.picture = None
    bench.run_until(Phase.HOLD, within=0.4)
    bench.eye.picture = np.full((8, 8, 3), 99, np.uint8)
    bench.run_until(Phase.RUN, within=0.4)


def test_late_pictures_hold_and_fresh_ones_go_on() -> None:
    bench = Bench(camera=True)
    bench.eye.age = 0.2
    bench.run_until(Phase.HOLD, within=0.4)
    bench.eye.age = 0.03
    bench.run_until(Phase.RUN, within=0.4)


@pytest.mark.parametrize(
    ("place", "problem"),
    [((np.nan, 0.0, 0.0), "nan"), ((450.0, 50.0, 20.0), "millimetres")],
    ids=["nan", "millimetres"],
)
def test_observations_that_cannot_be_hold_then_fault(
    place: tuple[float, ...], problem: str
) -> None:
    del problem
    bench = Bench()
    bench.places["cube"] = place
    assert bench.run_until(Phase.HOLD, within=0.4) <= 0.25
    assert Reason.OBSERVATION_BAD & bench.supervisor.cause
    assert bench.run_until(Phase.FAULT, within=3.0) <= 2.2


def test_an_object_that_is_lost_holds_until_it_is_found() -> None:
    bench = Bench()
    place = bench.places.pop("cube")
    bench.run_until(Phase.HOLD, within=0.4)
    assert Reason.OBSERVATION_STALE & bench.supervisor.cause
    bench.places["cube"] = place
    bench.run_until(Phase.RUN, within=0.4)


def test_a_covered_lens_holds() -> None:
    bench = Bench(camera=True)
    bench.eye.picture = np.zeros((8, 8, 3), np.uint8)
    bench.run_until(Phase.HOLD, within=0.4)
    assert Reason.OBSERVATION_BAD & bench.supervisor.cause


# -- the arm -----------------------------------------------------------------------------------

UP = np.array([0.0, 0.0, 1.0])
TILTED = np.array([np.cos(0.02), np.sin(0.02), 0.0, 0.0])  # by 0.04 rad

STATE_FAULTS = {
    "reflex": (REFLEX, Reason.ROBOT_FAULT),
    "user stop": (changed(mode=Mode.USER_STOPPED), Reason.ROBOT_FAULT),
    "taught by hand": (changed(mode=Mode.GUIDING), Reason.ROBOT_FAULT),
    "nan joints": (changed(q=np.full(7, np.nan)), Reason.NOT_FINITE),
    "nan pose": (changed(position=np.full(3, np.inf)), Reason.NOT_FINITE),
    "another tool": (
        lambda state: replace(state, position=state.position + 0.006 * UP),
        Reason.KINEMATICS_MISMATCH,
    ),
    "a turned tool": (
        lambda state: replace(state, quat=multiply_quats(state.quat, TILTED)),
        Reason.KINEMATICS_MISMATCH,
    ),
    "torque": (changed(tau=np.array([0.0, 80.0, 0, 0, 0, 0, 0])), Reason.TORQUE),
}


@pytest.mark.parametrize("name", STATE_FAULTS)
def test_what_the_arm_complains_about_faults_at_once(name: str) -> None:
    spoil, reason = STATE_FAULTS[name]
    bench = Bench()
    bench.arm.spoil = spoil
    assert bench.run_until(Phase.FAULT, within=0.1) <= 0.02
    assert reason & bench.supervisor.cause
    assert bench.arm.calls[-1] == "stop soft"
    bench.run(1.0)
    assert bench.phase is Phase.FAULT and bench.arm.calls[-1] == "stop soft"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (REFLEX, "robot_fault: the arm is reflex; joint_velocity_violation"),
        (
            STATE_FAULTS["another tool"][0],
            "kinematics_mismatch: The arm says that its tool is 0.006",
        ),
        (STATE_FAULTS["torque"][0], "torque: joint2 has 80.0 N m, allowed "),
    ],
)
def test_a_fault_says_why_in_the_arms_own_words(spoil: Any, why: str) -> None:
    bench = Bench()
    noted: list[dict[str, Any]] = []
    bench.supervisor._audit = lambda event, **facts: noted.append(facts)
    session = Session(bench.control, bench.stepper, Tally(), lambda: None)
    bench.supervisor.pause()
    bench.arm.spoil = spoil
    report = session.episode(1.0)
    assert report.ending == "fault" and report.fault.startswith(why), report.fault
    assert noted[0]["detail"] == bench.supervisor.detail
    bench.arm.spoil, bench.arm.broken = None, True
    bench.run(0.1)
    assert report.fault.startswith(why)  # what came first is what is wanted
    bench.arm.broken = False
    bench.supervisor.recover(bench.supervisor.confirm("recover", by="t", typed=PHRASE))
    assert bench.supervisor.detail == ""


def test_words_from_outside_are_one_line_that_a_terminal_can_show() -> None:
    bench = Bench()
    bench.arm.spoil = changed(mode=Mode.REFLEX, faults=("a\nb\x1b[2J" + "x" * 1000,))
    bench.run_until(Phase.FAULT, within=0.1)
    assert bench.supervisor.detail.isprintable() and len(bench.supervisor.detail) <= 300


def test_a_frozen_arm_holds_then_faults() -> None:
    bench = Bench()
    still = bench.arm.state()
    bench.arm.spoil = lambda state: still
    assert bench.run_until(Phase.HOLD, within=0.2) <= 0.05
    assert Reason.STATE_STALE & bench.supervisor.cause
    assert bench.run_until(Phase.FAULT, within=3.0) <= 2.1


def test_readings_and_pictures_from_the_future_hold(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.arm.spoil = lambda state: replace(state, t=state.t + 0.03)
    assert bench.run_until(Phase.HOLD, within=0.2) <= 0.05
    bench = Bench(camera=True)
    bench.eye.age = -0.2
    bench.run_until(Phase.HOLD, within=0.4)
    assert Reason.OBSERVATION_STALE & reasons_of(bench.ticks)
    # Half a second of it is one line, which names the camera.
    assert caplog.text.count("Camera 'front' stamps its readings") == 1


def test_a_repeating_source_is_seen_through_its_stamps() -> None:
    """Readings that are stamped anew but whose number stands still are old."""
    bench = Bench()
    still = bench.arm.state()
    bench.arm.spoil = lambda state: replace(still, t=state.t)
    assert bench.run_until(Phase.HOLD, within=0.2) <= 0.05


def test_a_poor_link_holds_until_it_is_good_again() -> None:
    bench = Bench()
    bench.arm.spoil = changed(link_quality=0.9)
    bench.run_until(Phase.HOLD, within=0.1)
    bench.arm.spoil = None
    bench.run_until(Phase.RUN, within=0.3)


def stuck(state: ArmState) -> Callable[[ArmState], ArmState]:
    """Fresh readings of an arm that does not move."""
    here = {name: getattr(state, name) for name in ("q", "dq", "position", "quat")}
    return changed(**here)


def test_an_arm_that_stands_behind_its_target_faults_after_two_seconds() -> None:
    bench = Bench()
    bench.arm.spoil = stuck(bench.arm.state())
    took = bench.run_until(Phase.FAULT, within=4.0)
    # Until its target is a leash away, and then as long as an arm may stand.
    assert 2.0 <= took <= 3.0
    assert bench.supervisor.cause & Reason.NOT_FOLLOWING
    assert bench.arm.calls[-1] == "stop soft"


def test_a_slow_arm_is_not_a_stuck_one() -> None:
    bench = Bench()
    q = bench.arm.state().q.copy()

    def crawl(state: ArmState) -> ArmState:
        q[0] += 1e-4  # 0.01 rad/s: far behind, on its way
        position, quat = chain.forward(q)
        return replace(state, q=q.copy(), position=position, quat=quat)

    chain = Chain(bench.contract.robot)
    bench.arm.spoil = crawl
    ticks = bench.run(4.0)
    assert bench.phase is Phase.RUN and Reason.LEASH & reasons_of(ticks)


def test_an_arm_that_is_not_asked_to_move_may_stand() -> None:
    bench = Bench(lambda _: np.zeros((1, 4), np.float32))
    bench.arm.spoil = stuck(bench.arm.state())
    bench.run(4.0)
    assert bench.phase is Phase.RUN


def test_time_in_which_nothing_was_asked_does_not_count() -> None:
    held = [True]
    bench = Bench(enabled=lambda: held[0])
    bench.arm.spoil = stuck(bench.arm.state())
    bench.run(1.5)
    held[0] = False  # a person lets go of the key for a while
    bench.run(5.0)
    assert bench.phase is Phase.HOLD
    held[0] = True
    bench.run(0.3)
    assert bench.phase is Phase.RUN


def test_an_arm_that_stands_on_its_way_home_faults() -> None:
    bench = Bench(running=False)
    bench.arm_it()
    bench.arm.spoil = stuck(bench.arm.state())
    bench.control.home(np.array(bench.contract.home) + 0.3)
    assert bench.run_until(Phase.FAULT, within=4.0) <= 3.0
    assert bench.supervisor.cause & Reason.NOT_FOLLOWING


def test_an_arm_whose_tool_is_another_is_not_armed() -> None:
    bench = Bench(running=False)
    bench.arm.spoil = STATE_FAULTS["another tool"][0]
    with pytest.raises(NotAllowedError, match=r"0\.006 m and 0\.00 rad .*allowed 0\.005 m"):
        bench.arm_it()
    assert bench.phase is Phase.DISARMED and "servo" not in bench.arm.calls
    bench.arm.spoil = None
    bench.arm_it()


def test_a_dead_driver_faults() -> None:
    bench = Bench()
    bench.arm.broken = True
    assert bench.run_until(Phase.FAULT, within=0.1) <= 0.02
    assert Reason.DRIVER_ERROR & bench.supervisor.cause


def test_a_control_loop_that_was_frozen_holds_then_goes_on() -> None:
    """SIGSTOP for 150 ms, as the loop sees it: one tick far behind its deadline."""
    bench = Bench()
    deadline = bench.clock.now()
    bench.clock.advance(0.15)
    tick = bench.control.tick(deadline)
    assert tick.phase is Phase.HOLD and Reason.WATCHDOG & tick.reasons
    bench.run_until(Phase.RUN, within=0.3)


def test_a_stall_of_50_ms_is_within_the_watchdog() -> None:
    bench = Bench()
    deadline = bench.clock.now()
    bench.clock.advance(0.05)
    assert bench.control.tick(deadline).phase is Phase.RUN


def test_a_bug_in_the_loop_stops_the_arm_before_it_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    monkeypatch.setattr(bench.control.parts.gate, "advance", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.run(0.2)
    assert bench.phase is Phase.FAULT and bench.arm.calls[-1] == "stop soft"


def test_a_sink_that_raises_costs_a_record_and_nothing_else() -> None:
    bench = Bench()
    bench.control.sinks = (*bench.control.sinks, lambda tick: 1 / 0)
    assert Reason.RECORD_DROPPED & reasons_of(bench.run(0.3))
    assert bench.phase is Phase.RUN


# -- people ------------------------------------------------------------------------------------


def test_nothing_moves_before_a_person_has_armed() -> None:
    bench = Bench(running=False)
    bench.run(0.3)
    assert bench.phase is Phase.DISARMED and "servo" not in bench.arm.calls
    with pytest.raises(NotAllowedError, match="must be armed"):
        bench.control.begin()


@pytest.mark.parametrize("typed", ["", "yes", PHRASE[:-1], PHRASE.upper()])
def test_arming_takes_the_very_phrase(typed: str) -> None:
    bench = Bench(running=False)
    with pytest.raises(NotAllowedError, match=f"type exactly: {PHRASE}"):
        bench.supervisor.confirm("arm", by="test", typed=typed)


def test_a_token_is_good_once_and_for_one_purpose() -> None:
    bench = Bench(running=False)
    token = bench.supervisor.confirm("arm", by="test", typed=PHRASE)
    bench.supervisor.arm(token)
    bench.supervisor.disarm()
    with pytest.raises(NotAllowedError, match="fresh token"):
        bench.supervisor.arm(token)
    with pytest.raises(NotAllowedError, match="fresh token"):
        bench.supervisor.arm(ArmToken(purpose="arm", by="forger"))


def test_recovery_takes_a_person_and_arming_again() -> None:
    bench = Bench()
    bench.arm.spoil = REFLEX
    bench.run_until(Phase.FAULT, within=0.1)
    with pytest.raises(NotAllowedError, match="while fault"):
        bench.arm_it()
    with pytest.raises(NotAllowedError, match="fresh token"):
        bench.supervisor.recover(ArmToken(purpose="recover", by="forger"))
    assert not bench.arm.recovered
    bench.supervisor.recover(bench.supervisor.confirm("recover", by="test", typed=PHRASE))
    assert bench.phase is Phase.DISARMED and len(bench.arm.recovered) == 1
    bench.arm_it()
    assert bench.phase is Phase.ARMED


def test_recovering_too_often_is_refused() -> None:
    bench = Bench(running=False)
    for _ in range(3):
        bench.supervisor.fault(Reason.ROBOT_FAULT)
        bench.supervisor.recover(bench.supervisor.confirm("recover", by="t", typed=PHRASE))
    bench.supervisor.fault(Reason.ROBOT_FAULT)
    token = bench.supervisor.confirm("recover", by="t", typed=PHRASE)
    with pytest.raises(NotAllowedError, match="3 recoveries within 10 minutes"):
        bench.supervisor.recover(token)
    bench.clock.advance(601.0)
    bench.supervisor.recover(token)


def test_an_emergency_stop_is_the_arms_own_stop() -> None:
    bench = Bench()
    bench.supervisor.fault(Reason.EMERGENCY_STOP, protective=True)
    assert bench.phase is Phase.FAULT and bench.arm.calls[-1] == "stop protective"
    bench.run(0.2)
    assert bench.arm.calls[-1] == "stop protective"


def test_an_emergency_stop_while_going_home() -> None:
    bench = Bench(running=False)
    bench.arm_it()
    bench.control.home(np.array(bench.contract.home) + 0.2)
    bench.run(0.3)
    assert "servo" in bench.arm.calls
    bench.supervisor.fault(Reason.EMERGENCY_STOP, protective=True)
    bench.run(0.3)
    assert bench.arm.calls[-1] == "stop protective"


def test_an_arm_that_freezes_while_going_home_is_not_driven_on() -> None:
    bench = Bench(running=False)
    bench.arm_it()
    bench.control.home(np.array(bench.contract.home) + 0.3)
    bench.run(0.5)
    still = bench.arm.state()
    bench.arm.spoil = lambda state: still
    ticks = bench.run(1.0)
    assert Reason.STATE_STALE & ticks[-1].reasons and at_rest(ticks)
    assert np.abs(ticks[-1].target.q - still.q).max() < 0.15


def test_letting_go_of_the_enabling_key_holds() -> None:
    held = [True]
    bench = Bench(enabled=lambda: held[0])
    held[0] = False
    assert bench.run_until(Phase.HOLD, within=0.1) <= 0.02
    assert Reason.OPERATOR_RELEASED & bench.supervisor.cause
    ticks = bench.run(5.0)  # a person may take their time
    assert bench.phase is Phase.HOLD and not Reason.COMMAND_STALE & reasons_of(ticks)
    held[0] = True
    bench.run_until(Phase.RUN, within=0.3)


# -- limits of an episode, time ----------------------------------------------------------------


def test_an_episode_ends_by_time() -> None:
    bench = Bench(episode_seconds=1.0)
    bench.run_until(Phase.HOLD, within=1.0)
    assert Reason.EPISODE_LIMIT & bench.supervisor.cause
    bench.run(1.0)
    assert bench.phase is Phase.HOLD  # it does not go on by itself


def test_an_episode_ends_by_path() -> None:
    bench = Bench(path_length=0.08)
    bench.run_until(Phase.HOLD, within=1.0)
    assert Reason.EPISODE_LIMIT & bench.supervisor.cause


def test_an_episode_ends_with_the_arm_at_rest() -> None:
    bench = Bench(lambda _: np.array([[0.0, 1.0, 0.0, 0.0]], np.float32))
    session = Session(bench.control, bench.stepper, Tally(), lambda: None)
    before = len(bench.ticks)
    session.settle()
    assert bench.phase is Phase.ARMED
    ticks = bench.ticks[before:]
    assert {tick.phase for tick in ticks} == {Phase.HOLD} and at_rest(ticks, speed=5e-3)
    moving = bench.ticks[before - 3 : before] + ticks
    speeds = np.diff([tick.target.position for tick in moving], axis=0) / 0.01
    assert np.linalg.norm(np.diff(speeds, axis=0), axis=1).max() / 0.01 <= 1.0 + 1e-6
    assert np.linalg.norm(speeds[0]) > 0.1


def test_a_jump_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(bench.clock, "wall", lambda: 0.0)
    bench.run(0.5)
    assert bench.phase is Phase.RUN


@contextlib.contextmanager
def unarmed(bench: Bench) -> Iterator[None]:
    bench.supervisor.disarm()
    yield


def test_a_disarmed_bridge_shows_a_reflex_but_stays_disarmed() -> None:
    bench = Bench()
    with unarmed(bench):
        bench.arm.spoil = REFLEX
        tick = bench.run(0.05)[-1]
    assert bench.phase is Phase.DISARMED and Reason.ROBOT_FAULT & tick.reasons


def test_steady_policies_stay_in_run() -> None:
    """The bench itself is sound: with nothing wrong there is no reason to stop."""
    bench = Bench(steady)
    ticks = bench.run(2.0)
    stops = Reason.COMMAND_STALE | Reason.STATE_STALE | Reason.WATCHDOG | Reason.NOT_FINITE
    assert bench.phase is Phase.RUN and not stops & reasons_of(ticks)
    assert isinstance(bench.arm.state(), ArmState)


def test_a_driver_error_while_stopping_is_kept_as_a_cause() -> None:
    bench = Bench()
    bench.arm.broken = True
    bench.supervisor.fault(Reason.EMERGENCY_STOP, protective=True)
    assert Reason.DRIVER_ERROR & bench.supervisor.cause
    with pytest.raises(DriverError):
        bench.arm.servo(None)
