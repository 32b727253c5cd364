"""How fast are worlds that look? Env-steps per second with two 64 px cameras, beside gym-hil.

    python -m benchmarks.pixels

gym-hil draws its own two cameras through MuJoCo's renderer with OSMesa (Debian's libosmesa6) on a
machine without a GPU; ours draws the same task in splats inside the jitted loop.
"""

from dataclasses import dataclass, replace

from benchmarks.compare import Group
from benchmarks.options import read_options
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.physics import ENV, record_rate
from benchmarks.results import Recorder, say
from benchmarks.table import finish
from scenes.contract.ranges import ranged

GYM_HIL_ENVS = 4  # its rate does not depend on the number; each costs seconds to make
CAMERAS = ("front", "wrist")


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """What to measure.

    Attributes:
        num_envs: worlds stepped together, one row each; the largest is compared with gym-hil.
        size: width and height of the pictures [px].
        physics: of ours.
        repeats: interleaved rounds.
        seconds: of each repetition.
        peers: measure gym-hil beside ours.
        smoke: sizes that only show that everything runs.
        save: file the results and rewrite RESULTS.md.
    """

    num_envs: tuple[int, ...] = ranged((16, 256), least=1, filled=True)
    size: int = ranged(64, least=1, most=4096)
    physics: str = "native"
    repeats: int = ranged(3, least=1)
    seconds: float = ranged(1.0, above=0)
    peers: bool = True
    smoke: bool = False
    save: bool = False


def run(cfg: PixelsConfig, recorder: Recorder) -> None:
    """Ours with and without cameras, and gym-hil with its own, in one comparison."""
    say("pixels: two cameras, state, gym-hil")
    peer, largest = "gym-hil with images", max(cfg.num_envs)
    ours = {"task": "franka/pick_cube", "physics": cfg.physics, "seconds": cfg.seconds}
    seen = ours | {"cameras": CAMERAS, "size": cfg.size}
    state = f"state {largest}"
    with Group() as group:
        for num in cfg.num_envs:
            group.start(f"pixels {num}", ENV, seen | {"num_envs": num})
        group.start(state, ENV, ours | {"num_envs": largest})
        if cfg.peers:
            _start_peer(cfg, group, recorder, peer)
        samples = group.measure(cfg.repeats)
        for name in samples.rates:
            # Both control at 10 Hz, so env-steps and simulated seconds have the same ratio.
            ratio = samples.ratio(name, peer, goal=100.0) if name.startswith("pixels") else None
            record_rate(recorder, group, samples, name, ratio=ratio)
        # On a GPU pictures should cost less than twice the physics.
        goal = None if cfg.physics == "native" else 0.35
        share = samples.ratio(f"pixels {largest}", state, goal=goal)
        if share is not None:
            recorder.add("pixels over state", share.value, "x", {}, ratio=share)
        group.record_failures(recorder)


def _start_peer(cfg: PixelsConfig, group: Group, recorder: Recorder, name: str) -> None:
    params = {"num_envs": GYM_HIL_ENVS, "seconds": cfg.seconds, "images": cfg.size}
    try:
        python = peer_python("gym_hil")
    except PeerError as error:
        recorder.missing(name, str(error))
        return
    group.start(
        name, "benchmarks.peers.gym_hil", params, python=python, env={"MUJOCO_GL": "osmesa"}
    )


def smoke(cfg: PixelsConfig) -> PixelsConfig:
    """Return sizes that only show that it runs."""
    return replace(cfg, num_envs=(2,), size=16, repeats=1, seconds=0.02, peers=False)


def main() -> None:
    """Parse, measure, print."""
    cfg = read_options(PixelsConfig, __doc__)
    recorder = Recorder("pixels")
    run(smoke(cfg) if cfg.smoke else cfg, recorder)
    if cfg.save:
        finish(recorder.results)


if __name__ == "__main__":
    main()
