"""Worlds side by side: one is driven, the others go on by the policy."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import FurtherCameras, ToyEnv

from mjx_serl.envs.observation import Observer
from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.stage import Stage
from mjx_serl.pilot.stage_group import StageGroup
from mjx_serl.viewing.live_world import LiveWorld
from mjx_serl.viewing.recorded_env import RecordedEnv
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_wire import pack_frame, parse_frame

pytestmark = pytest.mark.keeps_time


class Side:
    """A camera that sees how far its world has come."""

    config: Any = SimpleNamespace(cameras=("side",))
    renderer = None

    def pictures(self, worlds: Any, look: tuple) -> dict[str, jax.Array]:
        """One grey."""
        grey = jnp.clip(50 * worlds.t, 0, 255).astype(jnp.uint8)
        return {"side": jnp.broadcast_to(grey[:, None, None, None], (len(grey), 8, 8, 3))}


class Setup(SimpleNamespace):
    """Three worlds at a page."""

    group: StageGroup
    page: BrowserOperator
    ended: list[tuple[int, EpisodeRows]]
    seq: int = 0

    def tick(self, *held: str) -> None:
        """A step, with what is held."""
        self.seq += 1
        self.page.hear(parse_frame(pack_frame(self.seq, 0, {}, frozenset(held))), 0.1 * self.seq)
        self.group.tick(0.1 * self.seq)


@pytest.fixture
def setup() -> Setup:
    env, ended = ToyEnv(), []
    further: Any = FurtherCameras(env, Side())
    first = LiveWorld(RecordedEnv(Observer(env), further), seed=1)
    page = BrowserOperator(("push", "gripper"))
    stages = [
        Stage(world, page, page=page, on_end=lambda e, i=i: ended.append((i, e)))
        for i, world in enumerate((first, first.another(seed=2), first.another(seed=3)))
    ]
    group = StageGroup(stages)
    group.play(jax.tree_util.Partial(lambda worlds, obs, key: jnp.full((1, 2), 0.5)))
    return Setup(group=group, page=page, ended=ended)


def test_worlds_share_their_programs_and_nothing_else(setup: Setup) -> None:
    first, second, _ = (stage.world for stage in setup.group.stages)
    assert first._step is second._step and first._choose is second._choose
    starts = [np.asarray(stage.world._world.carry) for stage in setup.group.stages]
    assert not np.allclose(starts[0], starts[1]) and not np.allclose(starts[1], starts[2])
    first.play(jnp.ones((1, 2)))
    np.testing.assert_array_equal(second._world.carry, starts[1])


def test_the_chosen_one_is_driven_and_the_others_go_on(setup: Setup) -> None:
    setup.tick("awake", "close", "drive")
    setup.group.choose(3)
    setup.group.choose(9)
    setup.tick("awake", "close", "drive")
    told = setup.group.state()
    assert told["chosen"] == 3 and told["driver"] == "person"
    assert [world["driver"] for world in told["worlds"]] == ["policy", "policy", "person"]
    experts = [[bool(s.expert) for s in stage._episode._steps] for stage in setup.group.stages]
    assert experts == [[True, False], [False, False], [False, True]]
    assert setup.group.pushed_at == pytest.approx(0.2)
    assert list(setup.group.pictures()) == ["1:side", "2:side", "3:side"]


def test_only_the_chosen_one_is_judged_and_undone(setup: Setup) -> None:
    setup.tick("awake")
    setup.group.choose(2)
    setup.tick("awake", "success")
    assert [(i, e.solved) for i, e in setup.ended] == [(1, True)]
    setup.group.choose(1)
    setup.tick("awake", "undo")
    assert [len(stage._episode) for stage in setup.group.stages][::2] == [1, 3]


def test_one_world_is_told_of_as_if_there_were_no_others(setup: Setup) -> None:
    alone = StageGroup(setup.group.stages[:1])
    assert "worlds" not in alone.state() and list(alone.pictures()) == ["side"]
