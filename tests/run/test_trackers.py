"""What trackers of others are told, by stand-ins with their interfaces."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord
from mjx_serl.run.trackers import TrackerHook

CONFIG = {"task": "t", "method": {"agent": {"lr": 1e-3, "hidden": "x" * 900}}}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple, dict]]:
    """All calls of whatever tracker."""
    calls: list[tuple[str, tuple, dict]] = []

    def says(name: str) -> Callable:
        return lambda *args, **options: calls.append((name, args, options))

    for module, names in (
        ("wandb", ("init", "log", "finish")),
        ("trackio", ("init", "log", "finish")),
        (
            "mlflow",
            ("set_experiment", "start_run", "log_params", "log_metrics", "end_run"),
        ),
    ):
        fake = SimpleNamespace(**{name: says(name) for name in names})
        monkeypatch.setitem(sys.modules, module, fake)
    return calls


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_is_told_what_the_metrics_file_is(
    name: str, told: list, tmp_path: Path, make_info: Callable, make_eval: Callable
) -> None:
    folder = RunFolder(tmp_path / "run-1")
    hook = TrackerHook(name, folder)
    hook.on_start(make_info(folder.path, config=CONFIG))
    more: dict[str, Any] = {"learner/q": 0.5}
    hook.on_epoch(EpochRecord(epoch=1, env_steps=400, grad_steps=7, elapsed_s=1, metrics=more))
    hook.on_eval(make_eval(2, final=True))
    hook.on_end(None)
    logged = [call for call in told if call[0].startswith("log") and call[0] != "log_params"]
    assert logged[0][1:] == (({"learner/q": 0.5},), {"step": 400})
    (figures,), at = logged[1][1:]
    assert at == {"step": 200} and figures["final/success_rate"] == 0.9
    assert figures["final/success_low"] < 0.9 < figures["final/success_high"]
    assert told[-1][0] in ("finish", "end_run")
    if name == "mlflow":
        (params,) = next(call[1] for call in told if call[0] == "log_params")
        assert params["method.agent.lr"] == "0.001" and len(params["method.agent.hidden"]) == 500
    else:
        begun = told[0][2]
        assert (begun["name"], begun["config"], begun["resume"]) == ("run-1", CONFIG, "allow")


def test_an_absent_or_unknown_tracker_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="--run.tracker wandb needs wandb .*pip install wandb"):
        TrackerHook("wandb", RunFolder(tmp_path))
    with pytest.raises(LookupError, match="Unknown tracker 'wandbb'. Did you mean 'wandb'"):
        TrackerHook("wandbb", RunFolder(tmp_path))
