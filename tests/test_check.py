"""tools/check.py: what runs beside what, and in which order it is shown."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The tool with one static check that waits for the suite, and a suite of one line."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    module = importlib.import_module("check")
    started = tmp_path / "started"
    wait = (
        "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(.01)"
    )
    suite = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); print('1 passed')"
    python = [sys.executable, "-c"]
    monkeypatch.setattr(module, "STATIC", {"types": [*python, wait, str(started)]})
    monkeypatch.setattr(module, "PYTEST", [*python, suite, str(started)])
    return module


def call(check: ModuleType, monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["check.py", *argv])
    return check.main()


def test_the_suite_runs_beside_the_static_checks_and_is_shown_after_them(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    assert call(check, monkeypatch, "all") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "--- types" and lines[1].startswith("--- types passed in ")
    assert lines[2].startswith("--- tests (pytest -m")
    assert lines[3:] == ["1 passed"], "its summary closes the output"


def test_every_failure_is_named_and_stops_nothing(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    broken = [sys.executable, "-c", "print('E501'); raise SystemExit(1)"]
    monkeypatch.setattr(check, "STATIC", {"lint": broken, **check.STATIC})
    python, option, code, *rest = check.PYTEST
    monkeypatch.setattr(check, "PYTEST", [python, option, f"{code}; sys.exit(1)", *rest])
    assert call(check, monkeypatch, "all") == 1
    out = capfd.readouterr().out
    assert "E501\n--- lint FAILED in " in out and "--- types passed in " in out
    assert out.endswith("1 passed\ncheck: failed: lint, tests\n")


def test_static_checks_run_alone(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(check, "STATIC", {"lint": [sys.executable, "-c", "pass"]})
    assert call(check, monkeypatch, "lint") == 0
    assert "tests" not in capfd.readouterr().out
