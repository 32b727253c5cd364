"""The policy's loop: a chunk is played to its end before the policy is asked again."""

import numpy as np
from bench_arm import Bench

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
