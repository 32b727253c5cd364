"""How fast does SAC learn? Updates per second of ours, scanned and one by one, beside sbx.

    python -m benchmarks.learner            python -m benchmarks.learner --profile

Each update is a critic, actor and temperature step on a fresh batch of 256 from the replay buffer.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from benchmarks.compare import Group, Samples
from benchmarks.options import read_options
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.results import HERE, Ratio, Recorder, say
from benchmarks.table import finish
from scenes.contract.ranges import ranged

SAC = "benchmarks.workers.sac"
PEER = "benchmarks.peers.sbx"
PROFILES = HERE / "profiles"
BFLOAT16 = {"mode": "scan", "compute_dtype": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """What to measure.

    Attributes:
        activations: of the hidden layers.
        layer_norms: with LayerNorm, without.
        updates: in one compiled call; also sbx's `gradient_steps`.
        repeats: interleaved rounds.
        seconds: of each repetition.
        peers: measure sbx beside ours.
        profile: also write per-operation tables into benchmarks/profiles/.
        smoke: sizes that only show that everything runs.
        save: file the results and rewrite RESULTS.md.
    """

    activations: tuple[str, ...] = ("tanh", "relu")
    layer_norms: tuple[bool, ...] = (True, False)
    updates: int = ranged(64, least=1)
    repeats: int = ranged(5, least=1)
    seconds: float = ranged(1.0, above=0)
    peers: bool = True
    profile: bool = False
    smoke: bool = False
    save: bool = False


def run(cfg: LearnerConfig, recorder: Recorder) -> None:
    """Measure and record each network setting in a comparison of its own."""
    for activation in cfg.activations:
        for layer_norm in cfg.layer_norms:
            net = {"activation": activation, "layer_norm": layer_norm, "seconds": cfg.seconds}
            say(f"learner: {activation}, LayerNorm {layer_norm}")
            side_by_side(cfg, recorder, net)


def side_by_side(cfg: LearnerConfig, recorder: Recorder, net: dict[str, Any]) -> None:
    """Ours scanned (also with bfloat16 products) and one call per update; sbx in two ways."""
    label = f"{net['activation']}{' + LayerNorm' if net['layer_norm'] else ''}"
    ours = {**net, "updates": cfg.updates}
    scanned = ours | {"mode": "scan"}
    if cfg.profile:
        scanned["profile"] = str(PROFILES / f"sac_{label.replace(' + ', '_').lower()}.txt")
    with Group() as group:
        group.start("ours, scanned", SAC, scanned)
        group.start("ours, scanned, bfloat16", SAC, ours | BFLOAT16)
        group.start("ours, one call each", SAC, ours | {"mode": "calls"})
        if cfg.peers:
            for peer in ("sbx", "sbx_as_installed"):
                _start_peer(group, recorder, ours, peer)
        samples = group.measure(cfg.repeats)
        for name in samples.rates:
            ratio = _ratio(samples, name)
            row = f"{label}: {name}"
            group.record(recorder, samples, name, "updates/s", label=row, ratio=ratio)
        _compare(samples, recorder, label)
        group.record_failures(recorder, label=lambda name: f"{label}: {name}")


def _start_peer(group: Group, recorder: Recorder, ours: dict[str, Any], peer: str) -> None:
    try:
        python = peer_python(peer)
    except PeerError as error:
        recorder.missing(f"{peer} SAC", str(error))
        return
    group.start(f"{peer}, scanned", PEER, ours, python=python)
    group.start(f"{peer}, one call each", PEER, ours | {"updates": 1}, python=python)


def _ratio(samples: Samples, name: str) -> Ratio | None:
    """Return ours scanned beside the best of all sbx; one call each beside ours scanned."""
    if name == "ours, one call each":
        return samples.ratio(name, "ours, scanned")
    if name != "ours, scanned":
        return None
    peers = [p for p in samples.rates if p.startswith("sbx")]
    if not peers:
        return None
    return samples.ratio(name, max(peers, key=samples.median), goal=1.5)


def _compare(samples: Samples, recorder: Recorder, label: str) -> None:
    """One row per way to run sbx and ours: how many times as fast ours is."""
    peers = [name for name in samples.rates if name.startswith("sbx")]
    for ours, peer in itertools.product(("ours, scanned", "ours, scanned, bfloat16"), peers):
        ratio = samples.ratio(ours, peer, goal=1.5)
        if ratio is not None:
            recorder.add(f"{label}: {ours}, over {peer}", ratio.value, "x", {}, ratio=ratio)


def smoke() -> LearnerConfig:
    """Return one setting at sizes that only show that it runs."""
    return LearnerConfig(
        activations=("tanh",),
        layer_norms=(True,),
        updates=2,
        repeats=1,
        seconds=0.02,
        peers=False,
    )


def main() -> None:
    """Parse, measure, print."""
    cfg = read_options(LearnerConfig, __doc__)
    recorder = Recorder("learner")
    run(smoke() if cfg.smoke else cfg, recorder)
    if cfg.save:
        finish(recorder.results)


if __name__ == "__main__":
    main()
