"""The world at a person's pace: who acts, what is kept, how episodes end."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, FurtherCameras, ToyEnv

from mjx_serl.data.blocks import blocks_of
from mjx_serl.envs.observation import Observer
from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.stage import HOLD_S, Stage
from mjx_serl.training.off_policy import POLICY_ACTION
from mjx_serl.viewing.live_world import LiveWorld, Outcome
from mjx_serl.viewing.recorded_env import RecordedEnv
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_wire import pack_frame, parse_frame
from scenes.contract.operator import OperatorEvent, OperatorInput

pytestmark = pytest.mark.keeps_time

UP = np.array([1.0, 0.0])


class Person:
    """An operator's device that says what it is told to."""

    help_text, lost = "", None

    def __init__(self) -> None:
        self.said: OperatorInput | None = None

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def poll(self, now: float) -> OperatorInput | None:
        """What was set; an event once."""
        said = self.said
        if said is not None and said.event is not None:
            self.said = OperatorInput(action=said.action, enabled=said.enabled)
        return said


class Setup(SimpleNamespace):
    """A stage with a person, and what came of its episodes."""

    stage: Stage
    person: Person
    ended: list[EpisodeRows]
    undone: list[bool]

    def ticks(self, count: int, *, start: float = 0.0) -> None:
        """A step every tenth of a second."""
        for i in range(count):
            self.stage.tick(start + 0.1 * i)

    def press(self, event: OperatorEvent) -> None:
        """Say something once."""
        self.person.said = OperatorInput(event=event)


@pytest.fixture
def setup() -> Setup:
    env = ToyEnv()
    nothing = SimpleNamespace(
        config=SimpleNamespace(cameras=()), pictures=lambda worlds, look: {}, renderer=None
    )

    further: Any = FurtherCameras(env, nothing)
    world = LiveWorld(RecordedEnv(Observer(env), further), seed=1)
    person, ended, undone = Person(), [], []
    stage = Stage(world, person, on_end=ended.append, on_undo=lambda: undone.append(True))
    return Setup(stage=stage, person=person, ended=ended, undone=undone)


def pushing(value: float) -> Any:
    return jax.tree_util.Partial(lambda worlds, obs, key: jnp.full((1, 2), value))


def test_the_world_waits_where_there_is_no_policy(setup: Setup) -> None:
    setup.ticks(3)
    assert setup.stage.state()["driver"] == "waits"
    assert not setup.ended and setup.stage.state()["state"] == "step 0"
    setup.person.said = OperatorInput(action=UP, enabled=True)
    setup.ticks(1)
    assert setup.stage.state()["state"] == "step 1"


def test_the_policy_drives_until_the_person_does(setup: Setup) -> None:
    stage = setup.stage
    stage.policy = pushing(-0.5)
    setup.ticks(1)
    assert stage.state()["driver"] == "policy"
    setup.person.said = OperatorInput(action=UP, enabled=True)
    setup.ticks(1)
    assert stage.state()["driver"] == "person"
    setup.person.said = OperatorInput(enabled=True)  # holds still
    setup.ticks(1)
    setup.press("cut")
    setup.ticks(1)
    (episode,) = setup.ended
    rows = episode.rows()
    np.testing.assert_allclose(rows.action[:, 0], [[-0.5, -0.5], [1, 0], [0, 0]])
    np.testing.assert_allclose(rows.extras[POLICY_ACTION][:, 0], [[-0.5, -0.5]] * 3)
    np.testing.assert_array_equal(rows.expert[:, 0], [False, True, True])
    assert episode.driven == 2
    # What the second step answered is what the first one led to.
    before, after = rows.obs["x"][0, 0], rows.obs["x"][1, 0]
    np.testing.assert_allclose(after - before, [-0.05, -0.05], atol=1e-6)


def test_the_world_sleeps_while_nobody_is_at_the_page(setup: Setup) -> None:
    page = BrowserOperator(("push", "gripper"))
    stage = setup.stage
    stage._page, stage.policy = page, pushing(0.0)
    setup.ticks(3)
    assert stage.state()["driver"] == "sleeps" and stage.state()["state"] == "step 0"
    page.hear(parse_frame(pack_frame(1, 0, {}, frozenset({"awake"}))), 0.0)
    setup.ticks(2)
    assert stage.state()["driver"] == "policy" and stage.state()["state"] == "step 2"
    setup.ticks(1, start=5.0)
    assert stage.state()["driver"] == "sleeps"
    # Another device wakes it too.
    setup.person.said = OperatorInput(action=UP, enabled=True)
    setup.ticks(1, start=6.0)
    assert stage.state()["driver"] == "person"
    setup.person.said = None
    for start, driver in ((7.0, "policy"), (30.0, "sleeps")):
        setup.ticks(12, start=start)  # an episode that is over is held for some of them
        assert stage.state()["driver"] == driver


@pytest.mark.parametrize(
    ("event", "terminated", "reward", "solved"),
    [("success", True, 1.0, True), ("failure", True, 0.0, False), ("cut", False, 1.0, False)],
)
def test_the_person_says_how_it_ends(
    setup: Setup, event: OperatorEvent, terminated: bool, reward: float, solved: bool
) -> None:
    setup.stage.policy = pushing(0.0)
    setup.ticks(1)
    setup.press(event)
    setup.ticks(1)
    (episode,) = setup.ended
    rows = episode.rows()
    assert bool(rows.terminated[-1, 0]) is terminated
    assert bool(rows.truncated[-1, 0]) is not terminated
    assert rows.reward[-1, 0] == reward and episode.solved is solved


def test_an_ended_episode_is_shown_for_a_while_and_the_next_begins(setup: Setup) -> None:
    setup.stage.policy = pushing(0.0)
    now = 0.0
    while not setup.ended:
        assert now < STEPS
        now += 0.1
        setup.stage.tick(now)
    assert setup.stage.state()["state"] in ("solved", "over")
    assert not setup.stage.tick(now + 0.9 * HOLD_S)
    assert setup.stage.tick(now + 1.1 * HOLD_S)
    assert setup.stage.state()["state"] == "step 0" and len(setup.ended) == 1
    last = setup.ended[0].rows()
    assert last.terminated[-1, 0] or last.truncated[-1, 0]


def test_what_is_in_progress_is_kept_when_the_program_ends(setup: Setup) -> None:
    setup.stage.policy = pushing(0.0)
    setup.ticks(1)
    setup.stage.cut()
    (episode,) = setup.ended
    assert episode.rows().truncated[-1, 0]
    setup.stage.cut()
    assert len(setup.ended) == 1, "nothing is left"


@pytest.mark.parametrize(("length", "count"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_rows_are_cut_into_blocks_and_filled_up(length: int, count: int) -> None:
    episode = EpisodeRows()
    for i in range(length):
        outcome = Outcome(float(i), False, False, True, False)
        episode.add({"x": np.full(2, i, np.float32)}, UP, UP, outcome, person=True)
    blocks = blocks_of(episode.rows(), 4)
    assert [len(block.reward) for block in blocks] == [4] * count
    joined = jax.tree.map(lambda *xs: np.concatenate(xs), *blocks)
    np.testing.assert_array_equal(joined.reward[:length, 0], range(length))
    np.testing.assert_array_equal(joined.valid[:, 0], np.arange(4 * count) < length)


def test_a_replay_is_shown_in_place_of_the_world_until_somebody_acts(setup: Setup) -> None:
    stage, black = setup.stage, np.zeros((4, 4, 3), np.uint8)
    stage.replay(iter([("first", {"front": black}), ("second", {"front": black})]))
    setup.ticks(1)
    assert stage.state()["driver"] == "replay" and stage.state()["state"] == "first"
    assert list(stage.pictures()) == ["front"]
    setup.ticks(2)
    assert stage.state()["state"] == "step 0", "it has ended"
    stage.replay(iter([("first", {})] * 9))
    setup.ticks(1)
    setup.person.said = OperatorInput(action=UP, enabled=True)
    setup.ticks(1)
    assert stage.state()["driver"] == "person" and stage.state()["state"] == "step 1"


def test_what_is_marked_as_a_success_goes_on_after_the_end(setup: Setup) -> None:
    stage, page, left = setup.stage, BrowserOperator(("push", "gripper")), []
    stage._page, stage.policy, stage._on_leave = page, pushing(0.0), left.append
    now = 0.0

    def tick(*held: str) -> None:
        nonlocal now
        now += 0.1
        page.hear(parse_frame(pack_frame(round(10 * now), 0, {}, frozenset(held))), now)
        stage.tick(now)

    tick("awake")
    tick("awake", "mark")
    assert stage.state()["state"] == "step 2, 1 marked"
    setup.press("success")
    tick("awake")
    (episode,) = setup.ended
    for _ in range(round(2 * HOLD_S / 0.1)):
        tick("awake", "mark")
    assert not left and stage.state()["state"] == "solved, 15 marked"
    tick("awake")
    tick(*["awake"])
    assert not left, "it stays in view"
    now += HOLD_S
    tick("awake")
    assert left == [episode]
    pictures, marked = episode.frames(("x",))
    np.testing.assert_array_equal(marked, [False] + [True] * 15)
    assert pictures["x"].shape == (16, 2) and len(episode.rows().reward) == 2
