"""How well is every task solved: by its scripted expert, and by what learns from it?

python -m benchmarks.tasks --only franka/peg_insertion --seeds 0 1 2
python -m benchmarks.tasks --only franka/peg_insertion --seeds 0 1 --pixels --minutes 45

Each row is filed once it is there, so that a stopped run goes on where it was; `--again` measures
anew. A training run has `minutes` of two cores: it is stopped, and then evaluated, once it has used
twice as many minutes of processor time, however busy the machine is.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.results import Recorder
from benchmarks.resumable import go_on, is_wanted, named_tasks
from benchmarks.training_run import TrainingRun
from benchmarks.workers.platform import prepare
from scenes.contract.ranges import MOST_EPISODES, MOST_SEED, ranged
from scenes.contract.success_rate import wilson_interval

QUESTION = "tasks"
# Of tasks that the default, laptop, does not solve.
PRESETS: dict[str, str] = {
    "franka/pcb_insertion": "precise",
    "franka/pick_cube_dense": "sac",
    "franka/pick_cube_dense_osc": "sac",
    "franka/ram_insertion": "precise",
    "franka/usb_pick_insert": "precise",
}


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """Which tasks, and how long each may learn.

    Attributes:
        only: names of tasks; all registered ones by default.
        seeds: one training run each; without any only the experts are measured.
        minutes: of two cores for one run, compiling included [min].
        episodes: held-out episodes of the expert [1].
        pixels: learn end to end from the task's cameras (preset pixels), not from its state.
        stop_at: a run ends early once two checks in a row reach this success rate.
        args: further options of train.py.
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ranged((0,), least=0, most=MOST_SEED)
    minutes: float = ranged(12.0, above=0)
    episodes: int = ranged(100, least=1, most=MOST_EPISODES)
    pixels: bool = False
    stop_at: float = ranged(0.97, above=0)
    args: tuple[str, ...] = ()
    again: bool = False
    folder: Path = Path("runs/tasks")


def run(cfg: TasksConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    prepare()
    for task in named_tasks(cfg.only):
        if is_wanted(recorder, _expert_row(task), again=cfg.again):
            _play_expert(cfg, task, recorder)
        for seed in cfg.seeds:
            if is_wanted(recorder, learned_row(cfg, task, seed), again=cfg.again):
                _learn(cfg, task, seed, recorder)


def _expert_row(task: str) -> str:
    return f"{task}: expert"


def learned_row(cfg: TasksConfig, task: str, seed: int) -> str:
    """What the row of a training run is called."""
    return f"{task}: learned{' from pixels' if cfg.pixels else ''}, seed {seed}"


def train_command(cfg: TasksConfig, task: str, seed: int) -> list[str]:
    """The training run, without where it is kept."""
    preset = "pixels" if cfg.pixels else PRESETS.get(task, "laptop")
    cameras = ["--pixels.cameras", *_cameras(task)] if cfg.pixels else []
    return [
        "train.py",
        f"--preset={preset}",
        f"--task={task}",
        *cameras,
        f"--seed={seed}",
        f"--eval.stop-at={cfg.stop_at:g}",
        *cfg.args,
    ]


def _cameras(task: str) -> list[str]:
    from mjx_serl.envs.task import TASKS
    from scenes.build import build_scene

    return [camera.name for camera in build_scene(TASKS[task].scene()).spec.cameras]


def _play_expert(cfg: TasksConfig, task: str, recorder: Recorder) -> None:
    """Undisturbed, from starts that no training run draws."""
    import jax
    import numpy as np

    from mjx_serl.envs.env import make_env
    from mjx_serl.envs.observation import Observer
    from mjx_serl.training.collect import demonstrate
    from mjx_serl.training.evaluate import ON_DEMAND, stream_key

    observer = Observer(make_env(task, physics="native", max_worlds=cfg.episodes))
    play = partial(demonstrate, observer, episodes=cfg.episodes, noise=0.0)
    rows, solved = jax.jit(play)(stream_key(0, ON_DEMAND))
    count = int(np.sum(solved))
    params = {
        "task": task,
        "episodes": cfg.episodes,
        "ci95": wilson_interval(count, cfg.episodes),
        "steps": float(np.sum(rows.valid)) / cfg.episodes,
        "episode_steps": observer.env.task.episode_steps,
    }
    recorder.add(_expert_row(task), count / cfg.episodes, "rate", params)


def _learn(cfg: TasksConfig, task: str, seed: int, recorder: Recorder) -> None:
    kind = "-pixels" if cfg.pixels else ""
    run = TrainingRun(
        command=train_command(cfg, task, seed),
        folder=cfg.folder / f"{task.replace('/', '-')}{kind}-s{seed}",
        minutes=cfg.minutes,
    )
    params = {"task": task, "seed": seed, "pixels": cfg.pixels}
    run.measure(recorder, learned_row(cfg, task, seed), params)


if __name__ == "__main__":
    go_on(TasksConfig, __doc__, QUESTION, run)
