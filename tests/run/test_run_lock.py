"""Only one process trains a run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mjx_serl.commands import open_run
from mjx_serl.config import TrainConfig
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.run_lock import LOCK, locked, require_unlocked

HOLD = "import sys, time; from pathlib import Path; from mjx_serl.run.run_lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_the_second_is_refused_by_name_and_the_lock_goes_with_the_first(tmp_path: Path) -> None:
    with locked(tmp_path):
        for other in (locked(tmp_path).__enter__, lambda: require_unlocked(tmp_path)):
            with pytest.raises(
                ValueError, match=f"Process {os.getpid()} on {socket.gethostname()}"
            ):
                other()
    assert (tmp_path / LOCK).read_text() == ""
    with locked(tmp_path):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"Process {holder.pid} on"):
        require_unlocked(tmp_path)
    holder.kill()
    holder.communicate()
    assert (tmp_path / LOCK).read_text() != ""
    require_unlocked(tmp_path)
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} ")


def test_a_lock_of_another_machine_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("77 elsewhere\n")
    for enter in (locked(tmp_path).__enter__, lambda: require_unlocked(tmp_path)):
        with pytest.raises(ValueError, match=r"77 on elsewhere .* delete '.*lock' and resume"):
            enter()


def test_a_run_that_is_being_trained_is_not_even_built(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, task="t", agent="a", seed=0, name="run")
    folder.write_config(TrainConfig())
    again = open_run(TrainConfig(), folder.path, hooks=(), outputs=())
    with locked(folder.path), pytest.raises(ValueError, match="is training in"), again:
        pass
