"""Processes of one run: started, watched, started again, told to stop; scripts for schedulers."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mjx_serl.launch import __main__ as command
from mjx_serl.launch import places, supervisor
from mjx_serl.ranks import Ranks, read_ranks
from scenes.contract.command_line import BAD_INPUT, FAILED, INTERRUPTED
from scenes.contract.errors import InputError

FAKE = Path(__file__).with_name("fake_rank.py")
Launch = Callable[..., int]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Run the command in an empty folder, with what the fake is to do."""
    monkeypatch.chdir(tmp_path)
    # The wrapper is found from anywhere.
    root = Path(command.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setattr(places, "TRAIN", (sys.executable, "-S", str(FAKE)))
    monkeypatch.setattr(supervisor, "_SETTLE_S", 0.5)

    def run(*words: str, **fake: Any) -> int:
        monkeypatch.setenv("FAKE_RANK", json.dumps(fake))
        monkeypatch.setattr(sys, "argv", ["launch", *words])
        return command.run()

    return run


def test_a_run_is_trained_by_several_processes(launch: Launch, capsys: pytest.CaptureFixture[str]):
    assert launch("--local", "2", "--run.name=pair") == 0
    said = capsys.readouterr().out
    # Rank 0 is heard; all are kept in the run's folder.
    assert said.count("rank 0 of 2 at 127.0.0.1:") == 1
    assert "rank 1 of 2" not in said
    logs = {path.name: path.read_text() for path in Path("runs/pair").glob("rank-*.log")}
    assert logs.keys() == {"rank-0.log", "rank-1.log"}
    assert logs["rank-1.log"].startswith("rank 1 of 2 at 127.0.0.1:")
    assert not Path("runs/pair.ranks").exists()


def test_one_that_is_lost_starts_all_again_from_the_checkpoint(
    launch: Launch, capsys: pytest.CaptureFixture[str]
):
    assert launch("--local", "2", "--run.name=pair", crash=[1, 1]) == 0
    said = capsys.readouterr().out
    assert "launch: rank 1 on this machine: signal 9: RuntimeError: a device is lost" in said
    assert "launch: all start again in 1 s (1 of 5) from the checkpoint of epoch 2\n" in said
    assert "train.py --resume=runs/pair\n" in said
    assert sorted(Path("runs/pair/attempts").read_text().split()) == ["0", "0", "1", "1"]


def test_without_progress_it_gives_up_and_says_how_to_go_on(
    launch: Launch, capsys: pytest.CaptureFixture[str]
):
    words = ("--local", "2", "--restarts", "1", "--run.name=pair")
    # The first attempt saves, the second does not.
    assert launch(*words, crash=[0, 0]) == FAILED
    said = capsys.readouterr().out
    assert said.count("signal 9") == 2
    assert "launch: given up after 1 restarts without a newer checkpoint\n" in said
    assert said.endswith("with: python -m mjx_serl.launch --local 2 --resume runs/pair\n")
    assert launch("--local", "2", "--resume", "runs/pair") == 0


def test_wrong_options_are_not_tried_again(launch: Launch, capsys: pytest.CaptureFixture[str]):
    assert launch("--local", "2", "--run.name=pair", refuse=1) == BAD_INPUT
    said = capsys.readouterr().out
    assert "rank 1 on this machine: exit 2: error: agent.lr -1, allowed: above 0" in said
    assert "start again" not in said


@pytest.mark.parametrize("who", ["the supervisor", "a rank"])
def test_all_save_when_one_is_told_to_stop(
    launch: Launch, capsys: pytest.CaptureFixture[str], who: str
):
    def tell() -> None:
        # A rank trains: it heeds signals from here on.
        while not Path("runs/pair/checkpoints/2").exists():
            time.sleep(0.02)
        if who == "the supervisor":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            Path("runs/pair/stop").touch()  # as a rank that is told does to the others

    threading.Thread(target=tell).start()
    assert launch("--local", "2", "--run.name=pair", slow=True) == INTERRUPTED
    said = capsys.readouterr().out
    assert "start again" not in said
    assert said.endswith("with: python -m mjx_serl.launch --local 2 --resume runs/pair\n")


def test_hosts_are_reached_by_ssh(launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$1" >> hosts\nexec sh -c "$2"\n')
    ssh.chmod(0o755)
    monkeypatch.setattr(command, "SSH", (str(ssh),))
    words = ("--hosts", "one", "two", "--interface", "127.0.0.1", "--port", "8123")
    assert launch(*words, "--run.name=pair") == 0
    assert sorted(Path("hosts").read_text().split()) == ["one", "two"]
    log = Path("runs/pair/rank-1.log").read_text()
    assert log == "rank 1 of 2 at 127.0.0.1:8123\n"


def test_schedulers_get_a_script_in_which_each_process_joins(
    launch: Launch, capsys: pytest.CaptureFixture[str]
):
    assert launch("--slurm", "4", "--preset", "laptop", "--run.name=big") == 0
    script = capsys.readouterr().out
    assert "#SBATCH --nodes=4\n" in script
    assert "mjx_serl.launch --join --preset laptop --run.name=big && exit 0\n" in script
    assert launch("--kubernetes", "2", "--gpus", "8", "--run.name=big") == 0
    jobs = json.loads(capsys.readouterr().out)
    spec = jobs["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]["containers"][0]
    assert spec["completions"] == 2
    assert pod["command"][-3:] == ["--join", "--run.name=big", "--run.folder=/runs"]
    assert pod["env"][0]["value"] == "big-rank-0-0.big:8476"
    assert pod["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_a_process_that_joins_fails_while_the_run_is_not_finished(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
):
    for name, value in Ranks(0, 1, "127.0.0.1:8123").environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(command, "TRAIN", places.TRAIN)

    def tell() -> None:
        while not Path("runs/one/checkpoints/2").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    assert launch("--join", "--run.name=one", slow=True) == command.UNFINISHED
    assert launch("--join", "--run.name=one") == 0


def test_what_the_environment_says_is_checked():
    ranks = Ranks(1, 2, "10.0.0.1:8476", bind="10.0.0.1:8476")
    assert read_ranks(ranks.environ()) == ranks
    assert read_ranks({}) is None
    for changed, why in (
        ({"MJX_SERL_RANK": "2"}, "allowed: 0 to 1"),
        ({"MJX_SERL_RANK": ""}, "without the rest of"),
        ({"MJX_SERL_RANKS": "two"}, "is no number"),
        ({"MJX_SERL_COORDINATOR": "10.0.0.1"}, "allowed: HOST:PORT"),
    ):
        with pytest.raises(InputError, match=why):
            read_ranks(ranks.environ() | changed)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "none of them, allowed: one of"),
        (("--local", "2", "--join"), "allowed: one of"),
        (("--local", "0"), "at least 1"),
        (("--local", "2", "--seeds", "0", "1"), "allowed: --seed NUMBER"),
        (("--local", "2", "--resume", "runs/none"), "does not exist"),
        (("--local", "2", "--interface", "192.0.2.1"), "an address of this machine"),
    ],
)
def test_what_cannot_be_is_refused(
    launch: Launch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
):
    assert launch(*words) == BAD_INPUT
    assert why in capsys.readouterr().err
