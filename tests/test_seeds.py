"""Several seeds: one run after another in one folder, a table, and going on where it stopped."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mjx_serl import seeds
from mjx_serl.compare import main as compare
from mjx_serl.config import TrainConfig
from mjx_serl.platform import needs_mjx
from mjx_serl.run import signals
from mjx_serl.run.folder import RunFolder
from scenes.contract.command_line import FAILED

FINAL = {
    "kind": "final",
    "epoch": 9,
    "env_steps": 100,
    "elapsed_s": 5.0,
    "episodes": 10,
    "success_rate": 0.9,
    "success_ci95": [0.6, 1.0],
}


class Trainer:
    """Stands in for training: notes what it is asked for and leaves what a run leaves.

    Attributes:
        stop_at: seed of the run that a signal stops.
        status: that each run ends with.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool, int]] = []  # seed, resumed, total_env_steps
        self.stop_at: int | None = None
        self.status = 0

    def train(self, cfg: TrainConfig, resume: Path | None) -> int:
        self.asked.append((cfg.seed, resume is not None, cfg.total_env_steps))
        folder = RunFolder(Path(cfg.run.folder) / str(cfg.run.name))
        folder.path.mkdir(exist_ok=True)
        assert resume is None or resume.resolve() == folder.path.resolve()
        folder.write_config(cfg)
        folder.truncate_after(0)
        if cfg.seed != self.stop_at:
            folder.append_metrics(FINAL)
        return self.status


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trainer:
    made = Trainer()
    monkeypatch.setattr(seeds, "train", made.train)
    monkeypatch.chdir(tmp_path)
    return made


def test_each_seed_is_trained_and_one_table_printed(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert seeds.train_command(["--seeds", "0", "2", "1", "--num-envs", "4"]) == 0
    assert [seed for seed, _, _ in trainer.asked] == [0, 2, 1]
    (group,) = (tmp_path / "runs").iterdir()
    assert group.name == "franka-pick_cube-rlpd-s0_2_1-1"
    said = capsys.readouterr().out
    assert "seed 2, 2 of 3\n" in said
    table = [" ".join(line.split()) for line in said.splitlines()[-5:-2]]
    assert table == [
        f"seed-{seed} franka/pick_cube rlpd {seed} 90% of 10 60% to 100% 100 0:05 -"
        for seed in (0, 2, 1)
    ]
    assert said.endswith("3 seeds: interquartile mean 90.0%, 95% interval 90.0% to 90.0%\n")
    assert (group / "compare.png").is_file()
    # What else takes a folder of several seeds.
    assert compare((group,), out=tmp_path / "again.png") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("seed-0")
    with pytest.raises(FileNotFoundError, match="name one of seed-0, seed-1, seed-2"):
        RunFolder.open(group)


def test_what_was_stopped_goes_on_with_the_seed_that_it_was_at(trainer: Trainer, tmp_path: Path):
    trainer.stop_at = 1
    seeds.train_command(["--seeds", "0", "1", "2", "--run.name", "mine", "--physics", "mjx"])
    assert [seed for seed, _, _ in trainer.asked] == [0, 1]
    group = tmp_path / "runs" / "mine"
    stopped = RunFolder(group / "seed-1")
    assert stopped.resume_command() == f"python train.py --resume {group}"
    assert needs_mjx(run=group)
    trainer.stop_at = None
    trainer.asked.clear()
    assert seeds.train_command(["--resume", str(group)]) == 0
    assert [(seed, resumed) for seed, resumed, _ in trainer.asked] == [(1, True), (2, False)]
    trainer.asked.clear()
    assert seeds.train_command(["--resume", str(group)]) == 0
    assert trainer.asked == []


def test_finished_seeds_go_on_with_what_may_change(trainer: Trainer, tmp_path: Path):
    seeds.train_command(["--seeds", "0", "1", "--run.name", "mine"])
    trainer.asked.clear()
    group = tmp_path / "runs" / "mine"
    assert seeds.train_command(["--resume", str(group), "--total-env-steps", "123456"]) == 0
    assert trainer.asked == [(0, True, 123456), (1, True, 123456)]
    with pytest.raises(ValueError, match="it cannot change --agent.gamma 0.5"):
        seeds.train_command(["--resume", str(group), "--agent.gamma", "0.5"])


class Together:
    """Stands in for training at the same time: notes what it is asked for, leaves what runs leave.

    Attributes:
        stopped: seeds that do not come to their end.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[list[tuple[int, bool]], int]] = []  # (seed, resumed) and places
        self.stopped: tuple[int, ...] = ()

    @contextlib.contextmanager
    def open_run(
        self, cfg: TrainConfig, resume: Path | None, *, console: Any, like: Any
    ) -> Iterator[SimpleNamespace]:
        folder = RunFolder(Path(cfg.run.folder) / str(cfg.run.name))
        folder.path.mkdir(exist_ok=resume is not None)
        folder.write_config(cfg)
        yield SimpleNamespace(cfg=cfg, folder=folder, saved=True, like=like)

    def __call__(
        self, runs: list[SimpleNamespace], *, resumed: list[bool], places: int
    ) -> SimpleNamespace:
        asked = [(run.cfg.seed, went_on) for run, went_on in zip(runs, resumed, strict=True)]
        self.asked.append((asked, places))
        assert [run.like for run in runs] == [None, *[runs[0]] * (len(runs) - 1)]
        for run in runs:
            if run.cfg.seed not in self.stopped:
                run.folder.append_metrics(FINAL)
        return SimpleNamespace(train=lambda go_on: not self.stopped)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Together:
    made = Together()
    monkeypatch.setattr(seeds, "open_run", made.open_run)
    monkeypatch.setattr(seeds, "Together", made)
    monkeypatch.chdir(tmp_path)
    return made


def test_seeds_together_go_on_together(
    together: Together, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    together.stopped = (1, 2)
    words = ["--seeds", "0..2", "--together", "--run.name", "mine", "--num-envs", "4"]
    assert seeds.train_command(words) == 0
    said = capsys.readouterr().out
    assert "Go on with:\n  python train.py --resume runs/mine\n" in said
    together.stopped = ()
    assert seeds.train_command(["--resume", "runs/mine"]) == 0
    assert together.asked == [
        ([(0, False), (1, False), (2, False)], 3),
        ([(1, True), (2, True)], 3),
    ]
    assert seeds.train_command(["--resume", "runs/mine"]) == 0 and len(together.asked) == 2
    assert "3 seeds: interquartile mean 90.0%" in capsys.readouterr().out


def test_what_cannot_be_together_leaves_no_folder(together: Together, tmp_path: Path):
    for words, text in (
        (["--together"], "--together without seeds, allowed: with --seeds 0 1 2"),
        (["--seeds", "0", "1", "--together", "--pilot"], "--together with --pilot"),
    ):
        with pytest.raises(ValueError, match=text):
            seeds.train_command(words)
    assert together.asked == [] and not (tmp_path / "runs").exists()


def test_seeds_begun_one_after_another_may_go_on_together(
    together: Together, trainer: Trainer, tmp_path: Path
):
    trainer.stop_at = 0
    seeds.train_command(["--seeds", "0", "1", "--run.name", "mine"])
    assert seeds.train_command(["--resume", "runs/mine", "--together"]) == 0
    assert together.asked == [([(0, True), (1, False)], 2)]
    assert json.loads((tmp_path / "runs/mine/seeds.json").read_text())["together"] is True


def test_a_run_that_fails_ends_them(trainer: Trainer):
    trainer.status = FAILED
    assert seeds.train_command(["--seeds", "0", "1"]) == FAILED
    assert [seed for seed, _, _ in trainer.asked] == [0]


def test_a_signal_before_the_first_run_leaves_no_folder(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def ended_at_once(cfg: TrainConfig, resume: Path | None) -> int:
        assert runs_of(tmp_path)
        # What QuitSignal calls before it ends the process.
        for undo in reversed(signals._undoing):
            undo()
        assert not runs_of(tmp_path)
        raise SystemExit

    monkeypatch.setattr(seeds, "train", ended_at_once)
    with pytest.raises(SystemExit):
        seeds.train_command(["--preset", "laptop", "--seeds", "0", "1"])
    assert signals._undoing == []


def runs_of(folder: Path) -> list[Path]:
    return list((folder / "runs").glob("*"))


def test_where_nothing_was_begun_no_folder_is_left(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(cfg: TrainConfig, resume: Path | None) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(seeds, "train", fail)
    with pytest.raises(OSError, match="No space"):
        seeds.train_command(["--seeds", "0", "1"])
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--seeds", "0", "0"], "--seeds 0 0, allowed: each of them once"),
        (["--seeds", "0", "-1"], "seed -1, allowed: 0 to"),
        (["--seeds"], "--seeds takes one or more numbers, in place of --seed"),
        (["--seeds", "0", "--seed", "3"], "--seeds takes one or more numbers, in place of --seed"),
    ],
)
def test_seeds_that_cannot_be(trainer: Trainer, tmp_path: Path, words: Sequence[str], text: str):
    with pytest.raises(ValueError, match=text):
        seeds.train_command(words)
    assert trainer.asked == [] and not (tmp_path / "runs").exists()


def test_a_damaged_list_of_seeds_is_named(trainer: Trainer, tmp_path: Path):
    (tmp_path / "seeds.json").write_text(json.dumps({"seeds": "ab"}))
    with pytest.raises(ValueError, match=r"seeds\.json is damaged"):
        seeds.train_command(["--resume", str(tmp_path)])
