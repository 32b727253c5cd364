"""Demonstrations by hand on a real task, with a device that plays the expert for the person."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mjx_serl.data.demo_file import DemoFile
from mjx_serl.data.demos import load_demos
from mjx_serl.data.frames import FrameFile, load_frames
from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.pilot import by_hand
from mjx_serl.pilot.by_hand import record_by_hand
from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.recording import Frames, Recording, replayed
from mjx_serl.pretraining.classifier import ClassifierConfig
from mjx_serl.pretraining.classifier_run import TrainClassifier, train
from mjx_serl.training.demonstrations import demo_contract
from mjx_serl.viewing.live_world import LiveWorld, Outcome
from mjx_serl.viewing.recorded_env import build_recorded_env
from robot_bridge.operators.page_server import PilotServer
from robot_bridge.operators.page_wire import pack_frame
from scenes.contract.demonstrations import DemoContract
from scenes.contract.operator import OperatorInput
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

pytestmark = pytest.mark.keeps_time

TASK = "franka/pick_cube"


class ExpertHand:
    """Says at each moment what the task's expert would do: an operator that sees the state."""

    help_text, lost = "", None

    def __init__(self) -> None:
        self.world: Any = None
        self.server: PilotServer | None = None
        self._act = None

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def poll(self, now: float) -> OperatorInput:
        """Drive."""
        if self._act is None:
            demonstrate = jax.vmap(self.world.env.task.demonstrate)
            self._act = jax.jit(lambda w: demonstrate(w.sim, w.command, w.task_state)[0])
        action = np.clip(np.asarray(self._act(self.world._world)), -1, 1)
        return OperatorInput(action=action, enabled=True)


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch, sparse: Env) -> ExpertHand:
    """The device, with a page that is open and time that does not pass."""
    hand = ExpertHand()

    class SeenWorld(LiveWorld):
        """One whose state the device sees."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.dt = 0.0
            hand.world = self

    class Watched(PilotServer):
        """One that has a page."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"port": 0})
            hand.server = self
            self._page_open = threading.Thread(target=self._look)
            self._page_open.start()

        def _look(self) -> None:
            url = f"ws://127.0.0.1:{self.port}/pictures?token={self.token}"
            with connect(url, origin=f"http://127.0.0.1:{self.port}") as page:
                for _ in page:
                    pass

        def close(self) -> None:
            super().close()
            self._page_open.join(timeout=5)

    monkeypatch.setattr(by_hand, "LiveWorld", SeenWorld)
    monkeypatch.setattr(by_hand, "PilotServer", Watched)
    monkeypatch.setattr(by_hand, "HOLD_S", 0.0)
    monkeypatch.setattr("mjx_serl.pilot.stage.HOLD_S", 0.0)
    monkeypatch.setattr(by_hand, "with_device", lambda page, device, names: hand)
    monkeypatch.setattr(by_hand, "make_env", lambda task, **options: sparse)
    monkeypatch.setattr(by_hand, "SIZE", 16)
    return hand


def rows_of(env: Env) -> DemoContract:
    """Of a file of the task."""
    return demo_contract(Observer(env))


@pytest.mark.usefixtures("hand")
def test_solved_episodes_are_kept_and_the_file_goes_on(
    tmp_path: Path, sparse: Env, capsys: pytest.CaptureFixture[str]
) -> None:
    path, pixels = tmp_path / "mine.npz", PixelConfig()
    record = lambda count: record_by_hand(  # noqa: E731
        TASK, path, episodes=count, seed=1, pixels=pixels, port=8011
    )
    assert record(1) == 1
    rows = load_demos(path, rows_of(sparse))
    assert rows.reward.shape[1] == 1 and rows.reward.sum() == 1
    np.testing.assert_array_equal(rows.expert, rows.valid)
    assert record(2) == 2
    states = load_demos(path, demo_contract(Observer(sparse), states=True), relabel=True).extras
    assert states["sim/qpos"].shape[:2] == load_demos(path, rows_of(sparse)).reward.shape
    assert capsys.readouterr().out.count("(Ctrl-C ends)") == 2
    assert record(2) == 2, "there is nothing left to do"
    assert "Ctrl-C" not in capsys.readouterr().out


class Marker(threading.Thread):
    """Holds the page's key for success while the cube is up, for `NEEDED` moments."""

    NEEDED = 3

    def __init__(self, hand: ExpertHand) -> None:
        super().__init__(daemon=True)
        self._hand, self.over = hand, threading.Event()

    def run(self) -> None:
        """Say it twenty times and more a second, as the page does."""
        while self._hand.server is None:
            assert not self.over.wait(0.01)
        port, token = self._hand.server.port, self._hand.server.token
        url = f"ws://127.0.0.1:{port}/input?token={token}"
        with connect(url, origin=f"http://127.0.0.1:{port}") as page:
            seq, up = 0, 0
            while not self.over.wait(0.01):
                seq, world = seq + 1, self._hand.world
                solved = world is not None and bool(world._world.success[0])
                up = up + 1 if solved else 0
                held = {"mark", "drive"} if 0 < up <= self.NEEDED else set()
                with contextlib.suppress(ConnectionClosed):  # at the end
                    page.send(pack_frame(seq, 0, {}, frozenset({"awake", *held})))


@pytest.mark.slow
def test_a_classifier_learns_from_frames_that_a_person_marked(
    hand: ExpertHand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mjx_serl.pilot.stage.HOLD_S", 0.2)
    path, frames, size = tmp_path / "mine.npz", tmp_path / "frames.npz", 32
    pixels = PixelConfig(cameras=("front",), size=size, splats=500)
    marker = Marker(hand)
    marker.start()
    count = record_by_hand(
        TASK, path, episodes=4, seed=1, pixels=pixels, port=0, frames=frames, successes=4
    )
    marker.over.set()
    marker.join(timeout=5)
    assert count == 4
    _, label, episode = load_frames(frames, cameras=("front",), size=size, classes=2)
    assert set(episode) == {0, 1, 2, 3} and label.sum() >= 4
    # What is marked comes after the end, which the episode in the file does not hold.
    for number in range(4):
        assert not label[episode == number][0] and label[episode == number][-1]
    cfg = TrainClassifier(
        out=tmp_path / "classifier.npz",
        task=TASK,
        pixels=pixels,
        frames=(frames,),
        simulate=False,
        train=ClassifierConfig(
            updates=250,
            batch_size=32,
            lr=1e-3,
            crop=1,
            held_out=0.5,
            encoder=EncoderConfig(name="small", features=8),
            hidden=16,
        ),
    )
    _, (found,) = train(cfg)
    assert cfg.out.is_file() and found.recognised > 0.5 and found.mistaken < 0.2


def test_a_replay_shows_what_the_cameras_saw_or_would_have_seen(sparse: Env) -> None:
    world = LiveWorld(build_recorded_env(Observer(sparse), PixelConfig(splats=500), size=16))
    seen, states = [], []
    for _ in range(3):
        world.play(np.array([[1.0, 0.5, -1.0, 0.0]], np.float32))
        seen.append(world.pictures())
        states.append({f"state/{name}": x for name, x in world.states().items()})
    arrays = {name: np.stack([s[name] for s in states]) for name in states[0]}
    arrays["reward"] = np.zeros(3, np.float32)
    world.restart()
    found = list(replayed("episode 1", arrays, world))
    assert [said for said, _ in found] == [f"episode 1, step {i} of 3" for i in (1, 2, 3)]
    for (_, pictures), there in zip(found, seen, strict=True):
        for name, picture in there.items():
            np.testing.assert_array_equal(pictures[name], picture, err_msg=name)
    assert not np.array_equal(seen[0]["side"], seen[2]["side"])
    # What was recorded goes first; without either, that is said.
    recorded = np.stack([there["front"] for there in seen])
    found = list(replayed("episode 1", arrays | {"obs/front": recorded}, world))
    assert [list(pictures) for _, pictures in found] == [["front"]] * 3
    np.testing.assert_array_equal(found[2][1]["front"], recorded[2])
    said, pictures = next(replayed("episode 1", {"reward": arrays["reward"]}, world))
    assert "cannot be shown" in said and not pictures


def test_what_cannot_be_recorded_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"are \.npz files"):
        record_by_hand(TASK, tmp_path / "x.h5", episodes=1, seed=0, pixels=PixelConfig(), port=8011)
    path, frames = tmp_path / "x.npz", tmp_path / "frames.npz"
    with pytest.raises(ValueError, match="two files"):
        record_by_hand(TASK, path, episodes=1, seed=0, pixels=PixelConfig(), port=8011, frames=path)
    with pytest.raises(ValueError, match="allowed: --cameras front wrist"):
        record_by_hand(
            TASK, path, episodes=1, seed=0, pixels=PixelConfig(), port=8011, frames=frames
        )


def played(*solved: bool) -> list[EpisodeRows]:
    """Episodes of two steps, of which the second is marked where it is solved."""
    made = []
    for value, good in enumerate(solved):
        rows = EpisodeRows()
        for last in (False, True):
            outcome = Outcome(float(last and good), last, False, True, last and good)
            obs = {"x": np.full(2, value, np.float32), "front": np.full((8, 8, 3), value, np.uint8)}
            rows.add(obs, np.zeros(2), np.zeros(2), outcome, person=True, marked=last and good)
        made.append(rows)
    return made


def test_frames_go_and_come_back_with_their_episode(tmp_path: Path) -> None:
    fields = (
        ObsField(name="x", shape=(2,)),
        ObsField(name="front", shape=(8, 8, 3), dtype="uint8"),
    )
    action = ActionSpec(mode="ee_delta", names=("x", "gripper"), scale=(0.1, 1.0), rate=10.0)
    contract = DemoContract.of("toy", ObsSpec(fields=fields), action)
    demos = DemoFile(tmp_path / "mine.npz", contract)
    frames = Frames(FrameFile(tmp_path / "frames.npz", cameras=("front",), size=8), wanted=2)
    recording = Recording(demos, wanted=1, frames=frames)
    assert recording.about["marks"]
    good, bad, again = played(True, False, True)
    again.after = [{"front": np.full((8, 8, 3), 9, np.uint8)}]
    for episode in (good, bad):
        recording.ended(episode)
        recording.left(episode)
    assert frames.file.counts == (3, 1) and len(demos) == 1 and not recording.complete
    recording.undone()
    assert frames.file.counts == (1, 1) and len(demos) == 1, "the last one was not solved"
    recording.undone()
    assert frames.file.counts == (1, 1) and len(demos) == 1, "once"
    recording.ended(again)
    assert len(demos) == 2 and not recording.complete, "it may still be marked"
    recording.left(again)
    assert frames.file.counts == (2, 3) and recording.complete
    assert "frames: 3 of 2 successes, 2 others, in frames.npz" in recording.told
    recording.undone()
    assert frames.file.counts == (1, 1) and len(demos) == 1
