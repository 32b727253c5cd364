"""A person at a training run: a world beside the epoch, in which the newest policy plays.

What the person does joins the run's interventions at the start of the next epoch, and the solved
episodes the run's file of demonstrations. While nobody is at the page nothing is computed, and the
run is, bit for bit, what it would be without it.
"""

import contextlib
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from mjx_serl.data.blocks import blocks_of
from mjx_serl.data.demo_file import DemoFile
from mjx_serl.envs.env import EnvState
from mjx_serl.pilot.devices import with_device
from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.stage import Stage, run_stage
from mjx_serl.pilot.stage_group import StageGroup
from mjx_serl.pilot.view import WorldView
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.loop import Companion, Run
from mjx_serl.run.programs import EpochFn, compile_epoch
from mjx_serl.training.demonstrations import demo_contract
from mjx_serl.training.off_policy import PEOPLE, PEOPLE_BLOCK, OffPolicy
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.state import PolicyParams, TrainState, shapes_of
from mjx_serl.training.trainer import Trainer
from mjx_serl.types import Actions, Obs, PRNGKey
from mjx_serl.viewing.live_world import LiveWorld
from mjx_serl.viewing.recorded_env import build_recorded_env
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_server import PilotServer

FILE = "interventions.npz"  # in the run's folder
_SEED = 1 << 20  # apart from those of the run's worlds
_STILL_S = 3.0  # a person who has moved nothing for this long holds no epoch


@dataclasses.dataclass(frozen=True)
class _Kept:
    """Where the last episode has gone that may be taken back.

    Attributes:
        world: that it was in, from 0.
        run: the run learns from it.
        file: it is in the file.
    """

    world: int = 0
    run: bool = False
    file: bool = False


class TrainingPilot(Companion):
    """Serves the page while a run trains."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._episodes: queue.SimpleQueue[EpisodeRows | Literal["undo"]] = queue.SimpleQueue()
        self._params: PolicyParams | None = None
        self._counts = {"episodes": 0, "solved": 0, "steps": 0, "driven": 0}
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="pilot program")
        self._learn: Future[EpochFn] | None = None
        self._last: int = 0  # rows of the last episode that the run has taken
        self._kept = _Kept()
        self._pauses = False  # epochs, while a person drives
        self._told = (0, 0)  # steps, and those driven, that the metrics have told of
        self._stages: StageGroup | None = None
        self._thread: threading.Thread | None = None
        self.server: PilotServer | None = None

    def start(self, run: Run) -> None:
        """Open the page; the world is built in a thread of its own, while the run compiles."""
        self._run = run
        names = run.env.action_spec.names
        self._page = BrowserOperator(names)
        self._operator = with_device(self._page, run.cfg.pilot.device, names)
        self._operator.open()
        self._pauses = run.cfg.pilot.pause
        title = f"{run.cfg.task}, {run.folder.path.name}"
        about = {"title": title, "pause": self._pauses, "worlds": run.cfg.pilot.worlds}
        self.server = PilotServer(self._page, port=run.cfg.pilot.port, about=about)
        run.hooks.on_stage(f"pilot: {self.server.url}")
        self._thread = threading.Thread(target=self._play, name="pilot world", daemon=True)
        self._thread.start()

    def before_epoch(
        self, run: Run, state: TrainState, epoch: EpochFn
    ) -> tuple[TrainState, EpochFn]:
        """Hand over what people did, and take the newest policy.

        Once there is something to learn from people, another program does; nobody waits for it
        before.
        """
        if self.server is not None and self.server.watched:
            # The epoch that follows is given the arrays for its own.
            self._params = jax.tree.map(jnp.copy, run.trainer.policy_params(state))
            self._prepare(run, state)
        state = self._take_all(run.trainer, state)
        if int(state.data[PEOPLE].usable) == 0:
            return state, epoch
        learn = self._prepare(run, state)
        if learn.done():
            return state, learn.result()
        with run.activity.doing("compiling the epoch that learns from people"):
            return state, learn.result()

    def _prepare(self, run: Run, state: TrainState) -> Future[EpochFn]:
        """Compile the epoch that learns from people, beside the others, once somebody is there."""
        if self._learn is None:
            assert isinstance(run.trainer, OffPolicy)
            trainer, shapes = run.trainer.learning_from_people(), shapes_of(state)
            self._learn = self._compiler.submit(compile_epoch, trainer, shapes)
        return self._learn

    def holds(self) -> bool:
        """Whether a person drives, and the page says that the epochs wait for it.

        A page that is closed moves nothing.
        """
        pushed_at = -math.inf if self._stages is None else self._stages.pushed_at
        return self._pauses and time.monotonic() - pushed_at < _STILL_S

    def before_end(self, run: Run, state: TrainState) -> TrainState:
        """Stop the world; the episode in progress is cut and handed over too."""
        self._halt()
        ended = self._thread is None or not self._thread.is_alive()
        if self._stages is not None and ended:
            self._stages.cut()
        return self._take_all(run.trainer, state)

    def close(self) -> None:
        """Close the page."""
        self._halt()
        if self.server is not None:
            self.server.close()
            self._operator.close()
        self._compiler.shutdown(wait=False, cancel_futures=True)

    def _halt(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def metrics(self) -> dict[str, float]:
        """What people have done so far in this process, and the share that they drove of late."""
        counts = dict(self._counts)
        steps, driven = counts["steps"] - self._told[0], counts["driven"] - self._told[1]
        self._told = counts["steps"], counts["driven"]
        share = {"people/share": driven / steps} if steps else {}
        return {f"people/{name}": float(count) for name, count in counts.items()} | share

    def _take_all(self, trainer: Trainer, state: TrainState) -> TrainState:
        while not self._episodes.empty():
            state = self._take(trainer, state, self._episodes.get())
        return state

    def _take(
        self, trainer: Trainer, state: TrainState, episode: EpisodeRows | Literal["undo"]
    ) -> TrainState:
        assert isinstance(trainer, OffPolicy)
        if episode == "undo":
            state, self._last = trainer.forget(state, self._last), 0
            return state
        blocks = blocks_of(episode.rows(), PEOPLE_BLOCK)
        for block in blocks:
            state = trainer.intervene(state, block)
        self._last = PEOPLE_BLOCK * len(blocks)
        return state

    # -- in the thread of the world ----------------------------------------------------------------

    def _play(self) -> None:
        try:
            self._play_on()
        except Exception as error:  # training outlives its audience
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warn_line(f"the pilot's world failed ({reason}); training goes on")

    def _play_on(self) -> None:
        run, server = self._run, self.server
        assert server is not None
        cfg = run.cfg
        # A device that trains would let this world wait for its epochs.
        with jax.default_device(_cpu()):
            # A world of its own: that of the run belongs to the epoch that is running.
            observer = dataclasses.replace(cfg, physics="native", num_envs=1).build_observer()
            recorded = build_recorded_env(observer, cfg.pixels, size=cfg.pilot.size)
            first = LiveWorld(recorded, seed=_SEED + cfg.seed)
            more = range(1, cfg.pilot.worlds)
            worlds = [first, *(first.another(seed=_SEED * (i + 1) + cfg.seed) for i in more)]
            self._file = DemoFile(run.folder.path / FILE, demo_contract(observer))
            stages = self._stages = StageGroup([self._staged(w, i) for i, w in enumerate(worlds)])
            self._act = _exploring(run.trainer)
            with contextlib.ExitStack() as beside:
                after: Callable[[], None] = lambda: None  # noqa: E731
                if cfg.pilot.view:
                    view = WorldView(first)
                    beside.callback(view.close)
                    run.hooks.on_stage(f"pilot, in three dimensions: {view.url}")
                    after = lambda: view.show(stages.chosen.world)  # noqa: E731
                before = partial(self._renew, stages)
                run_stage(stages, server, self._over, before=before, after=after)

    def _staged(self, world: LiveWorld, number: int) -> Stage:
        return Stage(
            world,
            self._operator,
            page=self._page,
            on_end=partial(self._ended, number),
            on_undo=partial(self._undone, number),
        )

    def _renew(self, stages: StageGroup) -> None:
        """Let the newest policy play, and do what was chosen on the page."""
        params, self._params = self._params, None
        if params is not None:
            stages.play(Partial(self._act, jax.device_put(params, _cpu())))
        while (order := self._page.take_order()) is not None:
            if order.name == "world":
                stages.choose(order.number)
            elif order.name == "pause" and self.server is not None:
                self._pauses = order.number > 0
                self.server.tell({"pause": self._pauses})

    def _ended(self, world: int, episode: EpisodeRows) -> None:
        counts = self._counts
        counts["episodes"] += 1
        counts["solved"] += episode.solved
        counts["steps"] += len(episode)
        counts["driven"] += episode.driven
        run = episode.driven > 0
        # What another world's policy has done since does not keep the last one from being undone.
        if run or world == self._kept.world:
            self._kept = _Kept(world, run, run and episode.solved)
        if run:
            self._episodes.put(episode)
            if episode.solved:
                self._file.append(episode.rows())
        self._tell()

    def _undone(self, world: int) -> None:
        """Take the last episode back from where it has gone, once, if it was of this world."""
        if world != self._kept.world:
            return
        if self._kept.run:
            self._episodes.put("undo")
        if self._kept.file:
            self._file.take_back()
        self._kept = _Kept()
        self._tell()

    def _tell(self) -> None:
        counts, stages = self._counts, self._stages
        assert stages is not None
        share = counts["driven"] / max(counts["steps"], 1)
        stages.tell(
            [
                f"episodes {counts['episodes']}, solved {counts['solved']}",
                f"driven by people {share:.0%} of the steps",
                f"demonstrations kept {len(self._file)}",
            ]
        )


def _cpu() -> Any:
    return jax.local_devices(backend="cpu")[0]


def _exploring(trainer: Trainer) -> Callable[..., Actions]:
    """The policy that acts in training, noise included, as a function of its parameters."""

    def act(params: PolicyParams, worlds: EnvState, obs: Obs, key: PRNGKey) -> Actions:
        del worlds
        return trained_policy(trainer, params, deterministic=False)(obs, key)

    return act
