"""Steps of a SERL or HIL-SERL actor that talks agentlace, as episodes of ours.

The actor's own robot, wrappers and policy are as they were; it is told our parameters by name. Its
rows come from "actor_env", and a second time, where a person drove, from "actor_env_intvn".
"""

import collections
import itertools
import queue
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from numpy.typing import NDArray

from mjx_serl.data.foreign.convert import ConvertOptions, convert
from mjx_serl.data.foreign.serl import follows, transitions
from mjx_serl.learning.arrivals import ArrivedEpisode
from mjx_serl.run.checkpoint import warn_line
from robot_bridge.agentlace.server import AgentlaceConfig, AgentlaceServer, Row
from scenes.contract.demonstrations import DemoContract
from scenes.contract.errors import InputError

ENV, PEOPLE = "actor_env", "actor_env_intvn"
RUN = b""  # its rows are numbered by nobody
_KEPT = 4_000  # rows that a checkpoint knows again; an actor holds 2,000
_LONGEST = 10_000  # rows without an end that are kept
# While the actor goes on, without a step of a person: they have let go. An actor sends both kinds
# of rows in turn, so that those of one moment are not as far apart [s].
_LET_GO_S = 5.0


class AgentlaceFeed:
    """Listens on this machine for agentlace clients.

    Attributes:
        refused: rows that are not what the task observes.

    Args:
        config: of the actors.
        contract: of the task, pictures as they are observed.
        mapping: words OURS=THEIRS for what is called otherwise there (docs/demonstrations.md).
        seen: keys of rows that a checkpoint holds.
    """

    def __init__(
        self,
        config: AgentlaceConfig,
        contract: DemoContract,
        mapping: Sequence[str],
        seen: Sequence[str] = (),
    ) -> None:
        self.refused = 0
        self._contract = contract
        self._options = ConvertOptions(mapping=tuple(mapping), clip_actions=True)
        self._come: queue.SimpleQueue[tuple[str, Mapping[bytes, Row]]] = queue.SimpleQueue()
        self._open: dict[str, list[tuple[bytes, Row]]] = {ENV: [], PEOPLE: []}
        self._driven_at = 0.0  # when rows of a person came last [s]
        self._taken = collections.deque(map(bytes.fromhex, seen), maxlen=_KEPT)
        self._server = AgentlaceServer(
            config,
            stores=(ENV, PEOPLE),
            deliver=lambda store, rows: self._come.put((store, rows)),
            seen=tuple(self._taken),
        )

    def take(self) -> list[ArrivedEpisode]:
        """Return the episodes that are whole by now."""
        if self._come.empty():
            return []  # asked a hundred times a second; what is open has no end without new rows
        while not self._come.empty():
            store, rows = self._come.get()
            self._open[store] += rows.items()
            if store == PEOPLE:
                self._driven_at = time.monotonic()
        found = [episode for store in self._open for episode in self._whole(store)]
        let_go = time.monotonic() - self._driven_at > _LET_GO_S
        return found + self._taken_out(PEOPLE, len(self._open[PEOPLE])) if let_go else found

    def seen(self, without: Iterable[bytes] = ()) -> list[str]:
        """Keys of the newest rows that were taken, for a checkpoint that holds all but some.

        Those of an episode that has not ended are not among them, and are asked for again.
        """
        missing = frozenset(without)
        return [key.hex() for key in self._taken if key not in missing]

    def publish(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Broadcast parameters, nested by the parts of their names."""
        self._server.publish(unflatten_dict(arrays, sep="/"))

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _whole(self, store: str) -> list[ArrivedEpisode]:
        found: list[ArrivedEpisode] = []
        while (length := _length([row for _, row in self._open[store]])) is not None:
            found += self._taken_out(store, length)
        return found

    def _taken_out(self, store: str, length: int) -> list[ArrivedEpisode]:
        """The first open rows of a store, so many, as what has come."""
        rows, self._open[store] = self._open[store][:length], self._open[store][length:]
        self._taken += (key for key, _ in rows)
        return self._converted(store, rows) if rows else []

    def _converted(self, store: str, rows: list[tuple[bytes, Row]]) -> list[ArrivedEpisode]:
        """The episode that they are, or its pieces; none where they are refused."""
        try:
            read = transitions(Path(store), [row for _, row in rows])
            made = convert(read, self._contract, self._options)
        except InputError as error:
            if not self.refused:
                warn_line(f"rows of an agentlace actor are not taken: {error}")
            self.refused += len(rows)
            return []
        keys = iter([key for key, _ in rows])
        return [
            ArrivedEpisode(
                RUN,
                -1,
                {**arrays, "expert": np.full(length, store == PEOPLE)},
                keys=tuple(itertools.islice(keys, length)),
            )
            for arrays in made.episodes
            for length in [len(arrays["reward"])]
        ]


def _length(rows: list[Any]) -> int | None:
    """Rows up to the first end; None where there is none yet.

    What a person did ends where the next rows do not follow, as they let go before the episode's
    end.
    """
    for at, row in enumerate(rows):
        if np.any(row.get("dones")) or (at + 1 < len(rows) and not _follow(row, rows[at + 1])):
            return at + 1
    return len(rows) if len(rows) >= _LONGEST else None


def _follow(row: Any, after: Any) -> bool:
    try:
        return follows(Path(ENV), row, after)
    except (InputError, KeyError):
        return True  # refused where they are converted
