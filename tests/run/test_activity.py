"""What takes long is never silent, and how long it took is known the next time."""

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from mjx_serl.run.activity import Activity, Durations
from mjx_serl.run.console import ConsoleHook
from mjx_serl.run.hooks import RunInfo


class Heard:
    """Lines that begin something, and lines about what still runs."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.waits: list[str] = []

    def activity(self, folder: Path | None = None, *, every: float = 60.0) -> Activity:
        durations = Durations(folder)
        return Activity(self.begun.append, self.waits.append, durations, key="toy", every=every)

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 10
        while not any(words in line for line in self.waits):
            assert time.monotonic() < deadline, (words, self.waits)
            time.sleep(0.005)


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_all_that_still_runs_is_named_again_and_again(heard: Heard):
    activity = heard.activity(every=0.02)
    with activity.doing("compiling the epoch"):
        heard.wait_for("compiling the epoch, 0 s")
        with activity.doing("first steps"):
            heard.wait_for("compiling the epoch, first steps, 0 s")
        before = len(heard.waits)
        heard.waits.clear()
        heard.wait_for("compiling the epoch, 0 s")
        assert before and "first steps" not in heard.waits[-1]


def test_what_is_short_is_not_spoken_of_and_leaves_no_thread(heard: Heard):
    def watches() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "activity"]

    activity = heard.activity()
    for number in range(3):
        with activity.doing(f"epoch {number}"):
            assert watches()
    for thread in watches():
        thread.join(10)
    assert watches() == [] and heard.waits == []


def test_the_last_time_is_known_and_the_longest_counts(heard: Heard, tmp_path: Path):
    first = Durations(tmp_path)
    first.remember("toy compiling", 34.6)
    first.remember("toy first steps", 12.0)
    first.remember("toy blinking", 0.2)
    activity = heard.activity(tmp_path)
    activity.announce("compiling, first steps", usually="a minute")
    activity.announce("saving, blinking", usually="a minute")
    activity.announce("saving")
    assert heard.begun == [
        "compiling, first steps (35 s the last time)",
        "saving, blinking (a minute)",
        "saving",
    ]


def test_a_failure_is_not_remembered_as_a_duration(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mjx_serl.run.activity._SHORT_S", 0.0)
    activity = heard.activity(tmp_path)
    with pytest.raises(RuntimeError), activity.doing("compiling", remembered=True):
        raise RuntimeError
    assert not (tmp_path / "durations.json").exists()
    with activity.doing("compiling", remembered=True):
        pass
    assert list(json.loads((tmp_path / "durations.json").read_text())) == ["toy compiling"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "b"}', ""])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str):
    (tmp_path / "durations.json").write_text(text)
    assert Durations(tmp_path).last("a") is None


def test_without_a_folder_nothing_is_kept(tmp_path: Path):
    Durations(tmp_path / "none").remember("a", 9.0)
    Durations(None).remember("a", 9.0)
    assert list(tmp_path.iterdir()) == []


def test_the_console_prints_what_still_runs(capsys: pytest.CaptureFixture[str]):
    ConsoleHook().on_wait("building 200000 worlds of toy, 12 s")
    assert capsys.readouterr().out == "still building 200000 worlds of toy, 12 s\n"


def test_the_panel_shows_it_beside_its_clock(make_info: Callable[..., RunInfo]):
    hook = ConsoleHook(stream=io.StringIO())
    hook.on_start(make_info("runs/a"))
    hook._live = SimpleNamespace()  # as on a terminal
    hook.on_wait("compiling the epoch, first steps, 12 s")
    console = Console(width=100, file=io.StringIO())
    console.print(hook._board.panel())
    assert "compiling the epoch, first steps, 0." in console.file.getvalue()
