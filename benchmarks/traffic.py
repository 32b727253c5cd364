"""Is anything lost or stored twice between an arm and its learner, whatever happens on the way?

    python -m benchmarks.traffic --seconds 600

An actor hands over 200 steps a second with two pictures of 128 px; a learner takes them, saves what
it has every few seconds, and publishes parameters. Between them the network is cut for a second now
and then, and repeats and swaps messages; both are killed and started anew again and again; for a
while the learner is away for longer than the actor's spool has room: its own bound, or, with
`--spool`, that of a small disk, which is then full:

    mount -t tmpfs -o size=250m tmpfs /mnt/small
    python -m benchmarks.traffic --seconds 600 --spool /mnt/small

At the end each step that the actor did not count as lost must be in what the learner saved, once.
The loop that hands steps over is timed: it stands for the control loop.
"""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.resumable import drop, go_on
from mjx_serl.learning.arrivals import Arrivals
from robot_bridge.driver import ArmState, Mode
from robot_bridge.learning.experience import Experience
from robot_bridge.messages import Goal, Tick
from robot_bridge.network.codec import decode
from robot_bridge.network.spool import Spool
from robot_bridge.network.transition_client import TransitionClient
from robot_bridge.network.transitions import TransitionServer
from robot_bridge.reasons import Phase, Reason
from scenes.contract.errors import InputError
from scenes.contract.files import write_atomically
from scenes.contract.ranges import ranged
from scenes.contract.specs import ObsField, ObsSpec

QUESTION = "traffic"
FULL_DISK = "missing, with a full disk"
STEPS_S = 200.0  # a second
EPISODE = 100  # steps
PIXELS = 128
_NOTED = 40  # steps after which an actor has noted where it is, at the latest
SAVE_S = 3.0  # between two saves of the learner [s]
SPOOL_BYTES = 400 << 20
AWAY_S = 35.0  # once, for longer than the spool has room [s]
FIELDS = (
    *(ObsField(name=n, shape=(PIXELS, PIXELS, 3), dtype="uint8") for n in ("front", "wrist")),
    ObsField(name="number", shape=(1,)),
)
# All that `Arrivals` asks of a contract.
CONTRACT: Any = SimpleNamespace(obs=ObsSpec(fields=FIELDS), action=SimpleNamespace(dim=4))


@dataclass(frozen=True, kw_only=True)
class TrafficConfig:
    """How long, and what happens.

    Attributes:
        seconds: of traffic [s].
        every: time between two mishaps on average [s].
        folder: where it plays.
        spool: of the actor; in `folder` where none is named.
        role: what this process is; the others are started by the benchmark.
    """

    seconds: float = ranged(600.0, above=0)
    every: float = ranged(8.0, above=0)
    folder: Path = Path("runs/traffic")
    spool: Path | None = None
    role: str = "benchmark"


# -- the actor -------------------------------------------------------------------------------------


@dataclass
class _Noticed:
    """What an actor's loop notices of handing over [ms], and of parameters."""

    worst_put_ms: float = 0.0
    late: int = 0
    versions: list[int] = field(default_factory=list)
    troubles: set[str] = field(default_factory=set)

    def put(self, took_ms: float, trouble: str | None) -> None:
        """Note one step that was handed over."""
        self.worst_put_ms = max(self.worst_put_ms, took_ms)
        self.late += took_ms > 10.0
        self.troubles |= {trouble} if trouble else set()


def act(cfg: TrafficConfig) -> None:
    """Hand over steps until told to stop, each with its number; go on counting where one died."""
    folder = cfg.folder
    # A disk that is named bounds the spool itself.
    bound = {"most_bytes": SPOOL_BYTES} if cfg.spool is None else {}
    client = TransitionClient(f"ipc://{folder}/actor.sock", spool=Spool(_spool(cfg), **bound))
    experience = Experience(client, CONTRACT.obs)
    # One that was killed may have handed over more than it noted: no number is used twice.
    noted = folder / "number"
    number = int(noted.read_text()) + _NOTED if noted.exists() else 0
    noticed, due = _Noticed(), time.monotonic()
    if number % EPISODE:
        experience.event("begin")
    while not (folder / "stop").exists():
        if number % EPISODE == 0:
            experience.event("begin")
        tick, obs = _step(number)
        begun = time.perf_counter()
        experience.put(tick, obs)
        noticed.put(1e3 * (time.perf_counter() - begun), client.trouble)
        number += 1
        if number % EPISODE == 0:
            experience.event("timeout")
        new = client.parameters
        if new is not None and new.version not in noticed.versions[-1:]:
            noticed.versions.append(new.version)
        if number % (_NOTED // 2) == 0:
            # What a killed actor has not handed over yet is no promise: it is told of before.
            _note(folder, number, experience, noticed)
        due += 1.0 / STEPS_S
        time.sleep(max(0.0, due - time.monotonic()))
    experience.close()
    client.flush(60.0)
    _note(folder, number, experience, noticed)
    client.close()


def _note(folder: Path, number: int, experience: Experience, noticed: _Noticed) -> None:
    write_atomically(folder / "number", str(number))
    told = {
        "handed": experience.steps,
        "lost": experience.lost,
        "worst_put_ms": noticed.worst_put_ms,
        "late": noticed.late,
        "versions_fall": sum(b < a for a, b in itertools.pairwise(noticed.versions)),
        "troubles": sorted(noticed.troubles),
    }
    write_atomically(folder / f"actor-{os.getpid()}.json", json.dumps(told))


def _step(number: int) -> tuple[Tick, dict[str, np.ndarray]]:
    zeros = np.zeros(7)
    state = ArmState(
        t=0.0,
        seq=number,
        q=zeros,
        dq=zeros,
        position=zeros[:3],
        quat=np.array([1.0, 0.0, 0.0, 0.0]),
        gripper_width=0.0,
        mode=Mode.MOVING,
    )
    tick = Tick(
        index=number,
        t=0.0,
        wall=0.0,
        phase=Phase.RUN,
        reasons=Reason.NONE,
        state=state,
        goal=Goal(position=zeros[:3], quat=state.quat, closure=0.0),
        action=np.zeros(4, np.float32),
        source="policy",
    )
    picture = np.full((PIXELS, PIXELS, 3), number % 256, np.uint8)
    # Exact in float32 up to 16.7 million steps.
    return tick, {"front": picture, "wrist": picture, "number": np.array([number], np.float32)}


# -- the learner -----------------------------------------------------------------------------------


def learn(cfg: TrafficConfig) -> None:
    """Take episodes, save the numbers of their steps, publish a version at each save."""
    folder = cfg.folder
    saved = folder / "saved.json"
    kept: dict[str, Any] = {"upto": {}, "version": 0, "numbers": []}
    if saved.exists():
        kept = json.loads(saved.read_text())
    upto = {bytes.fromhex(run): number for run, number in kept["upto"].items()}
    version: int = kept["version"]
    numbers: list[int] = kept["numbers"]
    arrivals, due = Arrivals(CONTRACT), 0.0
    with TransitionServer(f"ipc://{folder}/learner.sock", saved=upto) as server:
        while not (folder / "end").exists():
            for episode in arrivals.take(server.take()):
                numbers += [int(n) for n in episode.arrays["obs/number"][:, 0]]
                upto[episode.run] = episode.id
            if time.monotonic() > due:
                due, version = time.monotonic() + SAVE_S, version + 1
                told = {run.hex(): number for run, number in upto.items()}
                # One file, so that what was taken and up to where are of one moment.
                text = json.dumps({"upto": told, "version": version, "numbers": numbers})
                write_atomically(saved, text)
                server.saved(upto)
                server.publish(version, {"w": np.full(50_000, version, np.float32)})
            time.sleep(0.005)


# -- the network between them ----------------------------------------------------------------------


class Network:
    """Passes messages on; repeats some, swaps some, and none while it is cut."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        import zmq

        self.cut_until, self.repeated, self.swapped, self.lost = 0.0, 0, 0, 0
        self._zmq, self._draw, self._over = zmq, draw, threading.Event()
        self._learner = f"ipc://{folder}/learner.sock"
        self._context, self._poller = zmq.Context.instance(), zmq.Poller()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.linger = 0
        self._front.bind(f"ipc://{folder}/actor.sock")
        self._poller.register(self._front, zmq.POLLIN)
        # The learner knows its peers by their connections: one for each of the actors'.
        self._actors: dict[bytes, Any] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        held: tuple[bytes, bytes] | None = None
        while not self._over.is_set():
            ready = dict(self._poller.poll(50))
            for name, socket in self._actors.items():
                if socket in ready:
                    self._pass(self._front, [name, socket.recv()])
            if self._front in ready:
                name, data = self._front.recv_multipart()
                if held is None and self._draw.random() < 0.02:
                    held, self.swapped = (name, data), self.swapped + 1
                    continue
                self._pass(self._to_learner(name), [data])
                if self._draw.random() < 0.02:
                    self.repeated += 1
                    self._pass(self._to_learner(name), [data])
            if held is not None:
                self._pass(self._to_learner(held[0]), [held[1]])
                held = None

    def _to_learner(self, name: bytes) -> Any:
        if name not in self._actors:
            socket = self._actors[name] = self._context.socket(self._zmq.DEALER)
            socket.linger = 0
            socket.connect(self._learner)
            self._poller.register(socket, self._zmq.POLLIN)
        return self._actors[name]

    def _pass(self, to: Any, frames: list[bytes]) -> None:
        if time.monotonic() < self.cut_until:
            self.lost += 1
            return
        try:
            to.send_multipart(frames, self._zmq.NOBLOCK)
        except self._zmq.ZMQError:
            self.lost += 1


# -- the benchmark ---------------------------------------------------------------------------------


def run(cfg: TrafficConfig, recorder: Recorder) -> None:
    """Let it play, and compare what was handed over with what was saved."""
    folder = cfg.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    _empty(cfg.spool)
    draw = random.Random(0)
    network = Network(folder, draw)
    peers = {role: _start(cfg, role) for role in ("learner", "actor")}
    happened = {"learner killed": 0, "actor killed": 0, "cut": 0}
    end, away = time.monotonic() + cfg.seconds, time.monotonic() + cfg.seconds / 2
    while time.monotonic() < end:
        time.sleep(draw.expovariate(1.0 / cfg.every))
        what = draw.choice([*happened])
        happened[what] += 1
        if what == "cut":
            network.cut_until = time.monotonic() + 1.0
            continue
        role = what.split()[0]
        peers[role].kill()
        peers[role].wait()
        if role == "learner" and time.monotonic() > away:
            say(f"{QUESTION}: the learner is away for {AWAY_S:g} s")
            away = float("inf")
            time.sleep(AWAY_S)
        peers[role] = _start(cfg, role)
    (folder / "stop").touch()
    peers["actor"].wait(timeout=120)
    time.sleep(2 * SAVE_S)
    (folder / "end").touch()
    peers["learner"].wait(timeout=60)
    network.close()
    _compare(cfg, happened, network, recorder)


def _spool(cfg: TrafficConfig) -> Path:
    return cfg.folder.absolute() / "spool" if cfg.spool is None else cfg.spool


def _empty(spool: Path | None) -> None:
    """Refuse a spool that another actor has left something in."""
    if spool is not None and any(spool.glob("0*")):
        raise InputError(f"{spool} holds steps of an actor; allowed: an empty disk's folder")


def _compare(
    cfg: TrafficConfig, happened: Mapping[str, int], network: Network, recorder: Recorder
) -> None:
    folder = cfg.folder.absolute()
    actors = [json.loads(path.read_text()) for path in folder.glob("actor-*.json")]
    saved = json.loads((folder / "saved.json").read_text())
    numbers = np.array(saved["numbers"], np.int64)
    times = np.bincount(numbers)
    waiting = {int(n) for file in _spool(cfg).glob("0*") for n in _numbers_of(file.read_bytes())}
    waits = len(waiting.difference(saved["numbers"]))
    handed, lost = (sum(actor[key] for actor in actors) for key in ("handed", "lost"))
    params = {
        "handed": handed,
        "saved": len(numbers),
        "twice": int((times > 1).sum()),
        "counted_lost": lost,
        "in_order": bool((np.diff(numbers) > 0).all()),
        "left_in_spool": waits,
        "worst_put_ms": round(max(actor["worst_put_ms"] for actor in actors), 3),
        "late_puts": sum(actor["late"] for actor in actors),
        "versions_fall": sum(actor["versions_fall"] for actor in actors),
        "versions": saved["version"],
        "troubles": sorted({trouble for actor in actors for trouble in actor["troubles"]}),
        "network": {
            "repeated": network.repeated,
            "swapped": network.swapped,
            "lost": network.lost,
        },
        **happened,
    }
    # An actor that is killed tells only of what it had handed over by then: there may be more.
    name = "missing" if cfg.spool is None else FULL_DISK
    drop(recorder, name)
    recorder.add(name, max(0, handed - len(numbers) - waits), "steps", params)


def _numbers_of(batch: bytes) -> Any:
    return decode(batch)[0].arrays["obs/number"][:, 0]


def _start(cfg: TrafficConfig, role: str) -> subprocess.Popen[bytes]:
    folder = cfg.folder.absolute()
    with (folder / f"{role}.log").open("ab") as said:
        command = [sys.executable, "-m", "benchmarks.traffic", "--role", role]
        command += ["--folder", str(folder)]
        if cfg.spool is not None:
            command += ["--spool", str(cfg.spool.absolute())]
        return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)


def main(cfg: TrafficConfig, recorder: Recorder) -> None:
    """Measure, or be one of the two."""
    if cfg.role == "benchmark":
        run(cfg, recorder)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    {"actor": act, "learner": learn}[cfg.role](cfg)
    sys.exit(0)  # the results are the benchmark's to file


if __name__ == "__main__":
    go_on(TrafficConfig, __doc__, QUESTION, main)
