"""Replay on the device: a time-major ring with one column per world.

The next observation of row t is row t + 1 of the same world, so nothing is stored twice. Leaves
keep their dtype (images stay uint8). A row can be sampled unless it is marked invalid, was
truncated (the next row is another episode's first), or is the newest one (the next row is not
written yet); a terminated row needs no successor, so it can always be sampled.

Of stacked pictures a row holds its own: a sample puts those of the rows before it in front, back to
the episode's start. A row whose earlier ones have been overwritten cannot be sampled any more.

The same steps serve learners of single actions, of n-step returns and of action chunks: what a
sample spans is decided when it is drawn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from mjx_serl.types import Batch, PRNGKey, PyTree, Transition
from scenes.contract.errors import InputError

# Rewards of a batch of single steps; where one is terminated its next_obs is meaningless.
RewardModel: TypeAlias = Callable[[Batch], Float[Array, " B"]]

# Rounds, before what can be sampled is counted: with 10 % of the rows usable, 0.1 % of the slots
# outlast them.
MAX_DRAWS = 64


@struct.dataclass
class ReplayState:
    """The ring: `data` leaves are [capacity_rows, N, ...]."""

    data: Transition
    head: Int[Array, ""]  # row written next
    filled: Int[Array, ""]  # rows written so far, at most capacity_rows
    usable: Int[Array, ""]  # stored transitions that are valid and not truncated
    # Rows before each that show the same episode, at most stack - 1; () where nothing is stacked.
    before: PyTree = ()

    def recounted(self) -> "ReplayState":
        """The ring whose `usable` is of the worlds that are in it."""
        return self.replace(usable=_count(self.data.valid, self.data.truncated))


@dataclass(frozen=True)
class ReplayBuffer:
    """The static part: `capacity_rows` time steps of `num_envs` worlds.

    Raises ValueError where the capacity is not positive or overflows 32-bit indices.

    Attributes:
        capacity_rows: time steps.
        num_envs: worlds, which begin an episode with the first row that is added, and with each
            that follows a termination or truncation.
        stack: rows that a sample's observation shows of the `stacked` fields, oldest first on the
            last axis; an episode's first row is repeated.
        stacked: names of observations.
    """

    capacity_rows: int
    num_envs: int
    stack: int = 1
    stacked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.capacity_rows < 2 or self.num_envs < 1:
            raise InputError(
                f"ReplayBuffer: capacity_rows {self.capacity_rows}, num_envs {self.num_envs}; "
                "allowed: capacity_rows >= 2, num_envs >= 1"
            )
        if self.capacity_rows * self.num_envs >= 2**31:
            raise InputError(
                f"ReplayBuffer: {self.capacity_rows} rows x {self.num_envs} worlds, allowed: "
                f"< 2^31 transitions, so at most {(2**31 - 1) // self.num_envs} rows"
            )

    def init(self, example: Transition) -> ReplayState:
        """Allocate zeros for transitions shaped like `example` (one world, one step)."""
        lead = (self.capacity_rows, self.num_envs)
        data = jax.tree.map(lambda x: jnp.zeros(lead + jnp.shape(x), x.dtype), example)
        before = jnp.zeros(lead, jnp.uint8) if self.stack > 1 else ()
        return ReplayState(data, jnp.int32(0), jnp.int32(0), jnp.int32(0), before)

    def nbytes(self, example: Transition) -> int:
        """Return the bytes `init(example)` will allocate, without allocating them."""
        leaves = jax.tree.leaves(jax.eval_shape(self.init, example))
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)

    def add(self, state: ReplayState, steps: Transition) -> ReplayState:
        """Write T consecutive steps of every world, leaves [T, N, ...], over the oldest rows.

        Raises ValueError at trace time if T exceeds the capacity or a leaf has another shape or
        dtype.
        """
        self._check(state.data, steps)
        count = steps.reward.shape[0]
        rows = (state.head + jnp.arange(count)) % self.capacity_rows
        lost = jax.tree.map(lambda ring: ring[rows], (state.data.valid, state.data.truncated))
        return ReplayState(
            data=jax.tree.map(lambda ring, new: _write(ring, new, rows), state.data, steps),
            head=(state.head + count) % self.capacity_rows,
            filled=jnp.minimum(state.filled + count, self.capacity_rows),
            usable=state.usable + _count(steps.valid, steps.truncated) - _count(*lost),
            before=_write(state.before, self._ages(state, steps), rows) if self.stack > 1 else (),
        )

    def forget(self, state: ReplayState, count: Int[Array, ""] | int) -> ReplayState:
        """Learn from the newest `count` rows no more; they stay where they are."""
        newest = (state.head - 1) % self.capacity_rows
        newer = (newest - jnp.arange(self.capacity_rows)[:, None]) % self.capacity_rows
        valid = state.data.valid & (newer >= count)
        data = state.data.replace(valid=valid)
        return state.replace(data=data, usable=_count(valid, data.truncated))

    def _ages(self, state: ReplayState, steps: Transition) -> UInt8[Array, "T N"]:
        """How many rows before each show its episode, at most stack - 1."""
        newest = (state.head - 1) % self.capacity_rows
        last = jax.tree.map(lambda ring: ring[newest], state.data)

        def one(carry: tuple[Array, Array], over: Array) -> tuple[tuple[Array, Array], Array]:
            fresh, age = carry
            age = jnp.where(fresh, 0, jnp.minimum(age + 1, self.stack - 1)).astype(jnp.uint8)
            return (over, age), age

        fresh = last.terminated | last.truncated | (state.filled == 0)
        over = steps.terminated | steps.truncated
        return jax.lax.scan(one, (fresh, state.before[newest]), over)[1]

    def size(self, state: ReplayState) -> Int[Array, ""]:
        """Return how many transitions can be sampled now; `sample` needs at least one."""
        newest = (state.head - 1) % self.capacity_rows
        last = jax.tree.map(lambda ring: ring[newest], state.data)
        waiting = last.valid & ~last.truncated & ~last.terminated
        return state.usable - jnp.sum(waiting, dtype=jnp.int32) - self._cut(state)

    def _cut(self, state: ReplayState) -> Int[Array, ""]:
        """Stored transitions whose earlier pictures have been overwritten."""
        first = state.head - state.filled
        count = jnp.int32(0)
        for older in range(self.stack - 1):
            row = (first + older) % self.capacity_rows
            kept = (older < state.filled) & state.data.valid[row] & ~state.data.truncated[row]
            count += jnp.sum(kept & (state.before[row] > older), dtype=jnp.int32)
        return count

    def sample(
        self,
        state: ReplayState,
        key: PRNGKey,
        batch_shape: int | tuple[int, ...],
        *,
        n_step: int = 1,
        gamma: float = 1.0,
        horizon: int = 1,
        reward_of: RewardModel | None = None,
        among: Int[Array, " rows_N"] | None = None,
    ) -> Batch:
        """Draw transitions uniformly with replacement; leaves are [*batch_shape, ...].

        With `n_step` > 1 a sample spans that many rows: its reward is their sum discounted by
        `gamma` up to a termination, `terminated` whether one came, `next_obs` what followed the
        last row. A span is never cut by a time-out or the write head. `reward_of` replaces the
        stored rewards; it is asked for every row, before they are summed.

        With `horizon` > 1, at most `n_step`, a sample's action is the chunk of the first `horizon`
        rows' actions, one after the other (Q-chunking, arXiv 2507.07969, eq. 6). A chunk in which
        the episode terminates is kept and filled up with whatever actions the ring has next:
        nothing follows them, so its return is exact; `Batch.running` is false for them. (The
        paper's code learns from chunks that end with the episode, and from no other that meets
        its end: reference next_capabilities.md A.2.)

        All of `batch_shape` is one gather per leaf and row of the span: ask for every batch of an
        iteration at once. Where the buffer holds nothing to sample, the rows returned are
        meaningless: gate on `size`. With `among`, which is `experts`, what an expert did alone is
        drawn: gate on its last.
        """
        if not 1 <= horizon <= n_step:
            raise InputError(f"sample: horizon {horizon}, allowed: 1 to n_step {n_step}")
        shape = (batch_shape,) if isinstance(batch_shape, int) else batch_shape
        count = math.prod(shape)
        flat = self._draw(state, key, count, n_step) if among is None else _pick(among, key, count)
        data = state.data
        reward, running = jnp.zeros(flat.shape), jnp.ones(flat.shape, bool)
        for k in range(n_step):
            row = self._later(flat, k)
            paid = _take(data.reward, row)
            if reward_of is not None:
                paid = reward_of(self._rows(state, row, 1, paid, _take(data.terminated, row)))
            reward += jnp.where(running, gamma**k * paid, 0.0)
            running &= ~_take(data.terminated, row)
        batch = self._rows(state, flat, n_step, reward, ~running)
        if horizon > 1:
            action, running = self._chunk(data, flat, horizon)
            batch = batch.replace(action=action, running=running)
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), batch)

    def experts(self, state: ReplayState, *, n_step: int = 1) -> Int[Array, " rows_N"]:
        """How many transitions that an expert or a person began lie in each slot and before it.

        They are few, so that drawing by trial, as `sample` does, would take many rounds.
        """
        data = state.data
        newest = (state.head - 1) % self.capacity_rows
        newer = (newest - jnp.arange(self.capacity_rows)[:, None]) % self.capacity_rows
        whole = self._whole(state, newer, n_step, lambda ring, k: jnp.roll(ring, -k, axis=0))
        fine = whole & data.expert & (newer < state.filled)
        return jnp.cumsum(fine.reshape(-1), dtype=jnp.int32)

    def _rows(
        self, state: ReplayState, index: Int[Array, " count"], span: int, reward: Array, over: Array
    ) -> Batch:
        """Gather rows and what followed `span` rows later."""
        data, successor = state.data, self._later(index, span)
        return Batch(
            obs={name: self._seen(state, name, index) for name in data.obs},
            action=_take(data.action, index),
            reward=reward,
            terminated=over,
            expert=_take(data.expert, index),
            next_obs={name: self._seen(state, name, successor) for name in data.obs},
            extras={name: _take(ring, index) for name, ring in data.extras.items()},
        )

    def _seen(self, state: ReplayState, name: str, index: Int[Array, " count"]) -> Array:
        """An observation as it was acted on."""
        ring = state.data.obs[name]
        if name not in self.stacked:
            return _take(ring, index)
        age = _take(state.before, index).astype(jnp.int32)
        rows = [jnp.minimum(age, back) for back in reversed(range(self.stack))]
        frames = [_take(ring, self._earlier(index, row)) for row in rows]
        return jnp.concatenate(frames, axis=-1)

    def _earlier(
        self, index: Int[Array, " count"], rows: Int[Array, " count"]
    ) -> Int[Array, " count"]:
        """The same worlds, `rows` rows earlier."""
        found = index - rows * self.num_envs
        return jnp.where(found < 0, found + self.capacity_rows * self.num_envs, found)

    def _chunk(
        self, data: Transition, index: Int[Array, " count"], horizon: int
    ) -> tuple[Float[Array, "count HA"], Bool[Array, "count H"]]:
        """The actions of `horizon` rows, and which of them were taken before the end."""
        rows = [self._later(index, k) for k in range(horizon)]
        actions = [_take(data.action, row) for row in rows]
        ended = jnp.stack([_take(data.terminated, row) for row in rows[:-1]], axis=-1)
        before = jnp.pad(jnp.cumsum(ended, axis=-1), ((0, 0), (1, 0))) == 0
        return jnp.concatenate(actions, axis=-1), before

    def _draw(
        self, state: ReplayState, key: PRNGKey, count: int, n_step: int
    ) -> Int[Array, " count"]:
        """Draw flat indices row * N + world, redrawing the unusable ones until none is left.

        Rejection keeps it uniform at the price of a few rounds of integers, where counting costs a
        pass over the buffer. Only slots that are still empty after `MAX_DRAWS` rounds pay for that:
        demonstrations of 20 steps under a time limit of 1000 fill 2 % of their ring.
        """

        def redraw(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            index, good, key, draws = carry
            key, now = jax.random.split(key)
            fresh = jax.random.randint(now, (count,), 0, state.filled * self.num_envs)
            index = jnp.where(good, index, fresh)
            return index, good | self._usable(state, index, n_step), key, draws + 1

        start = (jnp.zeros(count, jnp.int32), jnp.zeros(count, bool), key, jnp.int32(0))
        index, good, key, _ = jax.lax.while_loop(
            lambda carry: ~jnp.all(carry[1]) & (carry[3] < MAX_DRAWS), redraw, start
        )

        def count_out() -> Int[Array, " count"]:
            every = jnp.arange(self.capacity_rows * self.num_envs, dtype=jnp.int32)
            so_far = jnp.cumsum(self._usable(state, every, n_step), dtype=jnp.int32)
            return _pick(so_far, key, count)

        found: Array = jax.lax.cond(jnp.all(good), lambda: index, count_out)
        return jnp.where(good, index, found)

    def _usable(
        self, state: ReplayState, index: Int[Array, " count"], n_step: int
    ) -> Bool[Array, " count"]:
        """Whether spans of rows can be learned from."""
        newest = (state.head - 1) % self.capacity_rows
        newer = (newest - index // self.num_envs) % self.capacity_rows
        return self._whole(state, newer, n_step, lambda ring, k: _take(ring, self._later(index, k)))

    def _whole(
        self,
        state: ReplayState,
        newer: Int[Array, "*rows"],
        n_step: int,
        later: Callable[[Array, int], Array],
    ) -> Bool[Array, "*rows"]:
        """Whether spans of rows are whole, or ended by a termination.

        Args:
            state: the ring.
            newer: how many rows are newer than the first of each span.
            n_step: rows of a span.
            later: reads of an array of the ring what is so many rows after the first of each.
        """
        data = state.data
        fine = running = jnp.ones((), bool)
        if self.stack > 1:
            fine = state.filled - 1 - newer >= later(state.before, 0)
        for k in range(n_step):
            good = later(data.valid, k) & ~later(data.truncated, k) & (newer >= k)
            fine &= good | ~running
            running &= ~later(data.terminated, k)
        return fine & (~running | (newer >= n_step))

    def _later(self, index: Int[Array, " count"], rows: int) -> Int[Array, " count"]:
        """The same worlds, `rows` rows later."""
        size = self.capacity_rows * self.num_envs
        ahead = rows * self.num_envs % size
        # Their sum may be above 2^31 where the buffer is just below it.
        return jnp.where(index < size - ahead, index + ahead, index - (size - ahead))

    def _check(self, ring: Transition, steps: Transition) -> None:
        count = steps.reward.shape[0]
        if count > self.capacity_rows:
            raise InputError(f"add: {count} rows, allowed: <= capacity_rows {self.capacity_rows}")
        for (path, old), (_, new) in zip(
            jax.tree_util.tree_leaves_with_path(ring),
            jax.tree_util.tree_leaves_with_path(steps),
            strict=True,
        ):
            if (old.shape[1:], old.dtype) != (new.shape[1:], new.dtype):
                raise InputError(
                    f"add: {jax.tree_util.keystr(path)} is {new.dtype}{list(new.shape[1:])} per "
                    f"row, allowed: {old.dtype}{list(old.shape[1:])} as given to init"
                )


@dataclass(frozen=True)
class Mixture:
    """Several buffers sampled side by side in fixed proportions (RLPD, arXiv 2302.02948).

    Extras that not every part has are left out of the batch.
    """

    buffers: tuple[ReplayBuffer, ...]
    fractions: tuple[float, ...]

    def sample(
        self,
        states: Sequence[ReplayState],
        key: PRNGKey,
        batch_shape: int | tuple[int, ...],
        *,
        n_step: int = 1,
        gamma: float = 1.0,
        horizon: int = 1,
        reward_of: RewardModel | None = None,
    ) -> Batch:
        """Sample each buffer's share of the last batch axis; the parts lie one after the other."""
        shape = (batch_shape,) if isinstance(batch_shape, int) else batch_shape
        keys = jax.random.split(key, len(self.buffers)) if len(self.buffers) > 1 else [key]
        span = {"n_step": n_step, "gamma": gamma, "horizon": horizon}
        draw = partial(ReplayBuffer.sample, **span, reward_of=reward_of)
        parts = [
            draw(buffer, state, k, (*shape[:-1], share))
            for buffer, state, k, share in zip(
                self.buffers, states, keys, self.shares(shape[-1]), strict=True
            )
            if share > 0
        ]
        common = set.intersection(*(set(part.extras) for part in parts))
        parts = [p.replace(extras={name: p.extras[name] for name in common}) for p in parts]
        join = partial(jnp.concatenate, axis=len(shape) - 1)
        return jax.tree.map(lambda *leaves: join(leaves), *parts)

    def shares(self, batch_size: int) -> list[int]:
        """Split a batch size by the fractions; the parts add up to it exactly."""
        edges = [round(batch_size * sum(self.fractions[:i])) for i in range(len(self.fractions))]
        return [b - a for a, b in zip(edges, [*edges[1:], batch_size], strict=True)]


def mix(fractions: Sequence[float], buffers: Sequence[ReplayBuffer]) -> Mixture:
    """Return a sampler of several buffers; raises ValueError unless the fractions sum to 1."""
    if len(fractions) != len(buffers) or min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-6:
        raise InputError(
            f"mix: fractions {list(fractions)} for {len(buffers)} buffers, allowed: one "
            "non-negative fraction per buffer, summing to 1"
        )
    return Mixture(tuple(buffers), tuple(fractions))


def _pick(so_far: Int[Array, " rows_N"], key: PRNGKey, count: int) -> Int[Array, " count"]:
    """Draw slots of what a running count has counted."""
    rank = jax.random.randint(key, (count,), 0, jnp.maximum(so_far[-1], 1))
    return jnp.searchsorted(so_far, rank, side="right").astype(jnp.int32)


def _take(ring: Array, index: Int[Array, " count"]) -> Array:
    rows = ring.reshape(-1, *ring.shape[2:])
    return rows.at[index].get(mode="promise_in_bounds")


def _write(ring: Array, new: Array, rows: Int[Array, " T"]) -> Array:
    if new.shape[0] == 1:  # one row never wraps, and a slice update is done in place
        return jax.lax.dynamic_update_slice_in_dim(ring, new, rows[0], axis=0)
    return ring.at[rows].set(new, mode="promise_in_bounds", unique_indices=True)


def _count(valid: Bool[Array, "*lead"], truncated: Bool[Array, "*lead"]) -> Int[Array, ""]:
    return jnp.sum(valid & ~truncated, dtype=jnp.int32)
