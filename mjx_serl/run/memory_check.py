"""Whether a training state fits into memory, and which options would make it fit."""

from typing import Any

import jax

from mjx_serl import tasks as tasks  # files the tasks in the registry
from mjx_serl.config import TrainConfig
from mjx_serl.run.host_memory import host_bytes
from mjx_serl.training.state import tree_bytes
from scenes.contract.errors import NotEnoughMemoryError


def check_memory(state: Any, cfg: TrainConfig, *, available: int) -> int:
    """Bytes of a training state (arrays or shapes); refuses what does not fit.

    The state is held twice while an epoch runs (its input and its output, where donation does
    not apply) and is copied once to be saved.

    Raises:
        MemoryError: with the bytes and a buffer size and num_envs that would fit.
    """
    total = tree_bytes(state)
    buffer = tree_bytes(state.buffer)
    if 2 * total > available:
        raise NotEnoughMemoryError(
            f"This run needs 2 x {total / 1e9:.2f} GB (replay buffer {buffer / 1e9:.2f} GB), "
            f"{available / 1e9:.2f} GB are free. {_what_fits(state, cfg, available // 2)}"
        )
    return total


def _what_fits(state: Any, cfg: TrainConfig, room: int) -> str:
    """Options that bring the state down to `room` bytes: one alone or, where need be, both."""
    # The pool of resets hardly shrinks with num_envs, so it counts as fixed.
    pool = tree_bytes(state.worlds.pool)
    worlds = tree_bytes(state.worlds) - pool
    stored = tree_bytes(state.buffer)
    free = room - (tree_bytes(state) - worlds - stored)
    # Whole rows are stored, up to one fewer than buffer_size asks for.
    buffer = stored * cfg.loop.buffer_size / state.buffer.data.reward.size
    size = int(cfg.loop.buffer_size * (free - worlds) / buffer)
    envs = int(cfg.num_envs * (free - buffer) / worlds)
    options = []
    if size >= max(cfg.loop.warmup_steps, 2 * cfg.num_envs):
        options.append(f"--loop.buffer-size {size}")
    if envs >= 1:
        options.append(f"--num-envs {envs}")
    share = free / (buffer + worlds)
    if not options and cfg.num_envs * share >= 1:
        both = int(cfg.loop.buffer_size * share), int(cfg.num_envs * share)
        options.append(f"--loop.buffer-size {both[0]} with --num-envs {both[1]}")
    return f"Try {' or '.join(options)}." if options else "No size of buffer and worlds fits."


def available_bytes() -> int:
    """Free memory of the device that trains, within what a container is given [bytes]."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return host_bytes()
