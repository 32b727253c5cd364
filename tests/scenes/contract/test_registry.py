"""Names to entries, found by themselves."""

import sys
from pathlib import Path

import pytest

from scenes.contract.registry import Registry


def test_what_is_not_there_is_named_with_what_is() -> None:
    tools: Registry[int] = Registry("tool")
    tools.register("saw")(1)
    tools.register("hammer")(2)
    assert (list(tools), len(tools), tools["saw"], "drill" in tools) == (
        ["hammer", "saw"],
        2,
        1,
        False,
    )
    with pytest.raises(KeyError, match=r"Unknown tool 'hamer'. Did you mean 'hammer'\?"):
        tools["hamer"]
    with pytest.raises(ValueError, match="tool 'saw' is registered twice"):
        tools.register("saw")(3)


def test_a_package_is_read_at_the_first_look_up_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "toolbox_found"
    (package / "box").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text(
        "from scenes.contract.registry import Registry\n"
        "TOOLS = Registry('tool', found_in='toolbox_found')\n"
    )
    line = "from toolbox_found.registry import TOOLS\nTOOLS.register('{}')({})\n"
    (package / "saw.py").write_text(line.format("saw", 1))
    (package / "box" / "__init__.py").write_text(line.format("hammer", 2))
    (package / "box" / "inside.py").write_text("raise RuntimeError('is not imported')\n")
    from toolbox_found.registry import TOOLS  # pyright: ignore[reportMissingImports]

    assert "toolbox_found.saw" not in sys.modules
    assert dict(TOOLS) == {"hammer": 2, "saw": 1}
