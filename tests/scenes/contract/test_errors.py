"""What a person can mend is a typed error; whatever else goes up is a bug."""

import ast
from pathlib import Path

import pytest

from scenes.contract.command_line import BAD_INPUT, guarded
from scenes.contract.errors import (
    BrokenPackageError,
    InputError,
    MissingPackageError,
    NotEnoughMemoryError,
    UnknownNameError,
    UserError,
)

ROOT = Path(__file__).parents[3]
PACKAGES = ("mjx_serl", "scenes", "splat_render", "robot_bridge")
# The built-in kinds that say nothing of whose mistake it was.
BARE = {"ValueError", "KeyError", "MemoryError", "ImportError", "ModuleNotFoundError"}
TYPED = {
    InputError: ValueError,
    UnknownNameError: KeyError,
    MissingPackageError: ModuleNotFoundError,
    BrokenPackageError: ImportError,
    NotEnoughMemoryError: MemoryError,
}


def raising(error: Exception):
    raise error


@pytest.mark.parametrize(("typed", "kind"), TYPED.items())
def test_a_users_mistake_is_one_line_and_its_kinds_bug_is_not(
    typed: type[UserError], kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    assert issubclass(typed, kind)
    assert guarded(lambda: raising(typed("got 1, allowed: 2"))) == BAD_INPUT
    assert capsys.readouterr().err == "error: got 1, allowed: 2\n"
    with pytest.raises(kind, match="got 1"):
        guarded(lambda: raising(kind("got 1")))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_raise_typed_errors(package: str) -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in BARE
    ]
    assert not bare, f"raise one of scenes.contract.errors instead at {', '.join(bare)}"
