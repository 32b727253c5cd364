"""A sweep whose runs are those of a small program that trains nothing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mjx_serl.sweep import __main__ as command
from mjx_serl.sweep import jobs

FAKE = Path(__file__).with_name("fake_train.py")
SPEC = """
seeds = "0..3"
[variants.plain]
[variants.wide]
agent.hidden = [512, 512]
"""

Sweep = Callable[..., int]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Run the command on `sweep.toml` of an empty folder, with what the fake is to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "TRAIN", (sys.executable, "-S", str(FAKE)))
    configs = {"plain": {}, "wide": {}}
    monkeypatch.setattr(command, "planned_apart", lambda spec, folder: configs)
    Path("sweep.toml").write_text(SPEC)

    def run(*words: str, **fake: list[int]) -> int:
        monkeypatch.setenv("FAKE_TRAIN", json.dumps(fake))
        monkeypatch.setattr(sys, "argv", ["sweep", *words])
        return command.run("sweep")

    return run
