"""Which observation an executed action is kept with."""

from dataclasses import replace

import numpy as np
from bench_arm import Bench

from robot_bridge.records.steps import StepCollector

ACTION = np.zeros(4, np.float32)


class Ticks:
    """A collector that is given ticks at given times."""

    def __init__(self) -> None:
        self.collector = StepCollector()
        self.tick = Bench(running=False).run(0.01)[0]

    def __call__(self, ms: int, *, act: bool = False, seen: int | None = None) -> None:
        obs = None if seen is None else {"number": np.array(seen)}
        changes = {"t": self.tick.t + 1e-3 * ms, "action": ACTION if act else None}
        self.collector.take(replace(self.tick, **changes), obs)

    @property
    def kept(self) -> list[int]:
        return [int(step.obs["number"]) for step in self.collector.steps]


def test_an_action_is_kept_with_the_newest_observation_before_it() -> None:
    give = Ticks()
    give(0, act=True)  # nothing was seen yet: no step
    give(10, seen=1)
    give(50, act=True, seen=2)
    give(60, seen=3)  # of the state after it, although it comes at once
    give(150, act=True)
    assert give.kept == [2, 3]


def test_an_observation_that_comes_a_little_late_is_that_of_its_action() -> None:
    give = Ticks()
    give(0, act=True, seen=1)
    give(100, act=True)  # a chunk's next action does not wait to be observed
    give(110, seen=2)
    give(200, act=True)
    give(230, seen=3)  # too late: the arm has moved
    give(300, act=True)
    give(310, act=True, seen=5)  # with another action it is that one's
    assert give.kept == [1, 2, 2, 3, 5]
