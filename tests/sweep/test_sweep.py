"""Runs as processes: all, those that are left, those that failed, and after a signal."""

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pytest

from mjx_serl.compare import main as compare
from mjx_serl.run.run_lock import locked
from mjx_serl.sweep import __main__ as command
from mjx_serl.sweep import jobs, plan
from scenes.contract.command_line import BAD_INPUT, FAILED, INTERRUPTED

Sweep = Callable[..., int]
FOLDER = Path("runs/sweep")


def begun() -> dict[str, list[str]]:
    """What each run was told last, by its name."""
    told = {}
    for file in sorted(FOLDER.glob("*/seed-*/config.json")):
        told[file.parent.relative_to(FOLDER).as_posix()] = json.loads(file.read_text())["words"]
    return told


def test_every_run_is_trained_and_reported(sweep: Sweep, capsys: pytest.CaptureFixture[str]):
    assert sweep("sweep.toml", "--jobs", "2") == 0
    said = capsys.readouterr().out
    assert said.startswith("8 runs in runs/sweep: 2 variants x 4 seeds\n8 not begun\n")
    assert said.count(" begins\n") == said.count(" finished after ") == 8
    assert "[8 of 8 finished, 0 in training] " in said
    assert begun()["wide/seed-3"] == [
        *("--agent.hidden", "512", "512", "--seed=3"),
        *("--run.folder=runs/sweep/wide", "--run.name=seed-3"),
    ]
    report = json.loads((FOLDER / "report.json").read_text())
    plain, wide = report["variants"]
    assert plain["success"] == pytest.approx(0.75)  # of 0.6, 0.7, 0.8, 0.9
    assert wide["options"] == {"agent.hidden": [512, 512]}
    assert (plain["steps_to_good"], plain["got_there"], plain["wall_seconds"]) == (2000, 1, 60)
    assert report["runs"][3]["steps_to_good"] == 2000
    assert matplotlib.image.imread(FOLDER / "curves.png").std() > 0.05
    page = (FOLDER / "report.md").read_text()
    low, high = (f"{end:.1%}" for end in plain["success_ci95"])
    assert f"| plain | 4 | 75.0% | {low} to {high} | 2,000 | 1 of 4 | 1:00 |" in page
    # What else takes the folder of several seeds.
    assert compare((FOLDER,)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [f"{FOLDER}/plain/seed-{k}" for k in (0, 1)]


def test_seeds_of_a_variant_are_one_process_where_they_are_together(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
):
    Path("sweep.toml").write_text("together = true\n" + Path("sweep.toml").read_text())
    assert sweep("sweep.toml", fail=[2]) == FAILED
    said = capsys.readouterr().out
    assert "[0 of 2 finished, 1 in training] plain begins\n" in said
    assert "failed: wide: exit 1: error: seed 2 failed\n  runs/sweep/wide/together.log\n" in said
    page = (FOLDER / "report.md").read_text()
    assert "| plain/seed-1 | finished |" in page and "| plain/seed-3 | failed |" in page
    assert sweep("sweep.toml", "--retry") == 0
    said = capsys.readouterr().out
    assert "[2 of 2 finished, 0 in training] wide finished after " in said
    assert "| wide | 4 | 75.0% |" in (FOLDER / "report.md").read_text()
    assert sweep("sweep.toml", "--slurm") == 0
    assert "--array=0-1\n" in (FOLDER / "sweep.sbatch").read_text()


def test_what_is_finished_is_left_alone_and_seeds_may_be_added(sweep: Sweep):
    sweep("sweep.toml", "--jobs", "4")
    before = {path: path.stat().st_mtime_ns for path in FOLDER.glob("*/seed-*/*")}
    text = Path("sweep.toml").read_text()
    Path("sweep.toml").write_text(text.replace("0..3", "0..4"))
    assert sweep("sweep.toml", "--jobs", "2") == 0
    assert len(begun()) == 10
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # The folder's own copy may be edited as well, and is checked anew then.
    (FOLDER / "sweep.toml").write_text(text.replace("0..3", "0..5"))
    assert sweep(str(FOLDER), "--jobs", "2") == 0 and len(begun()) == 12
    (FOLDER / "report.md").unlink()
    assert sweep(str(FOLDER), "--report") == 0
    assert "# 12 runs in " in (FOLDER / "report.md").read_text()


def test_one_that_fails_stops_no_other_and_is_tried_again_when_told(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
):
    assert sweep("sweep.toml", "--jobs", "2", fail=[1]) == FAILED
    said = capsys.readouterr().out
    assert "failed: plain/seed-1: exit 1: error: no luck\n  runs/sweep/plain/seed-1.log\n" in said
    assert said.count("failed: ") == 2 and "[6 of 8 finished, " in said
    assert "\n  python -m mjx_serl.sweep runs/sweep --jobs 2 --retry\n" in said
    assert "| plain/seed-1 | failed |" in (FOLDER / "report.md").read_text()
    assert sweep("sweep.toml") == FAILED and len(begun()) == 6
    assert sweep(str(FOLDER), "--retry") == 0 and len(begun()) == 8


def test_a_signal_ends_all_and_they_go_on(sweep: Sweep, capsys: pytest.CaptureFixture[str]):
    def interrupt() -> None:
        while len(list(FOLDER.glob("*/*/waiting"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status = sweep("sweep.toml", "--jobs", "2", slow=[1, 2])
    thread.join()
    assert status == INTERRUPTED
    said, note = capsys.readouterr()
    assert said.count(" saved\n") == 2 and "failed" not in said
    assert "Go on with:\n  python -m mjx_serl.sweep runs/sweep --jobs 2\n" in said
    assert "Once more to quit at once" in note
    assert list(begun()) == ["plain/seed-0", "plain/seed-1", "plain/seed-2"]
    report = json.loads((FOLDER / "report.json").read_text())
    assert [run["state"] for run in report["runs"][:4]] == [
        *("finished", "interrupted", "interrupted", "not begun"),
    ]
    assert sweep(str(FOLDER), "--jobs", "4") == 0 and len(begun()) == 8
    assert begun()["plain/seed-1"] == ["--resume=runs/sweep/plain/seed-1"]


def test_the_second_signal_ends_them_now(sweep: Sweep, tmp_path: Path):
    code = f"""
        import sys
        from mjx_serl.sweep import __main__ as command, jobs
        jobs.TRAIN = {jobs.TRAIN!r}
        command.planned_apart = lambda spec, folder: {{"plain": {{}}, "wide": {{}}}}
        sys.argv = ["sweep", "sweep.toml"]
        sys.exit(command.run("sweep"))
    """
    fake = {"FAKE_TRAIN": json.dumps({"slow": [0], "deaf": [0]})}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | fake | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (FOLDER / "plain/seed-0/waiting").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Once more" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGINT
    # Deaf to the first, it has been killed: what it had is gone on with.
    assert sweep("sweep.toml", "--jobs", "4") == 0


def test_a_folder_is_one_sweep_s_at_a_time(sweep: Sweep, capsys: pytest.CaptureFixture[str]):
    FOLDER.mkdir(parents=True)
    with locked(FOLDER):
        assert sweep("sweep.toml") == BAD_INPUT
    assert f"Process {os.getpid()} on " in capsys.readouterr().err and begun() == {}
    (FOLDER / "config.json").write_text("{}")
    assert sweep("sweep.toml") == BAD_INPUT
    assert "is a run's folder" in capsys.readouterr().err


def test_a_run_that_another_process_trains_is_left_to_it(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
):
    path = FOLDER / "plain" / "seed-2"
    path.mkdir(parents=True)
    (FOLDER / "plain" / "seed-0").mkdir()  # of a process that was killed as it began
    with locked(path):
        assert sweep("sweep.toml", "--jobs", "4") == FAILED
    assert f"left alone: Process {os.getpid()} on " in capsys.readouterr().out
    assert len(begun()) == 7


def test_jobs_share_processors_and_accelerators(sweep: Sweep, monkeypatch: pytest.MonkeyPatch):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no way to say which processors a process may use")
    usable = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a")
    if len(usable) > 1:
        one, other = jobs.slots(2)
        assert one.cpus | other.cpus == set(usable) and not one.cpus & other.cpus
    assert [slot.device for slot in jobs.slots(3)] == ["4", "GPU-a", "4"]
    assert all(len(slot.cpus) == 1 for slot in jobs.slots(2 * len(usable)))
    assert sweep("sweep.toml", "--jobs", "2") == 0
    told = [json.loads(path.read_text()) for path in FOLDER.glob("*/*.log")]
    assert {tuple(words["cpus"]) for words in told} == {
        tuple(sorted(slot.cpus)) for slot in jobs.slots(2)
    }
    assert {words["device"] for words in told} == {"4", "GPU-a"}
    assert sorted(os.sched_getaffinity(0)) == usable


def test_a_job_has_its_processors_before_its_first_instruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What it was told after it had begun came too late for one that counted them at once."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no way to say which processors a process may use")
    inherited = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda *_, **__: inherited.append(os.sched_getaffinity(0))
    )
    slot = jobs.slots(2)[0]
    slot.start(["--help"], tmp_path / "log")
    assert inherited == [slot.cpus]


def test_slurm_gets_one_task_for_each_run(sweep: Sweep, capsys: pytest.CaptureFixture[str]):
    Path("it's 5% here").mkdir()
    text = Path("sweep.toml").read_text()
    Path("sweep.toml").write_text(f'folder = "it\'s 5% here/x"\n{text}')
    assert sweep("sweep.toml", "--slurm", "--jobs", "3") == 0
    script = Path("it's 5% here/x/sweep.sbatch").absolute()
    assert f"Submit it with:\n  sbatch {shlex.quote(str(script))}\n" in capsys.readouterr().out
    lines = script.read_text().splitlines()
    asked = [shlex.split(line)[1] for line in lines if line.startswith("#SBATCH ")]
    assert "--array=0-7%3" in asked and f"--chdir={Path.cwd()}" in asked
    assert f"--output={script.parent}/slurm/%a.out".replace("5% ", "5%% ") in asked
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    exe = [word for word in shlex.split(lines[-1]) if word != "exec"]
    assert exe[1:] == ["-m", "mjx_serl.sweep", str(script.parent), "--only", "$SLURM_ARRAY_TASK_ID"]
    assert begun() == {} and sweep(exe[3], "--only", "5") == 0
    assert [p.name for p in script.parent.glob("*/seed-*/config.json")] == ["config.json"]
    assert (script.parent / "wide/seed-1/metrics.jsonl").is_file()
    assert sweep(exe[3], "--only", "8") == BAD_INPUT
    assert "--only 8, allowed: 0 to 7" in capsys.readouterr().err


def test_tasks_are_strata_of_one_figure(sweep: Sweep, monkeypatch: pytest.MonkeyPatch):
    Path("sweep.toml").write_text('seeds = "0..2"\n[grid]\ntask = ["a/b", "c/d"]\n')
    names = {"task=a-b": {}, "task=c-d": {}}
    monkeypatch.setattr(command, "planned_apart", lambda spec, folder: names)
    assert sweep("sweep.toml", "--jobs", "4") == 0
    (over,) = json.loads((FOLDER / "report.json").read_text())["over_tasks"]
    assert (over["name"], over["runs"]) == ("base", 6)
    assert over["success"] == pytest.approx(0.7)  # 0.6 0.6 0.7 0.7 0.8 0.8 without both ends
    assert "| over tasks |" in (FOLDER / "report.md").read_text()


def test_options_are_read_in_another_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = tmp_path / "x.toml"
    file.write_text("seeds = [0]\n[base]\npreset = 'laptob'\n")
    with pytest.raises(SystemExit, match="2"):
        plan.planned_apart(file, tmp_path / "x")
    said = capfd.readouterr().err
    assert said.startswith("error: variant 'base': Unknown preset 'laptob'. Did you mean 'laptop'?")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--jobs", "0"], "jobs 0, allowed: at least 1"),
        (["--slurm", "--report"], "--only, --slurm and --report, allowed: one of them"),
    ],
)
def test_options_that_cannot_be(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], words: list[str], line: str
):
    assert sweep("sweep.toml", *words) == BAD_INPUT
    assert line in capsys.readouterr().err and not FOLDER.exists()
