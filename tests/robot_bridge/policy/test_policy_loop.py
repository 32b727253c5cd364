"""The policy's loop: a chunk is played to its end before the policy is asked again."""

import math
from dataclasses import replace

import numpy as np
import pytest
from bench_arm import Bench

from robot_bridge.control.session import CONTROL_PERIOD, LockStep, Loop
from robot_bridge.messages import Command
from robot_bridge.reasons import Phase, Reason

HORIZON = 4


def chunk(call: int) -> np.ndarray:
    """Pushes to the left whose size names the call and the action in it."""
    actions = np.zeros((HORIZON, 4), np.float32)
    actions[:, 1] = 0.01 * (HORIZON * call + np.arange(HORIZON) + 1)
    return actions


def test_a_chunk_is_played_to_its_end_before_the_policy_is_asked_again() -> None:
    bench = Bench(chunk, horizon=HORIZON)  # runs for 0.5 s
    bench.run(1.1)
    played = [round(100 * float(tick.action[1])) for tick in bench.ticks if tick.action is not None]
    assert played == list(range(1, len(played) + 1)) and len(played) >= 14
    assert bench.policy.count == -(-len(played) // HORIZON)


def test_each_action_of_a_chunk_goes_with_what_is_seen_before_it() -> None:
    bench = Bench(chunk, horizon=HORIZON)
    collector, before = bench.collect_steps()
    bench.run(1.6)
    assert len(before) >= 12
    for step, position in zip(collector.steps, before, strict=True):
        np.testing.assert_allclose(step.obs["ee_position"], position, atol=1e-6)
    assert len({step.obs["ee_position"][1] for step in collector.steps}) == len(before)


def test_what_shows_a_chunk_plays_nothing_not_even_in_another_episode() -> None:
    bench = Bench(chunk, horizon=HORIZON, running=False)
    offered: list[Command] = []
    offer = bench.control.offer
    bench.control.offer = lambda command: (offered.append(command), offer(command))[1]
    bench.arm_it()
    bench.control.begin()
    bench.run(0.35)
    assert [command.seq for command in offered] == [1] * len(offered) and len(offered) >= 3
    bench.control.parts.gate.reset()
    now = bench.clock.now()
    refused = [bench.control.parts.gate.admit(command, now) for command in offered[1:]]
    assert all(reason & Reason.OLD_COMMAND for reason in refused)


def test_while_a_person_drives_the_policys_wish_is_the_action_whose_time_it_is() -> None:
    bench = Bench(chunk, horizon=HORIZON, running=False)
    bench.arm_it()
    bench.control.begin()
    push = np.array([[0.0, -0.4, 0.0, 0.0]], np.float32)
    wishes = []
    for seq in range(HORIZON):
        times = {"t": bench.clock.now(), "dt": 0.1, "valid_for": 0.25}
        bench.control.offer(Command(seq=seq, actions=push, source="operator", **times))
        wishes += [tick.policy_action for tick in bench.run(0.1) if tick.action is not None]
    wished = [round(100 * float(wish[1])) for wish in wishes if wish is not None]
    assert wished == list(range(wished[0], wished[0] + len(wished))) and len(wished) >= 3


@pytest.mark.parametrize(
    ("changes", "wish"),
    [
        ({"actions": np.zeros((0, 4), np.float32)}, None),
        ({"actions": None}, None),
        ({"dt": 0.0}, 4),
        ({"dt": math.nan}, 1),
        ({"t": math.inf}, 1),
    ],
)
def test_a_policys_nonsense_stops_nobody_who_drives(changes: dict, wish: int | None) -> None:
    bench = Bench(chunk, horizon=HORIZON, running=False)
    bench.arm_it()
    bench.control.begin()
    bench.control.tick()
    now = bench.clock.now()
    sound = Command(seq=1, t=now, actions=chunk(0), dt=0.1, valid_for=0.25)
    nonsense = Loop(lambda _: bench.control.offer(replace(sound, **changes)), 0.1, "policy")
    bench.stepper = LockStep(bench.control, nonsense, bench.clock)
    push = np.array([[0.0, -0.4, 0.0, 0.0]], np.float32)
    bench.control.offer(replace(sound, actions=push, source="operator"))
    ticks = bench.run(0.05)
    assert bench.phase is Phase.RUN and ticks[-1].intervened
    wanted = ticks[-1].policy_action
    assert wanted is None if wish is None else round(100 * float(wanted[1])) == wish


def test_without_a_horizon_it_is_asked_for_each_action() -> None:
    bench = Bench(chunk)
    played = [round(100 * float(tick.action[1])) for tick in bench.ticks if tick.action is not None]
    assert played == [HORIZON * call + 1 for call in range(len(played))]


def contrary(call: int) -> np.ndarray:
    """Chunks of which each wants, with all its might, the opposite of the one before."""
    actions = np.zeros((HORIZON, 4), np.float32)
    actions[:, :3] = 1.0 if call % 2 else -1.0
    return actions


def test_chunks_that_do_not_fit_each_other_are_joined_within_all_limits() -> None:
    """From rest into the first, and over each boundary; otherwise arms fault where chunks meet."""
    bench = Bench(contrary, horizon=HORIZON, running=False)
    bench.arm_it()
    bench.control.begin()
    ticks = bench.run(3.0)
    assert bench.policy.count >= 6
    targets = [tick.target for tick in ticks if tick.target is not None]
    positions = np.array([target.position for target in targets])
    joints = np.array([target.q for target in targets])
    limits, dt = bench.limits, CONTROL_PERIOD
    for order, tool, each in (
        (1, limits.tcp_speed, limits.joint_speed),
        (2, limits.tcp_acceleration, limits.joint_acceleration),
        (3, limits.tcp_jerk, limits.joint_jerk),
    ):
        moved = np.linalg.norm(np.diff(positions, order, axis=0), axis=1) / dt**order
        turned = np.abs(np.diff(joints, order, axis=0)).max(axis=0) / dt**order
        # One part in a thousand is the rounding of differences of the third order.
        assert moved.max() <= 1.001 * tool and (turned <= 1.001 * np.array(each)).all()
    speed = np.linalg.norm(np.diff(positions, axis=0), axis=1) / dt
    assert speed.max() > 0.5 * limits.tcp_speed, "they did move"
    began = int(np.argmax(speed > 1e-6))
    ramp = limits.tcp_acceleration * dt * np.arange(1, 11)
    assert (speed[began : began + 10] <= ramp * 1.001).all(), "the first chunk begins from rest"
