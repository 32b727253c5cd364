"""Whether a training state fits into memory, and which options would make it fit."""

from collections.abc import Sequence

import jax

from mjx_serl.run.host_memory import host_bytes
from mjx_serl.training.state import TrainState, device_bytes
from mjx_serl.training.trainer import Share
from scenes.contract.errors import NotEnoughMemoryError


def check_memory(
    state: TrainState, shares: Sequence[Share], *, available: int, runs: int = 1
) -> int:
    """Bytes of a training state (arrays or shapes) on each device; refuses what does not fit.

    The state is held twice while an epoch runs (its input and its output, where donation does
    not apply) and is copied once to be saved; what an epoch makes besides, such as a rollout, is
    held as it was made and as it is learned from. Of several runs at the same time each holds as
    much.

    Raises:
        MemoryError: with the bytes and values of options that would fit.
    """
    total = device_bytes(state) + sum(share.nbytes for share in shares if not share.stored)
    if 2 * total * runs > available:
        parts = ", ".join(f"{share.name} {share.nbytes / 1e9:.2f} GB" for share in shares)
        who = "This run needs" if runs == 1 else f"Each of {runs} runs together needs"
        fits = _what_fits(total, shares, available // (2 * runs))
        raise NotEnoughMemoryError(
            f"{who} 2 x {total / 1e9:.2f} GB ({parts}), {available / 1e9:.2f} GB are free. {fits}"
        )
    return total


def _what_fits(total: int, shares: Sequence[Share], room: int) -> str:
    """Options that bring the state down to `room` bytes: one alone or, where need be, all."""
    flexible = sum(share.nbytes for share in shares)
    free = room - (total - flexible)
    options = []
    for share in shares:
        value = int(share.value * (free - flexible + share.nbytes) / max(share.nbytes, 1))
        if value >= share.least:
            options.append(f"{share.option} {value}")
    factor = free / max(flexible, 1)
    if not options and all(share.value * factor >= 1 for share in shares):
        options = [" with ".join(f"{s.option} {int(s.value * factor)}" for s in shares)]
    return f"Try {' or '.join(options)}." if options else "No size of buffer and worlds fits."


def available_bytes(among: int = 1) -> int:
    """Free memory of each device that trains, within what a container is given [bytes].

    `among` CPUs share that of the machine.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return host_bytes() // among
