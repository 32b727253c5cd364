"""The processes that train one run together: what they agree on, and who writes.

Every process runs the same loop. The first one has the console and the run's folder; what it, or
any other, is told is known to all before the next epoch, so that all take the same turns. Arrays of
the state may lie on devices of all processes.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mjx_serl.ranks import COORDINATOR, Ranks, read_ranks
from mjx_serl.types import PyTree
from scenes.contract.command_line import FAILED
from scenes.contract.errors import InputError
from scenes.contract.serialize import flattened

_HEARTBEAT_S = 20  # without a sign of life all others end [s]
_LATER_S = 60  # than us JAX gives up [s]
_DIFFERENCES = 8  # that are named


@dataclass(frozen=True)
class Peers:
    """This process among those of a run.

    Attributes:
        rank: of this one, from 0.
        count: of them; one has nobody to ask.
    """

    rank: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether the run's folder and console are this one's."""
        return self.rank == 0

    def most(self, *values: int) -> tuple[int, ...]:
        """Return the largest of every value over all processes; all must ask."""
        if self.count == 1:
            return values
        told = multihost_utils.process_allgather(np.array(values, np.int32))
        return tuple(int(value) for value in np.asarray(told).max(axis=0))

    def texts(self, text: str) -> list[str]:
        """Return what every process has to say, by rank; all must ask."""
        if self.count == 1:
            return [text]
        raw = text.encode()
        size = self.most(len(raw))[0]
        padded = np.frombuffer(raw.ljust(size, b"\0"), np.uint8)
        told = np.asarray(multihost_utils.process_allgather(padded))
        return [row.tobytes().rstrip(b"\0").decode() for row in told]

    def require_same(self, config: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """Raise InputError, the same in all processes, where one has another config or version."""
        own = {f"version.{name}": version for name, version in versions.items()}
        own |= {name: json.dumps(value) for name, value in flattened(config).items()}
        every = [json.loads(text) for text in self.texts(json.dumps(own))]
        lines = [
            f"{name}: {first.get(name)} on rank 0, {other.get(name)} on rank {rank}"
            for first in every[:1]
            for rank, other in enumerate(every)
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if lines:
            more = [f"... {len(lines) - _DIFFERENCES} more"] if len(lines) > _DIFFERENCES else []
            head = f"{self.count} processes that do not train the same run:"
            raise InputError("\n  ".join([head, *lines[:_DIFFERENCES], *more]))

    def require_equal(self, parameters: PyTree) -> None:
        """Raise RuntimeError where processes do not hold the same parameters, bit for bit."""
        if self.count == 1:
            return
        sums = hashlib.sha256()
        for leaf in jax.tree.leaves(parameters):
            sums.update(np.asarray(leaf).tobytes())
        every = self.texts(sums.hexdigest())
        if len(set(every)) > 1:
            raise RuntimeError(f"Processes hold other parameters than each other: {every}")

    def gathered(self, state: PyTree) -> PyTree:
        """Return a state whose arrays are all here, which it may be already; all must ask.

        Arrays are gathered one after another: beside the state no more than the largest is held
        twice on a device, and all of it where it is gathered.
        """
        return state if self.count == 1 else jax.tree.map(_gathered, state)


def join_peers() -> Peers:
    """Meet the other processes of the run, if the environment says that there are any.

    Called before JAX does anything else. The process ends, with a line, where they do not all come
    in time.
    """
    ranks = read_ranks()
    if ranks is None:
        return Peers()
    # JAX ends a process that waits in vain too, with pages that name no address.
    timer = threading.Timer(ranks.join_s, _give_up, [ranks])
    timer.daemon = True
    timer.start()
    _initialize(ranks)
    timer.cancel()
    if jax.process_count() != ranks.count:
        raise InputError(f"JAX knows {jax.process_count()} processes, {ranks.count} were started")
    return Peers(ranks.rank, ranks.count)


def this_process() -> Peers:
    """Return what `join_peers` found."""
    return Peers(jax.process_index(), jax.process_count())


def _give_up(ranks: Ranks) -> None:
    sys.stderr.write(
        f"error: rank {ranks.rank} of {ranks.count} did not meet all others at "
        f"{ranks.coordinator} within {ranks.join_s} s. Hint: are all of them started, does rank 0 "
        f"run there, and is that address ({COORDINATOR}) reached from every machine?\n"
    )
    sys.stderr.flush()
    os._exit(FAILED)


def _initialize(ranks: Ranks) -> None:
    if ranks.rank == 0:
        sys.stdout.write(f"waiting for {ranks.count - 1} other processes at {ranks.coordinator}\n")
        sys.stdout.flush()
    jax.distributed.initialize(
        ranks.coordinator,
        ranks.count,
        ranks.rank,
        coordinator_bind_address=ranks.bind or None,
        initialization_timeout=ranks.join_s + _LATER_S,
        heartbeat_timeout_seconds=_HEARTBEAT_S,
    )


def _gathered(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return x
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _gathered(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    sharding = x.sharding
    if not x.is_fully_replicated and isinstance(sharding, NamedSharding):
        x = jax.jit(lambda x: x, out_shardings=NamedSharding(sharding.mesh, P()))(x)
    return jnp.array(x.addressable_data(0), copy=True)
