"""What advances the training states of several seeds that have their functions in common.

On a CPU each seed's epoch is a call of one compiled program, as many at once as there are cores: a
run of its own leaves cores idle between the products that it shares out to them, two runs do not.
The program is that of a single run, and so are its numbers. On an accelerator, which one seed does
not fill, one program has a first axis for the seeds (`jax.vmap`, as PureJaxRL does), with products
that round otherwise.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mjx_serl.run.programs import EvalFn, Programs
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.state import TrainState
from mjx_serl.training.trainer import Trainer
from mjx_serl.types import PRNGKey


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be done for a seed.

    Attributes:
        seed: its place among the seeds.
        epoch: whether it is trained for an epoch.
        episodes: key of the evaluation that follows, None for none.
        final: whether that is the one of the summary.
    """

    seed: int
    epoch: bool = False
    episodes: PRNGKey | None = None
    final: bool = False


@dataclass(frozen=True)
class Done:
    """What came of it.

    Attributes:
        order: it.
        metrics: of the epoch.
        result: of the evaluation.
        halted: nothing came of it: all was halted before it was begun.
    """

    order: Order
    metrics: dict[str, float] | None = None
    result: EpisodeResult | None = None
    halted: bool = False


class Crew(Protocol):
    """Holds the states of several seeds."""

    def order(self, order: Order) -> None:
        """Ask for something; a seed has one order at a time."""
        ...

    def done(self) -> Done:
        """Wait for what is ready next."""
        ...

    def state(self, seed: int) -> TrainState:
        """Return the state of a seed that has no order.

        It is as its last order left it until another one of any seed is waited for.
        """
        ...

    def halt(self) -> None:
        """Begin nothing any more: what was ordered comes back `halted`. From any thread."""
        ...

    def close(self) -> None:
        """Wait for what still runs."""
        ...


class OnCores:
    """A thread for each of some CPU cores, which calls the programs of a single run.

    Args:
        trainer: of all seeds.
        programs: of one state.
        states: of the seeds; they are used up.
        workers: calls at once.
    """

    def __init__(
        self, trainer: Trainer, programs: Programs, states: Sequence[TrainState], *, workers: int
    ) -> None:
        self._trainer, self._programs = trainer, programs
        self._states = dict(enumerate(states))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="seed")
        self._halted = threading.Event()
        self._ready: queue.SimpleQueue[Future[Done]] = queue.SimpleQueue()

    def order(self, order: Order) -> None:
        """Put it behind those that wait for a core."""
        self._pool.submit(self._work, order).add_done_callback(self._ready.put)

    def done(self) -> Done:
        """Wait for what is ready next; raises what failed."""
        return self._ready.get().result()

    def state(self, seed: int) -> TrainState:
        """Return the state of a seed."""
        return self._states[seed]

    def halt(self) -> None:
        """Let those that wait for a core come back."""
        self._halted.set()

    def close(self) -> None:
        """Wait for what still runs; what waits for a core is forgotten."""
        self._pool.shutdown(cancel_futures=True)

    def _work(self, order: Order) -> Done:
        if self._halted.is_set():
            return Done(order, halted=True)
        state, metrics, result = self._states[order.seed], None, None
        if order.epoch:
            state, told = self._programs.epoch(state)
            self._states[order.seed] = state
            metrics = {name: float(x) for name, x in jax.device_get(told).items()}
        if order.episodes is not None:
            play = self._programs.final if order.final else self._programs.check
            params = self._trainer.policy_params(state)
            result = jax.device_get(play(params, order.episodes))
        return Done(order, metrics, result)


class InOneCall:
    """One program that advances all seeds at once.

    Seeds that have come to their end keep their place, and what becomes of them is not looked at:
    another number of places would be another program, which rounds otherwise.

    Args:
        trainer: of all seeds.
        programs: of so many states as there are places, by a first axis.
        states: of the seeds; they are used up.
        places: at least as many as seeds.
    """

    def __init__(
        self, trainer: Trainer, programs: Programs, states: Sequence[TrainState], *, places: int
    ) -> None:
        self._trainer, self._programs, self._places = trainer, programs, places
        filled = [*states, *[states[0]] * (places - len(states))]
        self._state: TrainState = jax.tree.map(lambda *x: jnp.stack(x), *filled)
        self._pick = jax.jit(lambda state, seed: jax.tree.map(lambda x: x[seed], state))
        self._orders: list[Order] = []
        self._halted = threading.Event()
        self._ready: deque[Done] = deque()

    def order(self, order: Order) -> None:
        """Note it."""
        self._orders.append(order)

    def done(self) -> Done:
        """Return what is ready, else do what was ordered.

        What leaves the states alone is done before any of them is trained.
        """
        if not self._ready:
            first = [order for order in self._orders if not order.epoch]
            rest = [order for order in self._orders if order.epoch]
            now, self._orders = (first, rest) if first else (rest, [])
            self._ready.extend(self._work(now))
        return self._ready.popleft()

    def state(self, seed: int) -> TrainState:
        """Return the state of a seed."""
        return self._pick(self._state, seed)

    def halt(self) -> None:
        """Let what would be in the next call come back."""
        self._halted.set()

    def close(self) -> None:
        """Nothing runs between two calls."""

    def _work(self, orders: Sequence[Order]) -> list[Done]:
        if self._halted.is_set():
            return [Done(order, halted=True) for order in orders]
        told = {}
        if orders[0].epoch:
            self._state, told = self._programs.epoch(self._state)
        told = jax.device_get(told)
        final = [order for order in orders if order.final]
        check = [order for order in orders if order.episodes is not None and not order.final]
        results = self._play(self._programs.final, final) | self._play(self._programs.check, check)
        return [
            Done(
                order,
                {name: float(x[order.seed]) for name, x in told.items()} if order.epoch else None,
                results.get(order.seed),
            )
            for order in orders
        ]

    def _play(self, program: EvalFn, orders: Sequence[Order]) -> dict[int, EpisodeResult]:
        if not orders:
            return {}
        keys: dict[int, Any] = {order.seed: order.episodes for order in orders}
        some = next(iter(keys.values()))
        every = jnp.stack([keys.get(seed, some) for seed in range(self._places)])
        played = jax.device_get(program(jax.vmap(self._trainer.policy_params)(self._state), every))
        return {seed: jax.tree.map(lambda x, seed=seed: x[seed], played) for seed in keys}


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
