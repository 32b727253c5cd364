"""Optional packages: imported where they are needed, with one line that says how to get them."""

import importlib
import importlib.util
from typing import Any


def require(
    module: str, extra: str | None = None, *, package: str | None = None, purpose: str = ""
) -> Any:
    """Import an optional module, or say in one line what needs it and what brings it.

    Args:
        module: to import.
        extra: of this distribution that it is in; None where it is in none.
        package: what pip calls it, where that is not the module's name and there is no extra.
        purpose: what needs it, at the beginning of a sentence.

    Raises:
        ModuleNotFoundError: it is not installed.
        ImportError: it is, and cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        who = f"{purpose} needs {module}" if purpose else f"{module} is needed here"
        line = f"{who} ({error}): {install(module, extra, package=package)}"
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ImportError
        raise kind(line, name=error.name) from error


def install(module: str, extra: str | None = None, *, package: str | None = None) -> str:
    """The command that brings a module."""
    wanted = f"'mjx-serl[{extra}]'" if extra else package or module
    return f"pip install {wanted}"


def not_installed(module: str, extra: str | None = None, *, package: str | None = None) -> str:
    """One line that says that a module is not there and what brings it."""
    return f"{module} is not installed: {install(module, extra, package=package)}"


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported, but a package that it is in is."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
