"""benchmarks.tasks: what is filed is kept, what takes too long is stopped and then evaluated."""

from pathlib import Path

import pytest

from benchmarks import tasks, training_run
from benchmarks.results import Recorder

# Stands for train.py: one check, then work until it is stopped; a resumed run is over at once.
TRAIN = """
import json, pathlib, signal, sys
options = dict(word.split("=", 1) for word in sys.argv[1:])
resumed = "--resume" in options
place = [options["--resume"]] if resumed else [options["--run.folder"], options["--run.name"]]
folder = pathlib.Path(*place)
if resumed:
    found = {"success_rate": 0.4, "success_ci95": [0.3, 0.5], "episodes": 100, "task": "t",
             "wall_seconds": 1.0, "compile_seconds": 0.5, "updates": 7, "device": "cpu",
             "env_steps": int(options["--total-env-steps"])}
    (folder / "summary.json").write_text(json.dumps(found))
    sys.exit()
folder.mkdir()
check = {"kind": "eval", "elapsed_s": 2.0, "success_rate": 0.25, "env_steps": 800}
last = {"kind": "epoch", "elapsed_s": 3.0, "env_steps": 1200, "grad_steps": 1200}
(folder / "metrics.jsonl").write_text(json.dumps(check) + "\\n" + json.dumps(last) + "\\n")
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
while True:
    pass
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tasks.TasksConfig:
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setattr(training_run, "ROOT", tmp_path)
    monkeypatch.setattr(training_run, "_POLL", 0.02)
    return tasks.TasksConfig(
        only=("franka/pick_cube",), minutes=0.3 / 120, episodes=2, folder=tmp_path / "runs"
    )


def test_a_run_out_of_time_is_stopped_and_evaluated_where_it_is(trained: tasks.TasksConfig):
    recorder = Recorder("tasks")
    tasks.run(trained, recorder)
    expert, learned = recorder.results
    assert (expert.name, expert.value) == ("franka/pick_cube: expert", 1.0)
    assert expert.params["ci95"][0] < 1.0 and expert.params["steps"] < 100
    assert (learned.name, learned.value) == ("franka/pick_cube: learned, seed 0", 0.4)
    assert learned.params["out_of_time"] and learned.params["cpu_seconds"] >= 0.3
    assert learned.params["env_steps"] == 1200
    assert learned.params["curve"] == [(800, 2.0, 0.25)]

    tasks.run(trained, recorder)
    assert recorder.results == [expert, learned]


def test_a_run_that_fails_is_filed_with_its_last_words(trained: tasks.TasksConfig):
    (training_run.ROOT / "train.py").write_text('raise SystemExit("error: no such option")')
    recorder = Recorder("tasks")
    recorder.add("franka/pick_cube: expert", 1.0, "rate", {})
    tasks.run(trained, recorder)
    assert recorder.results[1].value is None
    assert recorder.results[1].params["reason"] == "exit 1: error: no such option"


def test_pixels_are_those_of_all_of_the_task_s_cameras():
    cfg = tasks.TasksConfig(pixels=True)
    task = "piper/mobile_pick"
    assert tasks.learned_row(cfg, task, 1) == "piper/mobile_pick: learned from pixels, seed 1"
    command = " ".join(tasks.train_command(cfg, task, 1))
    assert "--preset=pixels --task=piper/mobile_pick --pixels.cameras 3rd wrist --seed=1" in command
