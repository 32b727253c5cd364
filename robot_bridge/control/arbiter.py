"""Who commands the arm: a person before the policy, and the newest word of each."""

import threading
from dataclasses import dataclass

from robot_bridge.messages import Command, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Whose command is executed now.

    Attributes:
        command: that is executed, None where there is none.
        policy: what the policy wants meanwhile.
    """

    command: Command | None
    policy: Command | None


class Arbiter:
    """Keeps the newest command of each source; any thread may offer one.

    A person who has taken over keeps the arm for `latch` [s] after the last input, so that a pause
    between two pushes does not hand it back.
    """

    def __init__(self, *, latch: float = 0.5) -> None:
        self._latch = latch
        self._lock = threading.Lock()
        self._newest: dict[Source, tuple[Command, float]] = {}

    def offer(self, command: Command, now: float) -> None:
        """Put in a command that came at `now` [s]."""
        with self._lock:
            self._newest[command.source] = (command, now)

    def choose(self, now: float) -> Choice:
        """Return the command to execute at `now` [s], None where nobody has any."""
        with self._lock:
            policy, _ = self._newest.get("policy", (None, 0.0))
            operator, came = self._newest.get("operator", (None, 0.0))
        if operator is not None and now - came <= self._latch:
            return Choice(command=operator, policy=policy)
        return Choice(command=policy, policy=policy)

    def clear(self) -> None:
        """Forget all commands: what was wanted before a stop is not wanted after it."""
        with self._lock:
            self._newest.clear()
