"""Policies too large for a share of a device: parameters held together, worlds apart from them.

    python -m benchmarks.large
    python -m benchmarks.large --parts overlap

Rows are filed once they are there; `--again` measures anew. "sizes" reckons what openpi's pi0 takes
on each of several devices. "update" makes a gradient step of a small pi0 with parameters on every
device and with `--fsdp`: bytes of each device, what passes, by how much the results differ. "epoch"
is the same of whole epochs. "apart" trains with `--placement` beside one device. "overlap" has a
policy and worlds that sleep, as if a GPU worked for them: during how much of the one the other is
busy too, with one group of worlds and with two by turns. Virtual devices share the cores, so
nothing here is a rate of real ones.
"""

from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, get_args

from benchmarks.results import Recorder
from benchmarks.resumable import ask_worker, go_on, is_wanted
from scenes.contract.ranges import ranged

QUESTION = "large"
Part = Literal["sizes", "update", "epoch", "apart", "overlap"]
WORKER = "benchmarks.workers.large"
# Of policies as small as these: what openpi's least size is to its own.
_LEAST_MIB = 0.01


_MANY = (2, 8)  # devices of a policy that is not made


@dataclass(frozen=True, kw_only=True)
class LargeConfig:
    """What to measure.

    Attributes:
        parts: of the question.
        devices: numbers of them for "update" and "epoch".
        presets: of "epoch".
        worlds: of whole epochs.
        milliseconds: that choosing for all worlds, and stepping them, takes in "overlap" [ms].
        rounds: epochs of each number of groups there, in turns.
        timeout: seconds for a process [s].
        again: measure once more what is filed already.
    """

    parts: tuple[Part, ...] = get_args(Part)
    devices: tuple[int, ...] = ranged((2, 4), least=2, filled=True)
    presets: tuple[str, ...] = ("ppo", "flow_ppo")
    worlds: int = ranged(16, least=8)
    milliseconds: float = ranged(40.0, above=0)
    rounds: int = ranged(5, least=1)
    timeout: float = ranged(1800.0, above=0)
    again: bool = False


def run(cfg: LargeConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    least = {"min_size_mbytes": _LEAST_MIB}
    for among in _MANY if "sizes" in cfg.parts else ():
        name = f"openpi's pi0 under PPO, {among} devices, --fsdp: agent on each"
        found = _ask(cfg, recorder, name, ask="sizes", devices=1, among=among)
        if found:
            recorder.add(name, found["each"], "bytes", found)
    for among in cfg.devices:
        if "update" in cfg.parts:
            name = f"small pi0, {among} devices, --fsdp: state of a gradient step on each"
            found = _ask(cfg, recorder, name, ask="update", devices=among, **least)
            if found:
                share = found["fsdp"]["arguments"] / found["replicated"]["arguments"]
                recorder.add(name, share, "of replicated", found)
        for preset in cfg.presets if "epoch" in cfg.parts else ():
            name = f"{preset}, {among} devices, --fsdp: agent on each"
            ask = {"ask": "epoch", "preset": preset, "worlds": cfg.worlds}
            found = _ask(cfg, recorder, name, devices=among, **ask, **least)
            if found:
                share = found["fsdp"]["agent_bytes"] / found["replicated"]["agent_bytes"]
                recorder.add(name, share, "of replicated", found)
    if "apart" in cfg.parts:
        _apart(cfg, recorder)
    if "overlap" in cfg.parts:
        _overlap(cfg, recorder)


def _apart(cfg: LargeConfig, recorder: Recorder) -> None:
    places = {"env": "0-1", "rollout": "2", "actor": "3"}
    for preset in cfg.presets:
        name = f"{preset}, --placement: furthest from one device"
        ask = {"ask": "apart", "preset": preset, "worlds": cfg.worlds, "epochs": 2}
        found = _ask(cfg, recorder, name, devices=4, placement=places, **ask)
        if found:
            recorder.add(name, found["differ"][-1], "absolute", found)


def _overlap(cfg: LargeConfig, recorder: Recorder) -> None:
    name = "--placement, 2 groups: share of choosing during which worlds are stepped"
    ask = {"ask": "overlap", "milliseconds": cfg.milliseconds, "rounds": cfg.rounds}
    found = _ask(cfg, recorder, name, devices=2, stages=[1, 2], **ask)
    if not found:
        return
    one, two = (found["rounds"][groups] for groups in ("1", "2"))
    shares = [[row["both"] / row["rollout"] for row in rows] for rows in (one, two)]
    times = [b["epoch"] / a["epoch"] for a, b in zip(one, two, strict=True)]
    found |= {"of_1_group": median(shares[0]), "time_of_1_group": times}
    recorder.add(name, median(shares[1]), "of time", found)


def _ask(cfg: LargeConfig, recorder: Recorder, name: str, **params: Any) -> dict[str, Any] | None:
    """What a process with so many devices says; None where it did not, which is filed."""
    if not is_wanted(recorder, name, again=cfg.again):
        return None
    return ask_worker(recorder, WORKER, name, cfg.timeout, params)


if __name__ == "__main__":
    go_on(LargeConfig, __doc__, QUESTION, run)
