"""What a person asked for and cannot have: errors that a command line says in one line.

Each is also the built-in error of its kind, so that callers may catch that. Anything else that goes
up to a command line is a bug, and keeps its traceback.
"""


class UserError(Exception):
    """Somebody can mend it; the message says what, what was got, what is allowed, and a hint."""


class InputError(UserError, ValueError):
    """A value, a file or a combination of options that cannot be."""


class UnknownNameError(UserError, KeyError):
    """A name that stands for nothing; the message names what is allowed."""

    def __str__(self) -> str:
        # KeyError shows its message quoted.
        return str(self.args[0]) if self.args else ""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package that is not installed."""


class BrokenPackageError(UserError, ImportError):
    """A package that is installed and cannot be imported."""


class NotEnoughMemoryError(UserError, MemoryError):
    """What was asked for does not fit into memory."""
