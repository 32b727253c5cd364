"""The learner's side of a run that learns from arms elsewhere.

Before each epoch what has come is stored; an epoch is trained once enough rows have come to pay for
it, so that the updates per row are bounded above. Below they are bounded by the actors, which are
told to wait before their next episode while too much has not been learned from. Nothing is taken
off an actor's disk before a checkpoint holds it.
"""

import collections
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mjx_serl.data.blocks import blocks_of
from mjx_serl.data.demos import demo_rows
from mjx_serl.export.bundle import parameters_by_name, write_bundle
from mjx_serl.learning.agentlace_feed import AgentlaceFeed
from mjx_serl.learning.arrivals import Arrivals, ArrivedEpisode
from mjx_serl.run.loop import Companion, Run
from mjx_serl.run.programs import EpochFn
from mjx_serl.training.by_parts import turn_of
from mjx_serl.training.from_actors import BLOCK, FromActors
from mjx_serl.training.pair_from_actors import PairFromActors
from mjx_serl.training.state import TrainState
from robot_bridge.agentlace.server import AgentlaceConfig
from robot_bridge.network.endpoints import parse_address
from robot_bridge.network.keys import Keyring, default_folder
from robot_bridge.network.transitions import TransitionServer
from scenes.contract.demonstrations import OBS, STEP_ARRAYS, DemoContract
from scenes.contract.manifest import PARAMS
from scenes.contract.policy_contract import TURN
from scenes.contract.weights import read_safetensors

ACTOR = "actor"  # the bundle that actors start with, in the run's folder
ACTORS, SEEN = "actors", "seen"  # in a checkpoint's meta
_FAREWELL_S = 0.3  # in which actors ask what is saved once more [s]
_LOOK_S = 0.01  # between two looks for rows [s]
_SAID_S = 10.0  # after which it says that nothing comes [s]
_PATIENCE_S = 0.2  # after which the loop may do other things [s]


@dataclass
class _Ledger:
    """What has been taken, as it is saved with a checkpoint.

    Attributes:
        upto: last batch of an episode that was stored, by actor.
        rows: stored so far.
        credit: of them, that no epoch has been trained for yet.
    """

    upto: dict[bytes, int] = field(default_factory=dict)
    rows: int = 0
    credit: int = 0

    def as_json(self) -> dict[str, Any]:
        upto = {run.hex(): number for run, number in self.upto.items()}
        return {"upto": upto, "rows": self.rows, "credit": self.credit}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "_Ledger":
        upto = {bytes.fromhex(run): int(number) for run, number in data["upto"].items()}
        return cls(upto, int(data["rows"]), int(data["credit"]))


class LearnerCompanion(Companion):
    """Listens for actors while a run trains."""

    def __init__(self) -> None:
        self._ledger = _Ledger()
        self._saving: tuple[int, dict[bytes, int]] = (-1, {})
        self._server: TransitionServer | None = None
        self._feed: AgentlaceFeed | None = None
        self._published, self._published_at = -1, 0.0
        self._idle_s = self._began = 0.0
        self._idle_since: float | None = None
        self._told_idle = False
        self._come: collections.deque[ArrivedEpisode] = collections.deque()  # not stored yet
        self._ages: list[float] = []  # of batches as they came [s], likewise
        self._episodes: list[ArrivedEpisode] = []  # that the metrics have not told of

    def start(self, run: Run) -> None:
        """Listen; what a checkpoint holds is not asked for again."""
        trainer = run.trainer
        assert isinstance(trainer, FromActors | PairFromActors)
        self._trainer, self._cfg, self._saved = trainer, run.cfg.actors, run.store
        if ACTORS in run.meta:
            self._ledger = _Ledger.of(run.meta[ACTORS])
            # A save before the next epoch writes nothing over the checkpoint that is there.
            self._saving = run.progress.epoch, dict(self._ledger.upto)
        self._arrivals = Arrivals(run.observer.contract)
        self._parts = run.observer.contract.parts
        assert self._cfg.address is not None
        address, keyed = parse_address(self._cfg.address)
        self._server = TransitionServer(
            address,
            keys=Keyring(default_folder()) if keyed else None,
            saved=self._ledger.upto,
            pace=self._cfg.pace,
        )
        if self._cfg.agentlace is not None:
            seen = run.meta.get(ACTORS, {}).get(SEEN, ())
            contract = run.observer.contract
            port = self._cfg.agentlace
            self._feed = AgentlaceFeed(
                AgentlaceConfig(
                    port_number=port,
                    broadcast_port=port + 1,
                    version=self._cfg.agentlace_version,
                ),
                DemoContract.of(run.cfg.task, contract.obs, contract.action),
                self._cfg.agentlace_map,
                seen,
            )
        self._began = time.monotonic()

    def before_epoch(
        self, run: Run, state: TrainState, epoch: EpochFn
    ) -> tuple[TrainState, EpochFn | None]:
        """Store what has come; None in place of an epoch while too little has."""
        assert self._server is not None
        if self._published < 0:
            self._offer_bundle(run, state)
        self._tell_saved()
        looked = time.monotonic()
        while True:
            state = self._take(state)
            if self._is_due:
                self._ledger.credit -= self._trainer.env_steps_per_epoch
                self._server.learned({}, ahead=self._ledger.credit)
                self._idle_s += time.monotonic() - looked
                self._idle_since, self._told_idle = None, False
                if not self._cfg.sync:
                    self._publish(run, state, every=self._cfg.publish_seconds)
                return state, epoch
            # Everything is learned from: what was published last says so.
            self._publish(run, state, every=0.0)
            self._server.learned(self._ledger.upto, ahead=0)
            if time.monotonic() - looked > _PATIENCE_S:
                self._idle_s += time.monotonic() - looked
                self._say_waiting(run)
                return state, None
            time.sleep(_LOOK_S)

    def memory(self) -> dict[str, Any]:
        """What a checkpoint that is made now must remember."""
        waiting = [key for episode in self._come for key in episode.keys]
        seen = [] if self._feed is None else self._feed.seen(without=waiting)
        return {ACTORS: self._ledger.as_json() | {SEEN: seen}}

    def on_save(self, epoch: int) -> None:
        """A checkpoint is made of what has been stored by now."""
        if epoch > self._saving[0]:  # a second one of the same epoch is not written
            self._saving = epoch, dict(self._ledger.upto)

    def before_end(self, run: Run, state: TrainState) -> TrainState:
        """Publish the last parameters."""
        self._publish(run, state, every=0.0)
        return state

    def close(self) -> None:
        """Stop listening, once actors have heard what the last checkpoint holds."""
        if self._server is not None:
            self._saved.wait()
            self._tell_saved()
            time.sleep(_FAREWELL_S)
        for listening in (self._server, self._feed):
            if listening is not None:
                listening.close()

    def metrics(self) -> dict[str, float]:
        """What came since the last epoch, and how the learner keeps up."""
        found, self._episodes = self._episodes, []
        elapsed = max(time.monotonic() - self._began, 1e-9)
        updates = self._trainer.updates_per_epoch / self._trainer.env_steps_per_epoch
        learned = self._ledger.rows - self._ledger.credit
        told = {
            "actors/rows": float(self._ledger.rows),
            "actors/updates_per_row": updates * learned / max(self._ledger.rows, 1),
            "actors/ahead": float(self._ledger.credit),
            "actors/idle_share": self._idle_s / elapsed,
            "actors/version": float(self._published),
            "actors/refused": float(
                self._arrivals.refused + (self._feed.refused if self._feed else 0)
            ),
        }
        trip = None if self._server is None else self._server.round_trip
        if trip is not None:
            told["actors/round_trip"] = trip
        ages, self._ages = self._ages, []
        if ages:
            told["actors/batch_age"] = sum(ages) / len(ages)
        if not found:
            return told
        paid = [float(episode.arrays["reward"].sum()) for episode in found]
        ended = [bool(e.arrays["terminated"][-1] and e.arrays["reward"][-1] > 0) for e in found]
        driven = sum(int(episode.arrays["expert"].sum()) for episode in found)
        rows = sum(map(len, found))
        return told | {
            "episode/count": float(len(found)),
            "episode/successes": float(sum(ended)),
            "episode/return_sum": sum(paid),
            "episode/step_sum": float(rows),
            "people/share": driven / rows,
            **self._of_parts(found, ended),
        }

    def _of_parts(
        self, found: Sequence[ArrivedEpisode], solved: Sequence[bool]
    ) -> dict[str, float]:
        """Episodes and successes of each part; {} of a task that has none."""
        told = {}
        for i, name in enumerate(self._parts):
            own = [good for episode, good in zip(found, solved, strict=True) if _part(episode) == i]
            told[f"pair/{name}_episodes"] = float(len(own))
            told[f"pair/{name}_successes"] = float(sum(own))
        return told

    # -- pieces ------------------------------------------------------------------------------------

    @property
    def _is_due(self) -> bool:
        """Whether what is stored pays for an epoch."""
        enough = self._ledger.rows >= self._trainer.first_rows
        return enough and self._ledger.credit >= self._trainer.env_steps_per_epoch

    def _take(self, state: TrainState) -> TrainState:
        """Store what has come.

        With `sync` an episode at a time, each once all before it is learned from: so it was the
        first time, also where they come all at once again.
        """
        assert self._server is not None
        batches = self._server.take()
        self._ages += [batch.age for batch in batches if batch.age is not None]
        self._come += self._arrivals.take(batches)
        if self._feed is not None:
            self._come += self._feed.take()
        while self._come and not (self._cfg.sync and self._is_due):
            state = self._store(state, self._come.popleft())
        return state

    def _store(self, state: TrainState, episode: ArrivedEpisode) -> TrainState:
        column = {name: x[:, None] for name, x in episode.arrays.items()}
        column["valid"] = np.ones_like(column["terminated"])
        kept = {n: x for n, x in column.items() if n.startswith("obs/") or n in STEP_ARRAYS}
        for block in blocks_of(demo_rows(kept), BLOCK):
            state = self._trainer.receive(state, block)
        if episode.run:
            self._ledger.upto[episode.run] = episode.id
        self._ledger.rows += len(episode)
        self._ledger.credit += len(episode)
        self._episodes.append(episode)
        return state

    def _publish(self, run: Run, state: TrainState, *, every: float) -> None:
        """Offer the newest parameters, if they are new and the last were long enough ago."""
        version, now = run.progress.epoch, time.monotonic()
        if version <= self._published or now - self._published_at < every:
            return
        assert self._server is not None
        found = parameters_by_name(run.trainer.policy_params(state))
        arrays = {name: found[name] for name in self._names if name in found}
        self._server.publish(version, arrays)
        if self._feed is not None:
            self._feed.publish(arrays)
        self._published, self._published_at = version, now

    def _offer_bundle(self, run: Run, state: TrainState) -> None:
        """Write the bundle that actors start with, and say how one is started."""
        path = run.folder.path / ACTOR
        if not path.exists():
            params = run.trainer.policy_params(state)
            write_bundle(run, params, path, summary=None, explores=True)
        self._names = tuple(read_safetensors((path / PARAMS).read_bytes()))
        run.hooks.on_stage(
            f"actors: python deploy.py {path} --robot sim --learner {self._cfg.address}"
        )
        self._publish(run, state, every=0.0)

    def _tell_saved(self) -> None:
        epoch, upto = self._saving
        if self._saved.last_saved == epoch and upto:
            assert self._server is not None
            self._server.saved(upto)

    def _say_waiting(self, run: Run) -> None:
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if now - self._idle_since > _SAID_S and not self._told_idle:
            self._told_idle = True
            run.hooks.on_stage("waiting for actors")


def _part(episode: ArrivedEpisode) -> int:
    """Whose turn it was in an episode of a task by turns: 0 or 1."""
    turns: Any = episode.arrays[f"{OBS}{TURN}"]
    return int(turn_of({TURN: turns})[0])
