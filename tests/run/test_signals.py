"""Ctrl-C and SIGTERM: the first is a request, the second the end."""

import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from mjx_serl.run.signals import StopSignal, note_stop

LOOP = """
    import sys, time
    from mjx_serl.run.signals import StopSignal
    with StopSignal() as stop:
        print("ready", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        print("saved", flush=True)
"""

# The main thread sits in one C call (as in a compiled epoch) from which the second must free it.
STUCK = """
    import ctypes
    from mjx_serl.run.signals import StopSignal
    with StopSignal() as stop:
        print("ready", flush=True)
        libc, end = ctypes.CDLL(None), __import__("time").monotonic() + 20
        while __import__("time").monotonic() < end:
            libc.nanosleep(ctypes.byref((ctypes.c_long * 2)(20, 0)), None)
"""


def start(code):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_lets_the_loop_finish(number):
    process = start(LOOP)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0 and out == "saved\n"
    assert err.count("Once more to quit") == 1 and "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(number):
    process = start(STUCK)
    process.send_signal(number)
    assert process.stderr is not None
    while "Once more" not in process.stderr.readline():
        pass
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < 2.0


def test_handlers_are_put_back_and_no_thread_stays():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1
    deadline = time.monotonic() + 2.0
    while any(t.name == "stop-signal" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not stop.requested


def test_the_note_says_how_to_go_on(capsys):
    note_stop("python train.py --resume runs/x")
    assert capsys.readouterr().err.endswith("It goes on with: python train.py --resume runs/x\n")


def test_request_is_seen_in_process():
    seen = []
    with StopSignal(on_first=lambda: seen.append(1)) as stop:
        signal.raise_signal(signal.SIGTERM)
        deadline = time.monotonic() + 2.0
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stop.requested and seen in ([], [1])


def test_a_thread_of_its_own_trains_without_handling_signals():
    before, seen = signal.getsignal(signal.SIGINT), []

    def use() -> None:
        with StopSignal() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(before, False)] and signal.getsignal(signal.SIGINT) is before


# Importing swallows exceptions that are raised in it, as some packages do; then nothing is asked.
SWALLOWS = """
    import sys, time
    from mjx_serl.run.signals import QuitSignal, StopSignal, undo_on_quit
    with (
        QuitSignal(),
        undo_on_quit(lambda: 1 / 0),
        undo_on_quit(lambda: print("undone", flush=True)),
    ):
        with undo_on_quit(lambda: print("what is done is not undone", flush=True)):
            pass
        {inside}
        print("ready", flush=True)
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
"""
AFTER_A_LOOP = "with StopSignal() as stop: pass"


@pytest.mark.parametrize("inside", ["pass", AFTER_A_LOOP])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_there_is_nothing_to_finish_the_first_signal_is_the_end(number, inside):
    process = start(SWALLOWS.replace("{inside}", inside))
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert out == "undone\n" and "Interrupted." in err and "Traceback" not in err
