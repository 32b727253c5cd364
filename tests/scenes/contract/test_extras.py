"""Optional packages: what needs them, and what brings them, in one line."""

import pytest

from scenes.contract.extras import is_installed, not_installed, require


def test_what_is_missing_is_said_with_what_brings_it() -> None:
    with pytest.raises(
        ModuleNotFoundError, match=r"no_such is needed here .*: pip install 'mjx-se"
    ):
        require("no_such", "viz")
    with pytest.raises(ModuleNotFoundError, match="Seeing needs no_such .*: pip install no-such$"):
        require("no_such", package="no-such", purpose="Seeing")
    assert (
        not_installed("no_such", "viz") == "no_such is not installed: pip install 'mjx-serl[viz]'"
    )


def test_what_is_there_is_imported() -> None:
    assert require("math").pi > 3
    assert is_installed("math") and not is_installed("no_such") and not is_installed("no_such.part")
