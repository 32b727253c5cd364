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
from jaxtyping import Array, Float

from mjx_serl.envs.appearance import LookConfig
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.nets.frozen import FrozenEncoder, ReaderSpec, save_encoder, save_resnet10
from mjx_serl.nets.resnet10 import read_serl_file
from mjx_serl.nets.velocity_vla import VLAVelocityConfig
from mjx_serl.pretraining.encoder import (
    Examples,
    PretrainConfig,
    collect_rounds,
    errors,
    estimate,
    reader_fit,
    reader_spec,
)
from mjx_serl.pretraining.eyes import NET, eyes_fit, net_of, told
from mjx_serl.pretraining.fit import CHUNK, Fit, Init, run_fit
from mjx_serl.run.openpi_checkpoint import save_openpi
from mjx_serl.types import PyTree
from scenes.contract.language import BYTES, TokenizerConfig
from scenes.contract.ranges import MOST_SEED, check_ranges, ranged

# Parameters and examples to what is told of them.
Estimate = Callable[[PyTree, Examples], Float[Array, "M T"]]

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
        vla: teach a whole net of `agent.net vla` to see (`mjx_serl.pretraining.eyes`), in the sizes
            that a run on this task gives it; `out` is then a folder, which a run takes as `--init`.
        tokenizer: of what worlds are told, where the task has instructions; as in the run.
    """

    out: tyro.conf.Positional[Path]
    task: str = "franka/pick_cube"
    seed: int = ranged(0, least=0, most=MOST_SEED - 1)  # the next one is used too
    pixels: PixelConfig = dataclasses.field(
        default_factory=lambda: PixelConfig(cameras=("front", "wrist"), look=LOOKS, privileged=True)
    )
    train: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    from_serl: Path | None = None
    vla: bool = False
    tokenizer: TokenizerConfig = BYTES


def run(cfg: PretrainRun) -> FrozenEncoder:
    """Collect, fit, report errors on episodes held out, save; returns the encoder.

    Raises FileExistsError where the file is there; ValueError for a number out of range, and what
    `PixelConfig.build` raises.
    """
    say = partial(say_since, time.monotonic())
    spec, observer = _prepare(cfg, say)
    data, test = _collect(cfg, spec, observer, say)
    tell = jax.jit(partial(estimate, spec))
    params = _fit(cfg, spec, reader_fit(cfg.train, spec), tell, data, test, say)
    encoder = FrozenEncoder(spec, params)
    note = {"task": cfg.task, "seed": cfg.seed, "train": dataclasses.asdict(cfg.train)}
    save_encoder(cfg.out, spec, params, note=note)
    say(f"{cfg.out}: {cfg.out.stat().st_size / 1e3:.0f} kB")
    return encoder


def teach(cfg: PretrainRun) -> None:
    """Teach a net to see and write it as a checkpoint in openpi's layout; errors as of `run`."""
    say = partial(say_since, time.monotonic())
    spec, observer = _prepare(cfg, say)
    net = net_of(VLAVelocityConfig(), observer)
    data, test = _collect(cfg, spec, observer, say)
    tell = jax.jit(partial(told, net))
    params = _fit(cfg, spec, eyes_fit(cfg.train, spec, net), tell, data, test, say)
    save_openpi(cfg.out, params[NET])
    say(f"{cfg.out}: take it as --init {cfg.out}")


def _prepare(cfg: PretrainRun, say: Callable[[str], None]) -> tuple[ReaderSpec, Observer]:
    """What is to be told, and what sees it."""
    check_ranges(cfg)
    _require_absent(cfg.out)
    env = make_env(cfg.task, max_worlds=cfg.train.episodes, tokenizer=cfg.tokenizer)
    observer = cfg.pixels.build(env)
    spec = reader_spec(cfg.train, observer)
    say(f"{cfg.task}: {' and '.join(spec.cameras)} at {spec.size} px")
    return spec, observer


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
    fit: tuple[Init, Fit],
    tell: Estimate,
    data: Examples,
    test: Examples,
    say: Callable[[str], None],
) -> PyTree:
    def report(done: int, loss: float, params: PyTree) -> None:
        line = f"{done} updates, loss {loss:.2e}"
        if done % 1000 == 0 or done + CHUNK > cfg.train.updates:
            line += _errors(spec, partial(tell, params), test)
        say(line)

    key, updates = jax.random.key(cfg.seed + 1), cfg.train.updates
    return run_fit(*fit, data, updates=updates, key=key, report=report)


def _errors(
    spec: ReaderSpec, tell: Callable[[Examples], Float[Array, "M T"]], test: Examples
) -> str:
    lines = []
    for name, missed in errors(spec, tell, test).items():
        half, most = np.quantile(np.asarray(missed), (0.5, 0.95))
        lines.append(f"  {name} {1e3 * half:.1f} mm (95 % within {1e3 * most:.1f})")
    return "".join(lines)


def say_since(began: float, text: str) -> None:
    """Print a line with the seconds since `began`."""
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)
