"""The console: what a log file and a terminal show, and how numbers are written."""

import dataclasses
import io
import itertools

import pytest

from mjx_serl.run import console, hooks
from mjx_serl.run.console import Board, ConsoleHook, count, duration, size, start_lines
from mjx_serl.run.hooks import EpochRecord

CONFIG = {
    "task": "franka/pick_cube",
    "num_envs": 16,
    "agent": {"hidden": [256, 256], "critic": {"layer_norm": True}},
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = {"s": 0.0}
    monkeypatch.setattr(console.time, "monotonic", lambda: now["s"])
    return now


def make_epoch(epoch, elapsed_s):
    metrics = {hooks.TRAIN_SUCCESS: 0.5, hooks.TRAIN_RETURN: 1.25, hooks.BUFFER_FILL: 0.07}
    return EpochRecord(
        epoch=epoch,
        env_steps=epoch * 100,
        grad_steps=epoch * 50,
        elapsed_s=elapsed_s,
        metrics=metrics,
    )


def test_start_shows_config_device_and_bytes(make_info):
    memory = {"state_bytes": 61_300_000, "buffer_bytes": 52_400_000}
    info = make_info("runs/x", config=CONFIG, device="cpu, 2 threads", **memory)
    lines = list(start_lines(info))
    assert "runs/x" in lines[0]
    assert "cpu, 2 threads" in lines[1] and "1000 env steps" in lines[1]
    assert "state 61.3 MB, of it buffer 52.4 MB" in lines[1]
    assert lines[2].split() == ["run", "task=franka/pick_cube", "num_envs=16"]
    assert lines[3].split() == ["agent", "hidden=256x256", "critic=(layer_norm=True)"]
    resumed = make_info("runs/x", start_epoch=4, start_env_steps=400)
    assert "resumed at epoch 4 (400) of 1000 env steps" in list(start_lines(resumed))[1]


def test_a_run_that_takes_no_env_steps_counts_updates(clock, make_info, make_eval):
    stream = io.StringIO()
    hook = ConsoleHook(stream=stream, interval_s=0.0)
    info = make_info("runs/x", total_updates=2000, start_epoch=1, start_updates=500)
    assert "resumed at epoch 1 (500) of 2000 updates" in list(start_lines(info))[1]
    hook.on_start(info)
    for epoch in (2, 3):
        clock["s"] = float(epoch)
        made = {"env_steps": 0, "grad_steps": epoch * 500, "metrics": {}}
        hook.on_epoch(dataclasses.replace(make_epoch(epoch, float(epoch)), **made))
    hook.on_eval(dataclasses.replace(make_eval(3), env_steps=0, grad_steps=1500))
    text = stream.getvalue()
    assert "left 1.0s" in text and "updates 1500  updates/s 500" in text
    assert "eval  epoch 3  updates 1500" in text and "env steps" not in text


def test_log_lines_come_first_at_once_then_every_few_seconds(clock, make_info):
    stream = io.StringIO()
    hook = ConsoleHook(stream=stream, interval_s=5.0)
    hook.on_start(make_info("runs/x"))
    for epoch in range(1, 26):
        clock["s"] = float(epoch)
        hook.on_epoch(make_epoch(epoch, float(epoch)))
    text = stream.getvalue()
    shown = [line.split()[1] for line in text.splitlines() if line.startswith("epoch")]
    assert shown == ["1", "6", "11", "16", "21"]
    assert "\x1b" not in text
    line = next(line for line in text.splitlines() if line.startswith("epoch 6 "))
    for part in ("env steps/s 100", "updates/s 50", "train success 50%", "return 1.25"):
        assert part in line
    assert "buffer 7%" in line and "elapsed 6.0s" in line and "left 4.0s" in line


def test_evaluations_and_the_end_are_always_printed(clock, make_info, make_eval, make_summary):
    stream = io.StringIO()
    hook = ConsoleHook(stream=stream)
    hook.on_start(make_info("runs/x"))
    hook.on_epoch(make_epoch(1, 1.0))
    hook.on_eval(make_eval(1))
    assert "success 90% [60%, 98%] of 10" in stream.getvalue()
    before = stream.getvalue()
    hook.on_eval(make_eval(1, final=True))
    assert stream.getvalue() == before, "the last line says it"
    hook.on_end(make_summary())
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("done  success 90.0% of 10 episodes (95% interval 59.6% to 98.2%)")


def test_a_terminal_gets_a_panel_that_is_closed_at_the_end(monkeypatch, make_info, make_summary):
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    hook = ConsoleHook(stream=stream)
    hook.on_start(make_info("runs/x"))
    for epoch in (1, 2):
        hook.on_epoch(make_epoch(epoch, float(epoch)))
    hook.on_end(make_summary())
    text = stream.getvalue()
    assert "compiling" in text and "epoch 2" in text and "╰" in text
    assert "elapsed 1.0s" not in text, "no log lines beside the panel"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
    assert text.rstrip().endswith("in 1.0s (compile 0.1s)")


def test_a_stopped_run_says_where_it_stands(make_info):
    stream = io.StringIO()
    hook = ConsoleHook(stream=stream)
    hook.on_start(make_info("runs/x"))
    hook.on_epoch(make_epoch(3, 3.0))
    hook.on_end(None)
    assert stream.getvalue().splitlines()[-1].startswith("stopped  epoch 3")


def render(board, width):
    target = console.Console(file=io.StringIO(), width=width, record=True)
    target.print(board.panel())
    return target.export_text()


def test_the_panel_fits_80_columns(clock, make_info, make_eval):
    board = Board(make_info("runs/x", total_env_steps=10**9))
    for epoch in (1, 2):
        board.add_epoch(
            EpochRecord(
                epoch=epoch,
                env_steps=epoch * 123_456_789,
                grad_steps=epoch * 12_345_678,
                elapsed_s=epoch * 1000.0,
                metrics={hooks.TRAIN_SUCCESS: 1.0, hooks.TRAIN_RETURN: -0.1234},
            )
        )
    board.evaluation = make_eval(2, successes=10)
    text = render(board, 80)
    assert "…" not in text and len(text.splitlines()) == 5
    for part in ("env steps/s 123k", "247M", "100% [72%, 100%]", "return -0.123", "buffer -"):
        assert part in text


def test_rates_leave_out_the_first_epoch_and_follow_the_last_seconds(clock, make_info):
    board = Board(make_info("runs/x", total_env_steps=10_000))
    assert board.rates() is None and board.eta_s() is None
    board.add_epoch(make_epoch(1, 20.0))  # includes the compilation
    assert board.rates() is None
    for epoch in range(2, 12):
        board.add_epoch(make_epoch(epoch, 20.0 + epoch))
    assert board.rates() == pytest.approx((100.0, 50.0))
    for epoch in range(12, 30):
        board.add_epoch(make_epoch(epoch, 31.0 + (epoch - 11) * 0.5))
    assert board.rates() == pytest.approx((200.0, 100.0))
    assert board.eta_s() == pytest.approx((10_000 - 2900) / 200.0)


def test_the_clock_of_the_panel_runs_between_epochs(clock, make_info):
    board = Board(make_info("runs/x"))
    clock["s"] = 3.0
    assert board.elapsed_s() == 3.0
    board.add_epoch(make_epoch(1, 10.0))
    clock["s"] = 5.0
    assert board.elapsed_s() == 12.0


@pytest.mark.parametrize(
    ("call", "text"),
    list(
        itertools.chain(
            [((count, 5), "5"), ((count, 950), "950"), ((count, 9999), "9999")],
            [((count, 12_345), "12.3k"), ((count, 4_560_000), "4.56M"), ((count, 0.25), "0.25")],
            [((size, 950), "950 B"), ((size, 52_400_000), "52.4 MB"), ((size, 3e9), "3 GB")],
            [((duration, None), "-"), ((duration, 4.21), "4.2s"), ((duration, 65.2), "1:05")],
            [((duration, 59.7), "1:00"), ((duration, 7384), "2:03:04")],
        )
    ),
)
def test_numbers_are_short(call, text):
    function, argument = call
    assert function(argument) == text


def test_unknown_metrics_are_dashes():
    assert console.known({}, "x", "{:.0%}") == "-"
    assert console.known({"x": float("nan")}, "x", "{:.0%}") == "-"
    assert console.known({"x": 0.125}, "x", "{:.1%}") == "12.5%"
