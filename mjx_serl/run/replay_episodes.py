"""The newest whole episodes of a run's replay, with what its critics think of them, as a file.

Few rows are fetched from the device, by programs of their own: training does not know of it.
"""

from functools import partial
from math import ceil, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mjx_serl.data.replay import ReplayState
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.loop import Output, Run
from mjx_serl.run.replay_file import FILE, OWN, Q, Replay, Shown, write_replay
from mjx_serl.training.state import TrainState
from mjx_serl.training.trainer import Ring
from scenes.contract.demonstrations import OBS, STEP_ARRAYS, Arrays

EPISODES = 4  # of each ring, at most
PICTURES = 24 << 20  # of all rings together, about [bytes]
_BLOCK = 128  # rows that are fetched, and judged, at once: the programs are of so many

Rows = Int[np.ndarray, " T"]  # of an episode, as row * N + world


class RunEpisodes(Output):
    """Writes episodes.npz into the run's folder after each save."""

    def after_save(self, run: Run, state: TrainState) -> None:
        """Write what the rings hold now; a failure is one line."""
        # Everything is caught: nothing to be looked at is worth the run.
        try:
            replay = newest_episodes(run, state)
            if replay is not None:
                write_replay(run.folder.path / FILE, replay)
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warn_line(f"{FILE} was not written ({reason})")


def newest_episodes(run: Run, state: TrainState) -> Replay | None:
    """Return the newest whole episodes of all rings; None where there are none yet."""
    rings: list[Ring] = getattr(run.trainer, "rings", lambda state: [])(state)
    share = PICTURES // max(len(rings), 1)
    found = {ring.name: _few(find_episodes(ring.rows), ring.rows, share) for ring in rings}
    # All are thinned alike, for their rows lie in the same arrays.
    thin = max((thin for _, thin in found.values()), default=1)
    parts, shown, begin = [], [], 0
    for ring in rings:
        for rows in found[ring.name][0]:
            parts.append(_thinned(_fetched(ring, rows, run), thin))
            shown.append(Shown(ring.name, begin, len(rows)))
            begin += len(rows)
    if not parts:
        return None
    return Replay(
        action_names=run.env.action_spec.names,
        rate=run.env.action_spec.rate,
        episodes=tuple(shown),
        arrays=_joined(parts),
        env_steps=run.progress.epoch * run.trainer.env_steps_per_epoch,
    )


def find_episodes(ring: ReplayState, most: int = EPISODES) -> list[Rows]:
    """Return where the newest episodes lie of which the ring holds all steps, newest first.

    Rows before an episode that are not to be learned from belong to nobody: they are padding, or a
    world that waits for others. An episode of nothing else was taken back.
    """
    told = (ring.data.valid, ring.data.terminated | ring.data.truncated, ring.head, ring.filled)
    valid, over, head, filled = map(np.asarray, jax.device_get(told))
    capacity, worlds = valid.shape
    order = (head - filled + np.arange(int(filled))) % capacity  # oldest first
    valid, over = valid[order], over[order]
    # What is before the oldest row has been overwritten, unless the ring has just been filled.
    whole = filled < capacity or head == 0
    found: list[Rows] = []
    for end, world in np.argwhere(over)[::-1]:
        before = np.flatnonzero(over[:end, world])
        if not len(before) and not whole:
            continue
        begin = before[-1] + 1 if len(before) else 0
        good = np.flatnonzero(valid[begin : end + 1, world])
        if len(good):
            found.append(order[begin + good[0] : end + 1] * worlds + world)
        if len(found) == most:
            break
    return found


def _few(found: list[Rows], ring: ReplayState, share: int) -> tuple[list[Rows], int]:
    """As many of the episodes as have room for their pictures, and by how much these are thinned.

    At least one is kept, in smaller pictures if it must be: of each line and row every so many.
    """
    images = (x for x in ring.data.obs.values() if x.dtype == jnp.uint8)
    each = sum(int(np.prod(x.shape[2:])) for x in images)
    sizes = np.cumsum([len(rows) * each for rows in found])
    if not len(sizes):
        return [], 1
    thin = max(1, ceil(sqrt(sizes[0] / share)))
    return found[: max(1, int(np.sum(sizes <= share)))], thin


def _thinned(arrays: Arrays, thin: int) -> Arrays:
    return {n: x[:, ::thin, ::thin] if x.ndim == 4 else x for n, x in arrays.items()}


def _joined(parts: list[Arrays]) -> Arrays:
    """Rows of all episodes; what not every ring has is not a number where it is missing."""
    names = {name: x for part in parts for name, x in part.items()}

    def rows(part: Arrays, name: str, like: np.ndarray) -> np.ndarray:
        missing = (len(part["reward"]), *like.shape[1:])
        return part[name] if name in part else np.full(missing, np.nan, like.dtype)

    return {name: np.concatenate([rows(p, name, x) for p in parts]) for name, x in names.items()}


def _fetched(ring: Ring, rows: Rows, run: Run) -> Arrays:
    """The rows of an episode [T, ...] by the file's names."""
    steps, last = np.arange(len(rows)), len(rows) - 1
    observer, horizon = run.observer, run.trainer.horizon
    earlier = [rows[np.maximum(steps - k, 0)] for k in reversed(range(observer.stack))]
    later = [rows[np.minimum(steps + k, last)] for k in range(horizon)]
    blocks = []
    for begin in range(0, len(rows), _BLOCK):
        some = [_padded(np.stack(x)[:, begin : begin + _BLOCK]) for x in (earlier, later)]
        obs, action, told = _take(ring.rows.data, *some, observer.stacked)
        blocks.append(told | {Q: q} if (q := ring.q(obs, action)) is not None else told)
    blocks = jax.device_get(blocks)
    return {name: np.concatenate([b[name] for b in blocks])[: len(rows)] for name in blocks[0]}


def _padded(index: Int[np.ndarray, "K T"]) -> Int[np.ndarray, "K block"]:
    return np.pad(index, ((0, 0), (0, _BLOCK - index.shape[1])), mode="edge")


@partial(jax.jit, static_argnames="stacked")
def _take(
    data: Any, earlier: Int[Array, "S B"], later: Int[Array, "H B"], stacked: tuple[str, ...]
) -> tuple[dict[str, Array], Array, dict[str, Array]]:
    """Observations as they were acted on, choices [B, H * A], and what is told of the rows.

    Args:
        data: of a ring, a Transition [R, N, ...].
        earlier: rows that show each step, oldest first.
        later: rows whose actions were chosen, or would be, with each step's.
        stacked: names of the observations that show more than their own row.
    """

    def at(x: Array, index: Array) -> Array:
        return x.reshape(-1, *x.shape[2:])[index]

    own = {name: at(x, earlier[-1]) for name, x in data.obs.items()}
    seen = {n: jnp.concatenate([at(data.obs[n], i) for i in earlier], axis=-1) for n in stacked}
    told = {name: at(getattr(data, name), later[0]) for name in STEP_ARRAYS}
    told |= {f"{OBS}{name}": x for name, x in own.items() if x.dtype == jnp.uint8}
    if OWN in data.extras:
        told[OWN] = at(data.extras[OWN], later[0])
    choice = jnp.concatenate([at(data.action, i) for i in later], axis=-1)
    return own | seen, choice, told
