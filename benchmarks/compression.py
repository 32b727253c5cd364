"""Does it pay to compress the pictures that an arm sends to its learner, without loss?

    python -m benchmarks.compression

Two cameras of pick_cube, driven by the scripted expert, in the batches that an arm sends, by zlib
at level 1 and lz4, each on the bytes as they are and on the differences to the step before. Printed
are the ratio, the CPU time, the share of a core at 200 steps a second, and how long a batch takes
from arm to learner over 1 Gbit/s and 100 Mbit/s, packed and unpacked included, beside what it takes
as it is. Renders have no noise; sensors do, so each is also measured with some.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks.options import read_options
from benchmarks.results import say
from mjx_serl import tasks as tasks  # fills TASKS
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.run.simulated_arm import SimulatedArm
from robot_bridge.learning.experience import ROWS
from scenes.contract.extras import require
from scenes.contract.ranges import ranged

TASK = "franka/pick_cube"
LINKS = {"1 Gbit/s": 1e9, "100 Mbit/s": 1e8}  # [bit/s]


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """What is measured.

    Attributes:
        size: of a picture [px].
        cameras: of a step.
        steps: of the episode; whole batches of them are compressed.
        steps_s: that an arm sends [1/s].
        noise: standard deviation of what is added to the pictures, in levels of 255.
        repeats: the quickest counts.
    """

    size: int = ranged(128, least=1, most=1024)
    cameras: tuple[str, ...] = ("front", "wrist")
    steps: int = ranged(48, least=ROWS)
    steps_s: float = ranged(200.0, above=0)
    noise: tuple[float, ...] = ranged((0.0, 2.0), least=0, filled=True)
    repeats: int = ranged(3, least=1)


@dataclass(frozen=True)
class Codec:
    """A lossless compression of bytes."""

    name: str
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes], bytes]


def codecs() -> list[Codec]:
    """Those that are compared."""
    lz4 = require("lz4.frame", "agentlace")
    return [
        Codec("zlib 1", lambda data: zlib.compress(data, 1), zlib.decompress),
        Codec("lz4", lz4.compress, lz4.decompress),
    ]


def pictures(cfg: CompressionConfig) -> np.ndarray:
    """What the cameras see of an episode of the expert's, [T, C, H, W, 3] uint8."""
    observer = PixelConfig(cameras=cfg.cameras, size=cfg.size).build(make_env(TASK))
    world = SimulatedArm(observer, seed=0, episodes=1, governed=False)
    action, position, quat = observer.contract.action, *world.tool()
    closure, seen, key = 0.0, [], jax.random.key(0)
    substeps = round(1.0 / action.rate / world.sim_dt)
    low, high = world.width(), 0.0
    for step in range(cfg.steps):
        chosen = world.expert_action(position, quat, closure, jax.random.fold_in(key, step))
        position = position + chosen[:3] * np.asarray(action.scale[:3])
        closure = float(np.clip(closure + chosen[-1], 0.0, 1.0))
        world.command(position, quat, low + (high - low) * closure)
        world.advance(substeps)
        seen.append(np.stack([world.pictures()[name] for name in cfg.cameras]))
    return np.stack(seen)


def differences(batch: np.ndarray) -> np.ndarray:
    """Each picture minus the one of the step before, modulo 256; the first is as it is."""
    return np.concatenate([batch[:1], batch[1:] - batch[:-1]])


def restored(differing: np.ndarray) -> np.ndarray:
    """The pictures of `differences`."""
    return np.cumsum(differing, axis=0, dtype=np.uint8)


def measure(cfg: CompressionConfig, codec: Codec, batch: np.ndarray, *, differ: bool) -> str:
    """One line of the table for one batch [T, C, H, W, 3]."""

    def pack() -> bytes:
        return codec.pack((differences(batch) if differ else batch).tobytes())

    def unpack() -> np.ndarray:
        whole = np.frombuffer(codec.unpack(packed), np.uint8).reshape(batch.shape)
        return restored(whole) if differ else whole

    packed = pack()
    if not np.array_equal(unpack(), batch):
        raise RuntimeError(f"{codec.name} loses something")
    there, back = (min(_seconds(job) for _ in range(cfg.repeats)) for job in (pack, unpack))
    ratio = batch.nbytes / len(packed)
    share = cfg.steps_s / len(batch) * there
    over = [there + back + 8 * len(packed) / rate for rate in LINKS.values()]
    cells = [f"{ratio:.2f}", f"{there * 1e3:.1f}", f"{back * 1e3:.1f}", f"{share:.0%}"]
    return " | ".join([*cells, *(f"{seconds * 1e3:.1f}" for seconds in over)])


def run(cfg: CompressionConfig) -> None:
    """Print a table."""
    whole = pictures(cfg)
    whole = whole[: len(whole) // ROWS * ROWS]
    plain = 8 * whole[:ROWS].nbytes
    links = " | ".join(f"{name} [ms]" for name in LINKS)
    say(f"pictures | how | ratio | pack [ms] | unpack [ms] | of a core | {links}")
    for noise in cfg.noise:
        random = np.random.default_rng(0).normal(0.0, noise, whole.shape)
        noisy = np.clip(np.rint(whole + random), 0, 255).astype(np.uint8)
        # The middle of an episode, where the arm moves.
        batch = noisy[len(noisy) // 2 // ROWS * ROWS :][:ROWS]
        what = f"noise {noise:g}" if noise else "as drawn"
        sent = " | ".join(f"{plain / rate * 1e3:.1f}" for rate in LINKS.values())
        say(f"{what} | as they are | 1 | 0 | 0 | 0% | {sent}")
        for codec in codecs():
            for differ in (False, True):
                how = f"{codec.name}, differences" if differ else codec.name
                say(f"{what} | {how} | {measure(cfg, codec, batch, differ=differ)}")


def _seconds(job: Callable[[], object]) -> float:
    """CPU time of a job [s]: others use the machine too."""
    began = time.process_time()
    job()
    return time.process_time() - began


if __name__ == "__main__":
    run(read_options(CompressionConfig, __doc__))
