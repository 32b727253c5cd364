"""Optional packages: imported where they are needed, with one line that says how to get them."""

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import an optional module, or ImportError in one line with the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = f"pip install 'mjx-serl[{extra}]'"
        raise ImportError(f"{module} is needed here ({error}): {hint}") from error
