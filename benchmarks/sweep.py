"""Does every task keep its word? Random actions on every physics, pictures, and their parity.

    python -m benchmarks.sweep --only franka/peg_insertion --physics native mjx

Each row is filed once it is there, so that a stopped run goes on where it was; `--again` measures
anew. A row of a physics counts broken promises, one of "parity" is the largest difference between
native and MJX over some steps, or in each of them where an object tumbles or slips.
"""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.results import Recorder
from benchmarks.resumable import go_on, is_wanted, named_tasks
from benchmarks.workers.platform import prepare
from scenes.contract.ranges import MOST_SEED, ranged

if TYPE_CHECKING:
    from mjx_serl.envs.physics.protocol import PhysicsName

QUESTION = "sweep"
# The one tolerance of parity: of joint positions [rad], [m] in PARITY_STEPS control steps of random
# actions, C MuJoCo in float64 beside MJX in float32; where an object tumbles or slips, in each of
# them from the same state, unless C MuJoCo leads as far from itself (`promises.MOVED`).
PARITY = 1e-3
PARITY_STEPS = 10
PAIR: "tuple[PhysicsName, PhysicsName]" = ("native", "mjx")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Which tasks, how long.

    Attributes:
        only: names of tasks; all registered ones by default.
        physics: native, mjx or warp, each a row.
        pictures: a row of the cameras' pictures.
        parity: a row of native beside mjx.
        worlds: played at once.
        steps: control steps.
        seed: of starts and actions.
        again: measure once more what is filed already.
    """

    only: tuple[str, ...] = ()
    physics: tuple[str, ...] = ("native", "mjx")
    pictures: bool = True
    parity: bool = True
    worlds: int = ranged(4, least=2)
    steps: int = ranged(200, least=1)
    seed: int = ranged(0, least=0, most=MOST_SEED)
    again: bool = False


def run(cfg: SweepConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    prepare(mjx=True)
    for task in named_tasks(cfg.only):
        # MJX takes long to compile, so what is played for one row serves the other too.
        played: dict[str, Any] = {}
        for physics in cfg.physics:
            if is_wanted(recorder, f"{task}: {physics}", again=cfg.again):
                _sweep(cfg, task, physics, recorder, played)
        if cfg.parity and is_wanted(recorder, f"{task}: parity", again=cfg.again):
            _compare(cfg, task, recorder, played)
        if cfg.pictures and is_wanted(recorder, f"{task}: pictures", again=cfg.again):
            _draw(cfg, task, recorder)


def _sweep(
    cfg: SweepConfig, task: str, physics: str, recorder: Recorder, played: dict[str, Any]
) -> None:
    import jax

    from benchmarks.promises import broken_promises, player, same_bits
    from mjx_serl.envs.env import make_env

    begun = time.perf_counter()
    env = make_env(task, physics=physics, max_worlds=cfg.worlds)
    play = player(env, worlds=cfg.worlds, steps=cfg.steps)
    one, again, other = (
        jax.device_get(play(jax.random.key(cfg.seed + more))[1]) for more in (0, 0, 1)
    )
    played[physics] = one
    faults = broken_promises(env, one)
    faults += [] if same_bits(one, again) else ["the same seed gives other bits"]
    faults += ["another seed gives the same bits"] if same_bits(one, other) else []
    _file(cfg, recorder, f"{task}: {physics}", faults, time.perf_counter() - begun)


def _draw(cfg: SweepConfig, task: str, recorder: Recorder) -> None:
    import jax

    from benchmarks.promises import player, seen_wrong
    from mjx_serl.envs.env import make_env

    begun = time.perf_counter()
    env = make_env(task, physics="native")
    worlds, _ = player(env, worlds=cfg.worlds, steps=1)(jax.random.key(cfg.seed))
    _file(cfg, recorder, f"{task}: pictures", seen_wrong(env, worlds), time.perf_counter() - begun)


def _file(
    cfg: SweepConfig, recorder: Recorder, name: str, faults: list[str], seconds: float
) -> None:
    params = {"worlds": cfg.worlds, "steps": cfg.steps, "seconds": seconds, "faults": faults}
    recorder.add(name, float(len(faults)), "faults", params)


def _compare(cfg: SweepConfig, task: str, recorder: Recorder, played: dict[str, Any]) -> None:
    import jax

    from benchmarks.promises import differences, player
    from mjx_serl.envs.env import make_env

    for physics in PAIR:
        if physics not in played:
            env = make_env(task, physics=physics, max_worlds=cfg.worlds)
            play = player(env, worlds=cfg.worlds, steps=cfg.steps)
            played[physics] = jax.device_get(play(jax.random.key(cfg.seed))[1])
    gaps = differences(played["native"], played["mjx"])[:PARITY_STEPS]
    params = {"tolerance": PARITY, "steps": PARITY_STEPS, "by_step": gaps.tolist()}
    gap = float(gaps.max())
    if gap > PARITY:
        params |= {"together": gap}
        gap, told = _of_single_steps(cfg, task)
        params |= told
    recorder.add(f"{task}: parity", gap, "rad or m", params)


def _of_single_steps(cfg: SweepConfig, task: str) -> tuple[float, dict[str, Any]]:
    """Return the largest difference of steps that begin alike, and what is to be said of it.

    A difference of joints in which native is as far from itself is no difference of the physics:
    then the row's figure is that of the other joints.
    """
    import jax

    from benchmarks.promises import step_differences
    from mjx_serl.envs.env import make_env

    native, mjx = (make_env(task, physics=name, max_worlds=cfg.worlds) for name in PAIR)
    key = jax.random.key(cfg.seed)
    gap, own = step_differences(native, mjx, key, worlds=cfg.worlds, steps=PARITY_STEPS)
    told = {"gap": asdict(gap), "native_moved": asdict(own)}
    counted = [
        found
        for found, chaos in ((gap.robot, own.robot), (gap.objects, own.objects))
        if found <= PARITY or found > chaos
    ]
    return max(counted, default=0.0), {"note": "each step from one state", **told}


if __name__ == "__main__":
    go_on(SweepConfig, __doc__, QUESTION, run)
