"""What this machine knows of bundles: on which robots each has run dry, and for how many episodes.

A bundle's first run on a robot is dry, its first episodes are slow; both are remembered here.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from scenes.contract.files import write_atomically
from scenes.contract.serialize import from_json, to_json

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Runs of one bundle on one robot.

    Attributes:
        dry: without motion.
        episodes: with motion.
    """

    dry: int = 0
    episodes: int = 0


@dataclass(frozen=True, kw_only=True)
class _Book:
    entries: dict[str, Experience]


def state_folder() -> Path:
    """Where this machine's user remembers deployments (XDG_STATE_HOME)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "mjx_serl" / "bridge"


class Ledger:
    """The file; one that cannot be read counts as empty, which is the careful side."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)

    def of(self, bundle: str, robot: str) -> Experience:
        """What is known of a bundle's digest on a robot's serial."""
        return self._entries.get(f"{bundle} {robot}", Experience())

    def note(self, bundle: str, robot: str, *, dry: int = 0, episodes: int = 0) -> None:
        """Add runs and write the file, atomically."""
        known = self.of(bundle, robot)
        grown = replace(known, dry=known.dry + dry, episodes=known.episodes + episodes)
        self._entries[f"{bundle} {robot}"] = grown
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(to_json(_Book(entries=self._entries)), indent=2) + "\n"
        write_atomically(self._path, text)


def _read(path: Path) -> dict[str, Experience]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        return dict(from_json(_Book, json.loads(path.read_text())).entries)
    except (OSError, ValueError):
        return {}
