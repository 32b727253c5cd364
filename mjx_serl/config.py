"""The whole run as one frozen dataclass; `build` turns it into functions."""

import dataclasses
from pathlib import Path
from typing import Literal

from mjx_serl import tasks as tasks  # files the tasks in the registry
from mjx_serl.agents.sac import SACConfig
from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.vector import vectorize
from mjx_serl.nets.frozen import FrozenEncoder, load_encoder
from mjx_serl.training.off_policy import OffPolicy, OffPolicyConfig, buffer_rows
from scenes.contract.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Demonstrations for the demo half of each batch.

    Attributes:
        count: scripted episodes made at the start of the run; 0 trains without demonstrations.
        noise: standard deviation of the noise on the expert's end-effector steps [m].
        file: a file of recorded demonstrations (.npz) to use instead of scripted ones.
    """

    count: int = 20
    noise: float = 0.0075
    file: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation on episodes that training never starts from.

    Attributes:
        every_epochs: epochs between two checks during training.
        check_episodes: episodes of a check.
        episodes: episodes of the final evaluation; its starts are not those of the checks.
        stop_at: training ends early once `stop_checks` checks in a row reach this success
            rate; above 1 never.
        stop_checks: see `stop_at`.
    """

    every_epochs: int = 5
    check_episodes: int = 100
    episodes: int = 100
    stop_at: float = 0.99
    stop_checks: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run is kept.

    Attributes:
        folder: the folder of all runs.
        name: of this run; None makes one from task, agent, seed and a number.
        checkpoint_seconds: time between two checkpoints [s].
        keep_checkpoints: checkpoints kept on disk.
        tensorboard: write TensorBoard event files.
        video: write worlds.png (at each check) and policy.mp4 (at the end): auto where the
            policy has cameras, on also films a run without, off never.
        bundle: export the policy for a robot at the end.
    """

    folder: Path = Path("runs")
    name: str | None = None
    checkpoint_seconds: float = 20.0
    keep_checkpoints: int = 2
    tensorboard: bool = True
    video: Literal["auto", "on", "off"] = "auto"
    bundle: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Start from a preset (`--preset`), change any field.

    Attributes:
        preset: the named starting point, see `mjx_serl/experiments.py`.
        task: a registered task, for example franka/pick_cube.
        seed: of everything random in the run.
        physics: native (C MuJoCo on CPU threads), mjx, warp, or auto for what fits the device.
        pixels: cameras; none by default.
        num_envs: worlds stepped together.
        total_env_steps: control steps of all worlds after which training ends.
        agent: the learner.
        loop: collection, replay and the number of updates.
        demos: demonstrations.
        eval: evaluation.
        run: the run folder.
    """

    preset: str = "laptop"
    task: str = "franka/pick_cube"
    seed: int = 0
    physics: Literal["auto", "native", "mjx", "warp"] = "auto"
    pixels: PixelConfig = dataclasses.field(default_factory=PixelConfig)
    num_envs: int = 8
    total_env_steps: int = 100_000
    agent: SACConfig = dataclasses.field(default_factory=SACConfig)
    loop: OffPolicyConfig = dataclasses.field(default_factory=OffPolicyConfig)
    demos: DemoConfig = dataclasses.field(default_factory=DemoConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    @property
    def agent_name(self) -> str:
        """What the learner is called in folders and tables."""
        if self.pixels.cameras and self.pixels.frozen is None:
            return "drq"
        return "rlpd" if self.demos.count or self.demos.file else "sac"

    def build_observer(self) -> Observer:
        """Compile the task's scene and prepare its cameras.

        Raises KeyError, ValueError or RuntimeError with the allowed values.
        """
        _check(self)
        most = max(self.num_envs, self.eval.check_episodes, self.eval.episodes, _pool(self))
        physics = None if self.physics == "auto" else self.physics
        env = make_env(self.task, physics=physics, max_worlds=most)
        return self.pixels.build(env, _frozen_encoder(self.pixels))

    def build(self, observer: Observer, *, demo_shape: tuple[int, int] | None) -> OffPolicy:
        """The functions of the run.

        Args:
            observer: from `build_observer`.
            demo_shape: rows and episodes of the demonstrations, None without.
        """
        rows = buffer_rows(self.loop, self.num_envs)
        return OffPolicy(
            agent=self.agent.build(),
            vec_env=vectorize(observer, num_envs=self.num_envs, pool_size=_pool(self)),
            buffer=ReplayBuffer(rows, self.num_envs),
            demo_buffer=None if demo_shape is None else ReplayBuffer(*demo_shape),
            config=self.loop,
        )


def _frozen_encoder(pixels: PixelConfig) -> FrozenEncoder | None:
    if pixels.frozen is None:
        return None
    encoder = load_encoder(pixels.frozen)
    encoder.check(pixels.cameras, pixels.size)
    return encoder


def _pool(cfg: TrainConfig) -> int:
    return min(256, 4 * cfg.num_envs)


def _check(cfg: TrainConfig) -> None:
    loop = cfg.loop
    least = {
        "num_envs": (cfg.num_envs, 1),
        "total_env_steps": (cfg.total_env_steps, 1),
        "loop.batch_size": (loop.batch_size, 2),
        "loop.updates_per_step": (loop.updates_per_step, 1),
        "loop.steps_per_epoch": (loop.steps_per_epoch, 1),
        "loop.warmup_steps": (loop.warmup_steps, 0),
        "loop.normalize_steps": (loop.normalize_steps, 0),
        "demos.count": (cfg.demos.count, 0),
        "eval.every_epochs": (cfg.eval.every_epochs, 1),
        "eval.check_episodes": (cfg.eval.check_episodes, 1),
        "eval.episodes": (cfg.eval.episodes, 1),
    }
    for name, (got, low) in least.items():
        if got < low:
            raise InputError(f"{name} {got}, allowed: at least {low}")
    if not 0 <= loop.demo_fraction <= 1:
        raise InputError(f"loop.demo_fraction {loop.demo_fraction}, allowed: 0 to 1")
    if loop.buffer_size < 2 * cfg.num_envs:
        raise InputError(
            f"loop.buffer_size {loop.buffer_size}, allowed: at least two rows of num_envs "
            f"{cfg.num_envs}"
        )
