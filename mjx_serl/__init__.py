"""A JAX-native trainer for robot-manipulation RL; docs/api.md shows it as a library.

The names below are imported when they are first used: `import mjx_serl` loads nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mjx_serl.api import (
        Loaded,
        Result,
        TrainConfig,
        load,
        load_plugins,
        make,
        preset,
        train,
    )
    from mjx_serl.platform import prepare_platform

__all__ = [
    "Loaded",
    "Result",
    "TrainConfig",
    "load",
    "load_plugins",
    "make",
    "prepare_platform",
    "preset",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "prepare_platform":
        # Before the rest, which imports jax.
        from mjx_serl.platform import prepare_platform

        return prepare_platform
    if name in __all__:
        from mjx_serl import api

        return getattr(api, name)
    raise AttributeError(f"module 'mjx_serl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
