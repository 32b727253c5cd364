"""What a policy of some size needs, before anything of it is made."""

from dataclasses import dataclass

import jax.numpy as jnp

from mjx_serl.nets.vla.config import VLAConfig
from mjx_serl.nets.vla.parameters import count

_FLOAT32 = 4  # bytes
_MOMENTS = 2  # that Adam keeps of a parameter, float32


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes by what they are for.

    Attributes:
        parameters: all of them.
        gradients: of what is learned.
        optimizer: Adam's moments of what is learned.
        cache: keys and values of one batch of prefixes.
    """

    parameters: int
    gradients: int
    optimizer: int
    cache: int

    @property
    def total(self) -> int:
        """All of it; what a forward or backward pass makes besides is not in it."""
        return self.parameters + self.gradients + self.optimizer + self.cache

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "optimizer", "cache")
        told = ", ".join(f"{part} {_told(getattr(self, part))}" for part in parts)
        return f"{_told(self.total)} ({told})"


def _told(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def memory_use(config: VLAConfig, *, batch: int, learned_only: bool = True) -> MemoryUse:
    """Return what learning with a batch of so many prefixes at once needs at least.

    Args:
        config: sizes.
        batch: prefixes whose keys and values are held together.
        learned_only: only what `parameters.is_learned` names is learned, else everything.
    """
    learned = _FLOAT32 * count(config, learned_only=learned_only)
    per_token = 2 * config.depth * config.kv_heads * config.head_dim
    return MemoryUse(
        parameters=_FLOAT32 * count(config),
        gradients=learned,
        optimizer=_MOMENTS * learned,
        cache=batch * config.prefix * per_token * jnp.dtype(config.compute_dtype).itemsize,
    )
