"""A task that a person plays from the page: to record demonstrations, or to try it."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mjx_serl.data.demo_file import DemoFile
from mjx_serl.data.frames import FrameFile
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.pilot.devices import with_device
from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.recording import Frames, Keeper, Recording
from mjx_serl.pilot.stage import HOLD_S, Stage, run_stage
from mjx_serl.training.demonstrations import demo_contract
from mjx_serl.viewing.live_world import LiveWorld
from mjx_serl.viewing.policies import WorldPolicy
from mjx_serl.viewing.recorded_env import RecordedEnv, build_recorded_env
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_server import PilotServer
from scenes.contract.errors import InputError
from scenes.contract.operator import Device, Operator
from scenes.contract.ranges import require_episodes, require_seed

SUCCESSES = 200  # frames that SERL's record_success_fail.py asks for
SIZE = 256  # of the pictures that no policy sees [px]


def record_by_hand(
    task: str,
    path: Path,
    *,
    episodes: int,
    seed: int,
    pixels: PixelConfig,
    port: int,
    device: Device = "page",
    frames: Path | None = None,
    successes: int = SUCCESSES,
) -> int:
    """Serve the page until `episodes` solved ones are in the file; returns how many there are.

    Each is written as soon as it is over, and what is in the file already counts. Ctrl-C ends
    sooner; nothing is lost.

    Args:
        task: a registered one.
        path: of the file of demonstrations.
        episodes: that are wanted in it.
        seed: of the starts.
        pixels: what is observed, and recorded.
        port: of the page.
        device: beside the page's keys.
        frames: a file for the frames of all episodes, which the person marks as successes or not;
            then it goes on until there are enough of those too.
        successes: that are wanted there.

    Raises InputError for another kind of file or one of another task, or a port that is taken.
    """
    for file in (path, frames):
        if file is not None and file.suffix != ".npz":
            raise InputError(f"Demonstrations and frames are .npz files, got '{file}'")
    if frames is not None and frames.absolute() == path.absolute():
        raise InputError(f"Demonstrations and frames are two files, got '{path}' for both")
    if frames is not None and not pixels.cameras:
        raise InputError("--classifier-frames without cameras, allowed: --cameras front wrist")
    require_episodes(episodes)
    require_seed(seed)
    observer = pixels.build(make_env(task, physics="native", max_worlds=1))
    file = DemoFile(path, demo_contract(observer, states=True))
    marked = None
    if frames is not None:
        cameras = FrameFile(frames, cameras=tuple(sorted(pixels.cameras)), size=pixels.size)
        marked = Frames(cameras, successes)
    recording = Recording(file, wanted=episodes, frames=marked)
    if not recording.complete:
        recorded = build_recorded_env(observer, pixels, size=SIZE)
        _Table(recorded, recording, seed, port, device).serve()
    return len(file)


def play_by_hand(
    recorded: RecordedEnv, policy: WorldPolicy | None, *, seed: int, port: int, device: Device
) -> None:
    """Serve the page until Ctrl-C: the policy plays until the person does; nothing is kept."""
    _Table(recorded, Keeper(), seed, port, device, policy).serve()


@dataclass(frozen=True)
class _Table:
    """A world with its page and devices, all of it in this thread but the page."""

    recorded: RecordedEnv
    keeper: Keeper
    seed: int
    port: int
    device: Device
    policy: WorldPolicy | None = None

    @cached_property
    def page(self) -> BrowserOperator:
        """Keys and sticks."""
        return BrowserOperator(self.recorded.env.action_spec.names)

    @cached_property
    def operator(self) -> Operator:
        """All devices."""
        return with_device(self.page, self.device, self.recorded.env.action_spec.names)

    def serve(self) -> None:
        """Play until the keeper has all that it wants, or Ctrl-C."""
        self.operator.open()
        task = self.recorded.env.name
        server = PilotServer(self.page, port=self.port, about={"title": task})
        sys.stdout.write(f"{task}: {server.url} (Ctrl-C ends)\n")
        sys.stdout.flush()
        try:
            self._play(server)
        except KeyboardInterrupt:
            pass
        finally:
            server.close()
            self.operator.close()

    def _play(self, server: PilotServer) -> None:
        keeper, over = self.keeper, threading.Event()

        def tell() -> None:
            stage.told = keeper.told
            server.tell(keeper.about)
            if keeper.complete:
                over.set()

        def then_tell(do: Callable[..., None]) -> Callable[..., None]:
            def done(*args: EpisodeRows) -> None:
                do(*args)
                tell()

            return done

        def obey() -> None:
            while (order := self.page.take_order()) is not None:
                keeper.obey(order, stage)
                tell()

        stage = Stage(
            LiveWorld(self.recorded, seed=self.seed),
            self.operator,
            page=self.page,
            keep_states=keeper.wants_states,
            on_end=then_tell(keeper.ended),
            on_leave=then_tell(keeper.left) if keeper.wants_marks else None,
            on_undo=then_tell(keeper.undone),
        )
        stage.policy = self.policy
        tell()
        try:
            run_stage(stage, server, over, before=obey)
        finally:
            stage.cut()
        # The last message is to be seen.
        server.publish(stage.state(), stage.pictures())
        time.sleep(HOLD_S)
