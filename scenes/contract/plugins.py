"""A user's own packages: what they register is there once they have been imported."""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

GROUP = "mjx_serl.plugins"


def load_plugins(names: Sequence[str] = ()) -> None:
    """Import what is installed under the entry-point group, then the modules of these names.

    An installed one that cannot be imported here is skipped with a line on stderr: a robot's
    computer has no JAX, which a package that also brings tasks may need. ImportError for a module
    that was named.
    """
    for entry in sorted(importlib.metadata.entry_points(group=GROUP)):
        try:
            entry.load()
        except ImportError as error:
            sys.stderr.write(f"plugin '{entry.name}' ({entry.value}) is left out: {error}\n")
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"--plugin {name} cannot be imported: {error}") from error
