"""A terminal's keyboard as an operator's device."""

import atexit
import os
import select
import termios
import tty
from collections.abc import Mapping
from typing import Any

import numpy as np

from scenes.contract.operator import (
    HOLD_SECONDS,
    Axes,
    OperatorError,
    OperatorEvent,
    OperatorInput,
    said,
)


def require_terminal(terminal: int = 0) -> None:
    """Raise OperatorError where a file descriptor is no terminal."""
    if not os.isatty(terminal):
        raise OperatorError(
            "Keyboard control needs a terminal and standard input is none; "
            "use `ssh -t`, or another operator device"
        )


class KeyboardOperator:
    """Keys of a terminal, over ssh too.

    A terminal says when a key is pressed and repeats the last one that is held, but not when it is
    let go. So a push lasts for `press` [s] after the key's last repeat, and every motion key also
    counts as the hold-to-run key, since two keys at once do not repeat.

    Args:
        axes: makes actions.
        speed: of a key's push, in (0, 1].
        press: see above [s]; longer than the terminal's repeat period.
        hold: after which hold-to-run counts as let go [s].
        terminal: file descriptor, normally standard input.
    """

    PUSHES: Mapping[str, tuple[str, float]] = {
        "w": ("x", 1.0),
        "s": ("x", -1.0),
        "a": ("y", 1.0),
        "d": ("y", -1.0),
        "r": ("z", 1.0),
        "f": ("z", -1.0),
        "c": ("gripper", 1.0),
        "o": ("gripper", -1.0),
    }
    EVENTS: Mapping[str, OperatorEvent] = {
        "\x1b": "stop",
        "q": "stop",
        "y": "success",
        "n": "failure",
        "0": "cut",
    }

    def __init__(
        self,
        axes: Axes,
        *,
        speed: float = 0.5,
        press: float = 0.12,
        hold: float = HOLD_SECONDS,
        terminal: int = 0,
    ) -> None:
        self.lost: str | None = None
        self._axes, self._speed, self._press, self._hold = axes, speed, press, hold
        self._terminal = terminal
        self._saved: list[Any] | None = None
        self._pressed: dict[str, float] = {}
        self._enabled_at = -np.inf

    @property
    def help_text(self) -> str:
        """The keys, one line per group."""
        return (
            "w/s forward/back   a/d left/right   r/f up/down   c/o close/open gripper\n"
            "space hold to run (motion keys count too)   esc or q STOP\n"
            "y success   n failure   0 start again"
        )

    def open(self) -> None:
        """Take single keys from the terminal without showing them; OperatorError without one."""
        require_terminal(self._terminal)
        self._saved = termios.tcgetattr(self._terminal)
        # Whoever forgets to close leaves a shell in which nothing shows; not even an error may.
        atexit.register(self.close)
        tty.setcbreak(self._terminal)
        _ignore_suspend(self._terminal)

    def poll(self, now: float) -> OperatorInput | None:
        """Return what the keys pressed until `now` [s] want."""
        event = self._press_keys(self._read(), now)
        held = {k: t for k, t in self._pressed.items() if now - t <= self._press}
        pushed: dict[str, float] = {}
        for key in held:
            axis, sign = self.PUSHES[key]
            pushed[axis] = pushed.get(axis, 0.0) + sign * self._speed
        self._pressed = held
        action, enabled = self._axes.action(pushed), now - self._enabled_at <= self._hold
        return said(action, enabled=enabled, event=event)

    def close(self) -> None:
        """Give the terminal back as it was."""
        saved, self._saved = self._saved, None
        if saved is not None:
            atexit.unregister(self.close)
            try:
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, saved)
            except termios.error:
                self.lost = "the terminal is gone"

    def _read(self) -> str:
        if self._saved is None or self.lost is not None or not _readable(self._terminal):
            return ""
        try:
            data = os.read(self._terminal, 4096)
        except OSError:
            data = b""
        if not data:
            self.lost = "the terminal is gone"
        return data.decode(errors="ignore")

    def _press_keys(self, text: str, now: float) -> OperatorEvent | None:
        event: OperatorEvent | None = None
        for key in _single_keys(text):
            if key == " " or key in self.PUSHES:
                self._enabled_at = now
            if key in self.PUSHES:
                self._pressed[key] = now
            if event != "stop":
                event = self.EVENTS.get(key) or event
        return event


def _readable(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))


def _single_keys(text: str) -> list[str]:
    """Keys in what a terminal sent; cursor and function keys ("ESC [ A") are left out."""
    keys, rest = [], text
    while rest:
        size = _sequence_length(rest)
        if size == 1:
            keys.append(rest[0].lower() if rest[0].isascii() else rest[0])
        rest = rest[size:]
    return keys


def _sequence_length(text: str) -> int:
    """Length of the escape sequence that begins here, 1 where there is none (ECMA-48 5.4)."""
    if text[:2] == "\x1bO":
        return min(3, len(text))
    if text[:2] != "\x1b[":
        return 1
    ends = (i for i, char in enumerate(text[2:], 3) if "@" <= char <= "~")
    return next(ends, len(text))


def _ignore_suspend(terminal: int) -> None:
    """Take Ctrl-Z and Ctrl-S their meaning: a stopped process would leave the arm alone."""
    attributes = termios.tcgetattr(terminal)
    attributes[0] &= ~termios.IXON
    attributes[6][termios.VSUSP] = b"\x00"
    termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
