"""The whole run as one frozen dataclass; `build` turns it into functions."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from mjx_serl import tasks as tasks  # files the tasks in the registry
from mjx_serl.agents.sac import SACConfig
from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.vector import vectorize
from mjx_serl.training.off_policy import OffPolicy, OffPolicyConfig, buffer_rows
from mjx_serl.training.state import tree_bytes


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
    """

    folder: Path = Path("runs")
    name: str | None = None
    checkpoint_seconds: float = 20.0
    keep_checkpoints: int = 2
    tensorboard: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Start from a preset (`--preset`), change any field.

    Attributes:
        preset: the named starting point, see `mjx_serl/experiments.py`.
        task: a registered task, for example franka/pick_cube.
        seed: of everything random in the run.
        physics: native (C MuJoCo on CPU threads), mjx, warp, or auto for what fits the device.
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
        return "rlpd" if self.demos.count or self.demos.file else "sac"

    def build_env(self) -> Env:
        """Compile the task's scene; raises KeyError or ValueError with the allowed values."""
        most = max(self.num_envs, self.eval.check_episodes, self.eval.episodes, _pool(self))
        physics = None if self.physics == "auto" else self.physics
        return make_env(self.task, physics=physics, max_worlds=most)

    def build(self, env: Env, *, demo_shape: tuple[int, int] | None) -> OffPolicy:
        """The functions of the run.

        Args:
            env: from `build_env`.
            demo_shape: rows and episodes of the demonstrations, None without.
        """
        _check(self)
        rows = buffer_rows(self.loop, self.num_envs)
        return OffPolicy(
            agent=self.agent.build(),
            vec_env=vectorize(env, num_envs=self.num_envs, pool_size=_pool(self)),
            buffer=ReplayBuffer(rows, self.num_envs),
            demo_buffer=None if demo_shape is None else ReplayBuffer(*demo_shape),
            config=self.loop,
        )


def _pool(cfg: TrainConfig) -> int:
    return min(256, 4 * cfg.num_envs)


def _check(cfg: TrainConfig) -> None:
    share = cfg.loop.demo_fraction
    problems = [
        (cfg.num_envs >= 1, f"num_envs {cfg.num_envs}, allowed: at least 1"),
        (0 <= share <= 1, f"loop.demo_fraction {share}, allowed: 0 to 1"),
        (cfg.loop.batch_size >= 2, f"loop.batch_size {cfg.loop.batch_size}, allowed: at least 2"),
        (cfg.loop.steps_per_epoch >= 1, "loop.steps_per_epoch must be at least 1"),
        (
            cfg.loop.buffer_size >= 2 * cfg.num_envs,
            f"loop.buffer_size {cfg.loop.buffer_size}, allowed: at least two rows of num_envs "
            f"{cfg.num_envs}",
        ),
    ]
    for fine, text in problems:
        if not fine:
            raise ValueError(text)


def check_memory(state: object, cfg: TrainConfig, *, available: int) -> int:
    """Bytes of a training state (arrays or shapes); refuses what does not fit.

    The state is held twice while an epoch runs (its input and its output, where donation does
    not apply) and is copied once to be saved.

    Raises:
        MemoryError: with the bytes and a buffer size and num_envs that would fit.
    """
    total = tree_bytes(state)
    buffer = tree_bytes(state.buffer)
    if 2 * total > available:
        room = max(available / 2 - (total - buffer), 0.0)
        size = int(cfg.loop.buffer_size * min(1.0, room / buffer))
        envs = max(1, int(cfg.num_envs * available / (2 * total)))
        raise MemoryError(
            f"This run needs 2 x {total / 1e9:.2f} GB (replay buffer {buffer / 1e9:.2f} GB), "
            f"{available / 1e9:.2f} GB are free. Try --loop.buffer-size {size} or "
            f"--num-envs {envs}."
        )
    return total


def available_bytes() -> int:
    """Free memory of the device that trains [bytes]."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 1 << 62
