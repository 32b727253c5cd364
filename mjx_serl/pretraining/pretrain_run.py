"""Train the frozen image encoder of a task: see `mjx_serl.pretraining`, its command line."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from mjx_serl.envs.appearance import LookConfig
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.nets.frozen import FrozenEncoder, ReaderSpec, save_encoder, save_resnet10
from mjx_serl.nets.resnet10 import read_serl_file
from mjx_serl.pretraining.encoder import (
    Examples,
    PretrainConfig,
    collect_rounds,
    errors,
    reader_fit,
    reader_spec,
)
from mjx_serl.pretraining.fit import CHUNK, run_fit
from mjx_serl.types import PyTree
from scenes.contract.ranges import MOST_SEED, check_ranges, ranged

# A camera that may be turned by 1 deg cannot tell where a cube 1.3 m away is to 2 cm.
LOOKS = LookConfig(
    variants=16, background=0.15, camera_position=0.003, camera_angle=0.2, color=0.2, light=0.2
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainRun:
    """What to train and where to put it.

    Attributes:
        out: the .npz file to write; an existing one is never overwritten.
        task: a registered task with privileged observations.
        seed: of data, looks and weights.
        pixels: cameras, size and looks; must observe what is privileged.
        train: data and optimiser.
        from_serl: SERL's resnet10_params.pkl, whose weights are written to `out` in place of
            training any; a run takes them as another trunk (`--pixels.readout`). It is read as
            plain arrays: no name in it is called.
    """

    out: tyro.conf.Positional[Path]
    task: str = "franka/pick_cube"
    seed: int = ranged(0, least=0, most=MOST_SEED - 1)  # the next one is used too
    pixels: PixelConfig = dataclasses.field(
        default_factory=lambda: PixelConfig(cameras=("front", "wrist"), look=LOOKS, privileged=True)
    )
    train: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    from_serl: Path | None = None


def run(cfg: PretrainRun) -> FrozenEncoder:
    """Collect, fit, report errors on episodes held out, save; returns the encoder.

    Raises FileExistsError where the file is there; ValueError for a number out of range, and what
    `PixelConfig.build` raises.
    """
    check_ranges(cfg)
    _require_absent(cfg.out)
    say = partial(say_since, time.monotonic())
    observer = cfg.pixels.build(make_env(cfg.task, max_worlds=cfg.train.episodes))
    spec = reader_spec(cfg.train, observer)
    say(f"{cfg.task}: {' and '.join(spec.cameras)} at {spec.size} px")
    data, test = _collect(cfg, spec, observer, say)
    params = _fit(cfg, spec, data, test, say)
    encoder = FrozenEncoder(spec, params)
    note = {"task": cfg.task, "seed": cfg.seed, "train": dataclasses.asdict(cfg.train)}
    save_encoder(cfg.out, spec, params, note=note)
    say(f"{cfg.out}: {cfg.out.stat().st_size / 1e3:.0f} kB")
    return encoder


def convert(cfg: PretrainRun, source: Path) -> None:
    """Write the weights of SERL's file as a trunk of ours; raises what `read_serl_file` does."""
    _require_absent(cfg.out)
    save_resnet10(cfg.out, read_serl_file(source), note={"from": source.name})
    print(f"{cfg.out}: ResNet-10 of {source}. Take it as --pixels.frozen {cfg.out}")


def _require_absent(out: Path) -> None:
    if out.exists():
        raise FileExistsError(f"{out} exists; give another name or remove it")


def _collect(
    cfg: PretrainRun, spec: ReaderSpec, observer: Observer, say: Callable[[str], None]
) -> tuple[Examples, Examples]:
    """Return examples to train on, and one round of other episodes to test on."""
    k_data, k_test = jax.random.split(jax.random.key(cfg.seed))
    parts = []
    for part in collect_rounds(cfg.train, spec, observer, k_data):
        parts.append(jax.block_until_ready(part))
        say(f"{sum(p.targets.shape[0] for p in parts)} examples")
    once = dataclasses.replace(cfg.train, rounds=1)
    test = next(collect_rounds(once, spec, observer, k_test))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts), test


def _fit(
    cfg: PretrainRun,
    spec: ReaderSpec,
    data: Examples,
    test: Examples,
    say: Callable[[str], None],
) -> PyTree:
    def report(done: int, loss: float, params: PyTree) -> None:
        line = f"{done} updates, loss {loss:.2e}"
        if done % 1000 == 0 or done + CHUNK > cfg.train.updates:
            line += _errors(spec, params, test)
        say(line)

    key, updates = jax.random.key(cfg.seed + 1), cfg.train.updates
    return run_fit(*reader_fit(cfg.train, spec), data, updates=updates, key=key, report=report)


def _errors(spec: ReaderSpec, params: PyTree, test: Examples) -> str:
    lines = []
    for name, missed in errors(spec, params, test).items():
        half, most = np.quantile(np.asarray(missed), (0.5, 0.95))
        lines.append(f"  {name} {1e3 * half:.1f} mm (95 % within {1e3 * most:.1f})")
    return "".join(lines)


def say_since(began: float, text: str) -> None:
    """Print a line with the seconds since `began`."""
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)
