"""What ends a session from outside: signals, and a terminal that has gone."""

import signal

import pytest

from robot_bridge.deploy import commands
from robot_bridge.deploy.commands import Interruptible, guarded
from robot_bridge.safety.supervisor import NotAllowedError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_ends_the_session_and_the_others_wait(number: signal.Signals) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {other: signal.getsignal(other) for other in numbers}

    def gone(line: str) -> None:
        raise OSError(5, "Input/output error")  # what a terminal says that has been closed

    released = False
    with pytest.raises(KeyboardInterrupt), Interruptible(gone):
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(number)
            released = True
    assert released
    for other, handler in before.items():
        signal.signal(other, handler or signal.SIG_DFL)


def test_who_asked_not_to_be_hung_up_is_not() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruptible(lambda line: None):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_question_that_nobody_can_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def over(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", over)
    with pytest.raises(NotAllowedError, match="Nobody answers at this terminal"):
        commands._ask("To arm, type")
    assert guarded(lambda: len(commands._ask("?"))) == 1
    assert "a real arm needs a person" in capsys.readouterr().err
