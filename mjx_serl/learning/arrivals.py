"""Batches of actors put together to whole episodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mjx_serl.run.checkpoint import warn_line
from robot_bridge.learning.experience import STEP
from robot_bridge.network.transitions import Arrived
from scenes.contract.demonstrations import OBS, Arrays
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract

LONGEST = 50_000  # rows after which an episode is cut; an hour at 14 Hz
_SCALARS = {"reward": "float32", "terminated": "bool", "truncated": "bool", "expert": "bool"}
_COUNTERS = {STEP: "int32"}


@dataclass(frozen=True)
class ArrivedEpisode:
    """An episode of an actor.

    Attributes:
        run: nonce of the actor's numbering.
        id: of its last batch.
        arrays: [T, ...] by the names of a file of demonstrations.
        cut: its end never came; its last row is marked as truncated.
        keys: of its rows, where they are not numbered.
    """

    run: bytes
    id: int
    arrays: Arrays
    cut: bool = False
    keys: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.arrays["reward"])


@dataclass
class _Begun:
    batches: list[Arrays] = field(default_factory=list)
    last: int = -1
    rows: int = 0


class Arrivals:
    """Takes batches, gives episodes, each actor's in their order.

    Attributes:
        refused: batches that are not what the contract says; they are dropped.

    Args:
        contract: what is observed and commanded.
    """

    def __init__(self, contract: Contract) -> None:
        self.refused = 0
        self._fields = {f.name: (f.dtype, f.shape) for f in contract.obs.fields}
        self._dim = contract.action.dim
        self._begun: dict[bytes, _Begun] = {}

    def take(self, batches: Iterable[Arrived]) -> list[ArrivedEpisode]:
        """Return the episodes that are whole with these batches."""
        return [episode for batch in batches for episode in self._take(batch)]

    def _take(self, batch: Arrived) -> list[ArrivedEpisode]:
        try:
            arrays = self._checked(batch.arrays)
        except InputError as error:
            self.refused += 1
            warn_line(f"a batch of an actor is not taken: {error}")
            return []
        begun, found = self._begun.setdefault(batch.run, _Begun()), []
        if int(arrays[STEP][0]) != begun.rows:
            # The actor was started anew in the middle of an episode, or had no room for a batch.
            found = self._cut(batch.run)
            begun = self._begun[batch.run] = _Begun()
            if int(arrays[STEP][0]) != 0:
                self.refused += 1
                return found
        begun.batches.append(arrays)
        begun.last, begun.rows = batch.id, begun.rows + len(arrays["reward"])
        if arrays["terminated"][-1] or arrays["truncated"][-1] or begun.rows >= LONGEST:
            arrays["truncated"][-1] |= not arrays["terminated"][-1]
            found.append(ArrivedEpisode(batch.run, batch.id, self._joined(batch.run)))
        return found

    def _cut(self, run: bytes) -> list[ArrivedEpisode]:
        begun = self._begun[run]
        if not begun.batches:
            return []
        begun.batches[-1]["truncated"][-1] = True
        return [ArrivedEpisode(run, begun.last, self._joined(run), cut=True)]

    def _joined(self, run: bytes) -> Arrays:
        begun = self._begun.pop(run)
        names = begun.batches[0]
        return {name: np.concatenate([b[name] for b in begun.batches]) for name in names}

    def _checked(self, arrays: Mapping[str, Any]) -> Arrays:
        """The arrays of a batch; InputError where they are not what the contract says."""
        rows = len(arrays["reward"]) if "reward" in arrays and arrays["reward"].ndim else 0
        wanted = {f"{OBS}{name}": entry for name, entry in self._fields.items()}
        wanted |= {name: (dtype, ()) for name, dtype in (_SCALARS | _COUNTERS).items()}
        wanted["action"] = ("float32", (self._dim,))
        for name in sorted(wanted.keys() | arrays.keys()):
            dtype, shape = wanted.get(name, ("none such", ()))
            x = arrays.get(name)
            if x is None or x.dtype.name != dtype or x.shape != (rows, *shape) or not rows:
                got = "missing" if x is None else f"{x.dtype}{[*x.shape]}"
                raise InputError(f"'{name[:80]}' is {got}, allowed: {dtype}{[rows, *shape]}")
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise InputError(f"'{name}' is not finite")
        if np.any(np.abs(arrays["action"]) > 1.0):
            raise InputError("'action' leaves [-1, 1]")
        return dict(arrays)
