"""The policy's loop: a chunk is played to its end before the policy is asked again."""

import numpy as np
from bench_arm import Bench

from robot_bridge.control.session import CONTROL_PERIOD

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
