"""What another process tells a run that trains: a file in its folder, looked for every epoch.

Whoever may write in the folder may say it; nothing listens on a network.
"""

from pathlib import Path

from scenes.contract.files import write_atomically

COMMANDS = ("pause", "resume", "stop", "save", "evaluate", "episodes")
_FILE = "command"
_PAUSED = "paused"


def tell(folder: Path, what: str) -> None:
    """Tell the run that trains in a folder one of `COMMANDS`; the last one counts."""
    write_atomically(folder / _FILE, what + "\n")


def told(folder: Path) -> str | None:
    """Return what the run was told since it looked last; None mostly."""
    path = folder / _FILE
    if not path.exists():
        return None
    what = path.read_text().strip()
    path.unlink(missing_ok=True)
    return what if what in COMMANDS else None


def note_pause(folder: Path, *, paused: bool) -> None:
    """Say in the folder whether the run is paused."""
    if paused:
        write_atomically(folder / _PAUSED, "")
    else:
        (folder / _PAUSED).unlink(missing_ok=True)


def is_paused(folder: Path) -> bool:
    """Return whether the run that trains in a folder is paused."""
    return (folder / _PAUSED).exists()
