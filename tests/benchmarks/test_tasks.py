"""benchmarks.tasks: what is filed is kept, what takes too long is stopped and then evaluated."""

from pathlib import Path

import pytest

from benchmarks import tasks, training_run
from benchmarks.results import Recorder


@pytest.fixture
def trained(pretended_train: Path) -> tasks.TasksConfig:
    return tasks.TasksConfig(
        only=("franka/pick_cube",), minutes=0.3 / 120, episodes=2, folder=pretended_train / "runs"
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
