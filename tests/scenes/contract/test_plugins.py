"""A user's packages, by name or installed."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from scenes.contract.plugins import GROUP, load_plugins


def test_what_is_named_or_installed_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("plugin_by_name", "plugin_installed"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "plugin_broken.py").write_text("import no_such_package\n")
    made = [
        importlib.metadata.EntryPoint(name=name, value=name, group=GROUP)
        for name in ("plugin_broken", "plugin_installed")
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: made)
    load_plugins(["plugin_by_name"])
    assert {"plugin_by_name", "plugin_installed"} <= sys.modules.keys()
    assert "'plugin_broken' (plugin_broken) is left out: No module" in capsys.readouterr().err
    with pytest.raises(ImportError, match="--plugin plugin_broken cannot be imported: No module"):
        load_plugins(["plugin_broken"])
