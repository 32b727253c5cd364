"""Which method solves which task? A matrix of whole runs, each of ten minutes of two cores.

python -m benchmarks.methods --only franka/pick_cube --methods rlpd qc_rlpd --seeds 0 1 2
python -m benchmarks.methods --only franka/pick_cube franka/peg_insertion --methods pixels xfeat

Each cell is filed once it is there, so that a stopped run goes on where it was; `--again` measures
anew. A cell ends early once two checks in a row reach `stop_at`; it is stopped, and then evaluated,
once it has used twice as many minutes of processor time as it has, however busy the machine is. All
but `sac` are given the same 20 demonstrations, `bc_100` more.
"""

import itertools
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.resumable import drop, go_on, is_wanted, named_tasks, require_known
from benchmarks.training_run import TrainingRun
from benchmarks.workers.platform import prepare
from scenes.contract.ranges import MOST_SEED, ranged

QUESTION = "methods"
SHIPPED_READER = "franka/pick_cube"  # whose frozen encoder is part of the package
TASKS = (
    "franka/pick_cube",
    "franka/peg_insertion",
    "franka/put_cube_on_plate",
    "piper/mobile_pick",
    "franka/pick_cube_dense",
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A column.

    Attributes:
        about: what it is, in a few words.
        args: of train.py.
        over: the method whose run of the same task and seed it begins with, "" for none.
        reader: it needs a frozen encoder of ours, which is trained first where none is shipped.
    """

    about: str
    args: tuple[str, ...]
    over: str = ""
    reader: bool = False


METHODS: dict[str, Method] = {
    "rlpd": Method(about="SAC, half of each batch demonstrations", args=("--preset=laptop",)),
    "qc_rlpd": Method(about="RLPD on chunks of five actions", args=("--preset=qc_rlpd",)),
    "bc": Method(
        about="behaviour cloning of 20 demonstrations", args=("--preset=bc", "--demos.count=20")
    ),
    "bc_100": Method(about="behaviour cloning of 100 demonstrations", args=("--preset=bc",)),
    "residual": Method(
        about="a bounded correction over `bc`", args=("--preset=residual",), over="bc"
    ),
    "hybrid": Method(
        about="RLPD for the arm, a DQN for its gripper", args=("--preset=hybrid_laptop",)
    ),
    "sac": Method(about="SAC without demonstrations", args=("--preset=sac",)),
    "ppo": Method(about="PPO without demonstrations", args=("--preset=ppo",)),
}
# The columns of pictures: who reads them for the learner.
PICTURED = ("franka/pick_cube", "franka/peg_insertion")


def _frozen(name: str, about: str) -> Method:
    return Method(about=about, args=("--preset=pixels_frozen", f"--pixels.frozen={name}"))


ENCODERS: dict[str, Method] = {
    "pixels": Method(about="an encoder learned end to end", args=("--preset=pixels",)),
    "ours": Method(
        about="frozen, trained on what the simulator knows of this task",
        args=("--preset=pixels_frozen",),
        reader=True,
    ),
    "efficientnet_lite0": _frozen("efficientnet_lite0", "frozen, trained on ImageNet"),
    "xfeat": _frozen("xfeat", "frozen, trained to match key points"),
    "resnet10_random": _frozen("resnet10_random", "frozen, trained by nobody"),
}
# Whose bundles are tried on a simulated arm (`benchmarks.bundles`), where the arm is paced.
PACED = "franka/pick_cube_paced"
DEPLOYED: dict[str, Method] = {
    **{name: METHODS[name] for name in ("rlpd", "qc_rlpd", "hybrid", "bc_100")},
    "hg_dagger": Method(
        about="cloning, and an expert that takes over", args=("--preset=hg_dagger",)
    ),
    "qc": Method(about="Q-chunking with a one-step actor", args=("--preset=qc",)),
    "expo": Method(about="the best of a flow's actions, edited", args=("--preset=expo",)),
    "residual_rlpd": Method(
        about="a bounded correction over `rlpd`", args=("--preset=residual",), over="rlpd"
    ),
    "flow_bc": Method(
        about="a flow that clones 100 demonstrations, five actions at once",
        args=("--method=offline", "--agent=flow_bc", "--demos.count=100"),
    ),
    "dsrl": Method(
        about="the noise of `flow_bc`, steered", args=("--preset=dsrl",), over="flow_bc"
    ),
}
_COLUMNS = METHODS | ENCODERS | DEPLOYED


@dataclass(frozen=True, kw_only=True)
class MethodsConfig:
    """Which cells, and how long each may learn.

    Attributes:
        only: names of tasks; the matrix's five by default.
        methods: names of columns, those of pictures too.
        seeds: one run each.
        minutes: of two cores for one run, compiling included [min].
        stop_at: a run ends early once two checks in a row reach this success rate.
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    only: tuple[str, ...] = TASKS
    methods: tuple[str, ...] = field(default_factory=lambda: tuple(METHODS))
    seeds: tuple[int, ...] = ranged((0, 1), least=0, most=MOST_SEED, filled=True)
    minutes: float = ranged(10.0, above=0)
    stop_at: float = ranged(0.97, above=0)
    again: bool = False
    folder: Path = Path("runs/methods")


def run(cfg: MethodsConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    prepare()
    tasks = named_tasks(cfg.only)
    require_known("method", cfg.methods, _COLUMNS)
    for seed, task, method in itertools.product(cfg.seeds, tasks, cfg.methods):
        if is_wanted(recorder, cell_name(task, method, seed), again=cfg.again):
            measure_cell(cfg, task, method, seed, recorder)


def cell_name(task: str, method: str, seed: int) -> str:
    """What the row of a training run is called."""
    return f"{task}: {method}, seed {seed}"


def run_folder(cfg: MethodsConfig, task: str, method: str, seed: int) -> Path:
    """Where the run of a cell is kept."""
    return cfg.folder / f"{task.replace('/', '-')}-{method}-s{seed}"


def measure_cell(cfg: MethodsConfig, task: str, method: str, seed: int, recorder: Recorder) -> None:
    """Train what a cell names, and what it begins with where that is not there, and file both."""
    column = _COLUMNS[method]
    begin = reader_of(cfg.folder, task) if column.reader else []
    if column.over:
        base = run_folder(cfg, task, column.over, seed)
        if not (base / "summary.json").exists():
            drop(recorder, cell_name(task, column.over, seed))
            measure_cell(cfg, task, column.over, seed, recorder)
        begin = [f"--init={base}"]
    command = [
        "train.py",
        *column.args,
        f"--task={task}",
        f"--seed={seed}",
        f"--eval.stop-at={cfg.stop_at:g}",
        *begin,
    ]
    run = TrainingRun(
        command=command, folder=run_folder(cfg, task, method, seed), minutes=cfg.minutes
    )
    params = {"task": task, "method": method, "seed": seed}
    run.measure(recorder, cell_name(task, method, seed), params)


def reader_of(folder: Path, task: str) -> list[str]:
    """Return the option for the encoder of a task; it is trained where it is not in a folder.

    Its own training is no part of a cell's minutes: it knows the simulator, and serves all runs.
    """
    if task == SHIPPED_READER:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / f"{task.replace('/', '-')}-encoder.npz").absolute()
    if not path.exists():
        say(f"{QUESTION}: the encoder {path}")
        command = ["-m", "mjx_serl.pretraining", str(path), f"--task={task}"]
        log = path.with_suffix(".log")
        with log.open("w") as said:
            subprocess.run(
                [sys.executable, *command], cwd=ROOT, stdout=said, stderr=said, check=True
            )
    return [f"--pixels.frozen={path}"]


if __name__ == "__main__":
    go_on(MethodsConfig, __doc__, QUESTION, run)
