"""Does a real agentlace client train our learner, and is a row lost or taken twice on the way?

    python -m benchmarks.agentlace --paths FOLDER... --version 0.0.2

`learn.py --listen-agentlace` and an actor (`benchmarks.agentlace_actor`) on agentlace as it is
published, in folders that you name: it is on no index. Both are killed in between and started
anew. A row's figure is the success rate on 100 held-out episodes, with how many of the actor's rows
are in the learner's replay, once and twice.
"""

import collections
import itertools
import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.arms import START_S, Arms, epochs_of, fresh_arms, last_arrays, wait_for
from benchmarks.results import Recorder, say
from benchmarks.resumable import drop, go_on
from benchmarks.train import read_run
from scenes.contract.ranges import ranged

QUESTION = "agentlace"
_PORT = 5788


@dataclass(frozen=True, kw_only=True)
class AgentlaceRunConfig:
    """What is run.

    Attributes:
        paths: folders to import agentlace and what it needs from.
        version: that its TrainerConfig has.
        steps: of the arm that are learned from.
        kills: of either side.
        seed: of the run.
        folder: where it is kept.
    """

    paths: tuple[Path, ...]
    version: Literal["0.0.1", "0.0.2"] = "0.0.2"
    steps: int = ranged(6000, least=1)
    kills: int = ranged(2, least=0)
    seed: int = ranged(0, least=0)
    folder: Path = Path("runs/agentlace")


def run(cfg: AgentlaceRunConfig, recorder: Recorder) -> None:
    """Let them learn, kill each now and then, and compare what was sent with what was kept."""
    options = (
        *("--preset=robot", "--loop.updates-per-step=4", "--loop.warmup-steps=300"),
        *(f"--total-env-steps={cfg.steps}", "--eval.stop-at=1.1", "--eval.every-epochs=20"),
        "--run.video=off",
        *(f"--seed={cfg.seed}", "--run.no-bundle"),
        *(f"--listen-agentlace={_PORT}", f"--actors.agentlace-version={cfg.version}"),
        "--actors.agentlace-map",
        *_mapping(),
    )
    name = f"version {cfg.version}, seed {cfg.seed}"
    arms = fresh_arms(cfg.folder, name, options)
    learner = arms.learn(sync=False)
    wait_for(lambda: (arms.run / "actor").is_dir(), START_S)
    actor, killed = _act(cfg, arms), collections.Counter[str]()
    moments = [cfg.steps * (n + 1) / (2 * cfg.kills + 1) for n in range(2 * cfg.kills)]
    while learner.poll() is None:
        time.sleep(0.5)
        if moments and _learned(arms) > moments[0]:
            moments.pop(0)
            which = "learner" if len(moments) % 2 else "actor"
            killed[which] += 1
            say(f"{QUESTION}: the {which} is killed after {_learned(arms)} steps")
            (learner if which == "learner" else actor).kill()
            if which == "learner":
                learner.wait()
                learner = arms.learn(sync=False)
            else:
                actor.wait()
                actor = _act(cfg, arms)
    actor.kill()
    actor.wait()
    if learner.returncode != 0:
        recorder.missing(name, f"the learner ended with {learner.returncode}: {arms.folder}", {})
        return
    found = read_run(arms.run)
    drop(recorder, name)
    params = found | _compared(arms) | {"killed": dict(killed), "version": cfg.version}
    recorder.add(name, found["success_rate"], "rate", params)


def _mapping() -> list[str]:
    """Words that say where in the flat state of the actor each of our observations is."""
    import gymnasium

    from mjx_serl.adapters.gymnasium import env_id

    at, words = 0, []
    spaces: Any = gymnasium.make(env_id("franka/pick_cube_paced")).observation_space
    for name, space in spaces.spaces.items():
        size = int(np.prod(space.shape))
        words.append(f"{name}=state[{at}:{at + size}]")
        at += size
    return words


def _act(cfg: AgentlaceRunConfig, arms: Arms) -> subprocess.Popen[bytes]:
    command = ["-m", "benchmarks.agentlace_actor", f"--bundle={arms.run}/actor"]
    command += [f"--port={_PORT}", f"--log={arms.folder}/rows.jsonl"]
    command += ["--path", *(str(path.absolute()) for path in cfg.paths)]
    return arms.start(command, "actor.log")


def _learned(arms: Arms) -> int:
    path = arms.run / "metrics.jsonl"
    epochs = epochs_of(arms.run) if path.exists() else []
    return int(epochs[-1]["env_steps"]) if epochs else 0


def _compared(arms: Arms) -> dict[str, Any]:
    """How often each row that the actors put into agentlace's store is in the learner's replay.

    An actor that is killed takes with it what it had not sent, its last rows; what came after the
    last episode that the learner took counts for nothing.
    """
    lines = (arms.folder / "rows.jsonl").read_text().splitlines()
    sent = [
        (actor, driven, np.float32(state).tobytes())
        for actor, driven, state in map(json.loads, lines)
    ]
    kept = _kept(last_arrays(arms.run))
    known = {state for *_, state in sent}
    last = max(at for at, (*_, state) in enumerate(sent) if kept[False, state])
    sent = sent[: last + 1]
    by_actor = [list(rows) for _, rows in itertools.groupby(sent, key=lambda row: row[0])]
    ends = [_after_last([kept[False, state] for *_, state in rows]) for rows in by_actor]
    driven = [kept[True, state] for _, is_driven, state in sent if is_driven]
    told = re.findall(r"parameters (\d+)", (arms.folder / "actor.log").read_text())
    return {
        "sent": len(sent),
        "unsent": sum(ends),
        "missing": sum(not kept[False, state] for *_, state in sent) - sum(ends),
        "twice": sum(times > 1 for times in kept.values()),
        "unknown": sum(state not in known for _, state in kept),
        "driven": len(driven),
        "driven_missing": driven.count(0),
        "versions_taken": max(map(int, told), default=0),
    }


def _after_last(times: Sequence[int]) -> int:
    """How many zeros there are at the end."""
    return len(list(itertools.takewhile(lambda count: not count, reversed(times))))


def _kept(arrays: Mapping[str, np.ndarray]) -> collections.Counter[tuple[bool, bytes]]:
    """Rows of the replay of what arms did, by whether a person acted and by the flat state."""
    part = ".data['online'].data"
    valid = arrays[f"{part}.valid"].ravel()
    names = [word.split("=")[0] for word in _mapping()]
    state = np.concatenate(
        [arrays[f"{part}.obs['{name}']"].reshape(len(valid), -1)[valid] for name in names], axis=1
    )
    experts = arrays[f"{part}.expert"].ravel()[valid]
    rows = zip(experts, state.astype(np.float32), strict=True)
    return collections.Counter((bool(expert), row.tobytes()) for expert, row in rows)


if __name__ == "__main__":
    go_on(AgentlaceRunConfig, __doc__, QUESTION, run)
