"""Which of several processes that train one run together this one is.

Stdlib only: it is read before JAX starts.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from scenes.contract.errors import InputError

COORDINATOR = "MJX_SERL_COORDINATOR"
BIND = "MJX_SERL_COORDINATOR_BIND"
COUNT = "MJX_SERL_RANKS"
RANK = "MJX_SERL_RANK"
JOIN_SECONDS = "MJX_SERL_JOIN_SECONDS"
_JOIN_S = 300  # as JAX


@dataclass(frozen=True)
class Ranks:
    """A process among those of a run.

    Attributes:
        rank: of this one, from 0.
        count: of them.
        coordinator: HOST:PORT at which rank 0 is asked who is there.
        bind: ADDRESS:PORT that rank 0 listens at; "" is all interfaces at the coordinator's port.
        join_s: that all of them have to arrive [s].
    """

    rank: int
    count: int
    coordinator: str
    bind: str = ""
    join_s: int = _JOIN_S

    def environ(self) -> dict[str, str]:
        """Return what the environment says to the process."""
        own = {BIND: self.bind} if self.bind else {}
        return own | {
            COORDINATOR: self.coordinator,
            COUNT: str(self.count),
            RANK: str(self.rank),
            JOIN_SECONDS: str(self.join_s),
        }


def read_ranks(environ: Mapping[str, str] = os.environ) -> Ranks | None:
    """Return what the environment says, None where the run has one process.

    Raises InputError where it says half of it or no numbers.
    """
    said = [name for name in (COORDINATOR, COUNT, RANK) if environ.get(name)]
    if not said:
        return None
    if len(said) < 3:
        raise InputError(
            f"{', '.join(said)} without the rest of {COORDINATOR}, {COUNT}, {RANK}; allowed: all "
            "of them or none. Hint: `python -m mjx_serl.launch` sets them"
        )
    try:
        count, rank = int(environ[COUNT]), int(environ[RANK])
        join_s = int(environ.get(JOIN_SECONDS, _JOIN_S))
    except ValueError as error:
        raise InputError(f"{COUNT}, {RANK} or {JOIN_SECONDS} is no number: {error}") from error
    if not 0 <= rank < count:
        raise InputError(f"{RANK} {rank}, allowed: 0 to {count - 1}, for {COUNT} is {count}")
    require_address(COORDINATOR, environ[COORDINATOR])
    return Ranks(rank, count, environ[COORDINATOR], environ.get(BIND, ""), join_s)


def require_address(name: str, text: str) -> None:
    """Raise InputError for what is not HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{name} '{text}', allowed: HOST:PORT, e.g. 127.0.0.1:8476")
