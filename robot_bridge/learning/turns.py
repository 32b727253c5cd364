"""Whose turn it is at a task of two parts that undo each other's work: nobody resets the scene.

As in SERL's bin relocation a success hands over to the other part; after anything else the same
part goes on, because nothing says that the other one has anything to do.
"""

from typing import Protocol

from robot_bridge.learning.workcell import WorkcellConfig
from robot_bridge.messages import Ending
from scenes.contract.errors import InputError


class TurnsWorld(Protocol):
    """A simulated world whose task has two parts."""

    @property
    def part(self) -> int:
        """Whose turn it is: 0 or 1."""
        ...

    def hand_over(self, part: int) -> None:
        """Let a part go on as things lie."""
        ...


class Turns:
    """The turns of a session; of a task without parts every episode is set up anew.

    Attributes:
        part: whose turn it is: 0 or 1.
        in_place: the next episode begins where the arm is.
        kept: the scene is as the last episode left it; else it is set up, as at first and after a
            failure, which is where nothing can go on (the object is out of reach).

    Args:
        parts: what they are called; () of a task without.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts, self.part = parts, 0
        self.in_place = self.kept = False
        self._solved, self._played = [0] * len(parts), [0] * len(parts)

    @property
    def name(self) -> str:
        """Of the part whose turn it is, "" without parts."""
        return self._parts[self.part] if self._parts else ""

    @property
    def facts(self) -> dict[str, str]:
        """Of an episode, for those who are told of it."""
        return {"part": self.name} if self._parts else {}

    def begin(self, world: TurnsWorld | None) -> None:
        """An episode begins: in a world that has been set up it says whose."""
        if world is not None and self.kept:
            world.hand_over(self.part)
        elif world is not None:
            self.part = world.part

    def end(self, ending: Ending) -> None:
        """An episode has ended."""
        if not self._parts:
            return
        self._played[self.part] += 1
        self._solved[self.part] += ending == "success"
        if ending == "success":
            self.part = 1 - self.part
        self.in_place = ending in ("success", "timeout")
        self.kept = ending != "failure"

    @property
    def told(self) -> str | None:
        """Successes by part, in a line; None without parts."""
        counts = zip(self._parts, self._solved, self._played, strict=True)
        return ", ".join(f"{name} {won} of {all_}" for name, won, all_ in counts) or None


def require_judged_apart(parts: tuple[str, ...], cell: WorkcellConfig | None) -> None:
    """Raise InputError where a workcell would judge both parts of a task by one pose."""
    if parts and cell is not None and cell.target is not None:
        raise InputError(
            f"Workcell: target with a task by turns ({', '.join(parts)}), of which one pose cannot "
            "judge both; leave it out: a person says success (--operator, y)"
        )
