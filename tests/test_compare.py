"""Runs side by side: a table of what they printed, and a picture."""

import json
from pathlib import Path

import matplotlib.image
import pytest

from mjx_serl.compare import main
from mjx_serl.config import TrainConfig
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.summary import Summary
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import OffPolicyConfig

PLAIN = OffPolicyConfig(demos=DemoConfig(count=0))
HEAD = "run    task  agent  seed  success     95% interval  env steps  time  to 95%"


def a_run(
    root: Path, name: str, rates: list[float], *, seed: int = 0, method: OffPolicyConfig = PLAIN
) -> Path:
    """A run folder with evaluations every 1000 steps and 30 s; the last is the final one."""
    folder = root / name
    folder.mkdir()
    config = TrainConfig(task="toy", seed=seed, method=method)
    RunFolder(folder).write_config(config)
    rows = [
        {
            "kind": "final" if k == len(rates) else "eval",
            "env_steps": 1000 * k,
            "elapsed_s": 30.0 * k,
            "success_rate": rate,
            "success_ci95": [max(rate - 0.1, 0), min(rate + 0.1, 1)],
            "episodes": 100,
        }
        for k, rate in enumerate(rates, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = (
        a_run(tmp_path, "good", [0.2, 0.96, 0.99]),
        a_run(tmp_path, "begun", [], seed=1),
        a_run(tmp_path, "bad", [0.1, 0.3]),
    )
    (tmp_path / "no run").mkdir()
    out = tmp_path / "compare.png"
    assert main((*runs, tmp_path / "no run"), out=out) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head == HEAD
    assert [" ".join(line.split()) for line in lines] == [
        "good toy sac 0 99% of 100 89% to 100% 3,000 1:30 1:00",
        "begun toy sac 1 - - - - -",
        "bad toy sac 0 30% of 100 20% to 40% 2,000 1:00 -",
    ]
    assert last == str(out)
    assert matplotlib.image.imread(out).std() > 0.05


def test_the_agent_is_called_as_the_run_calls_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_demos = a_run(tmp_path, "with_demos", [], method=OffPolicyConfig())
    ended, unknown = (a_run(tmp_path, name, []) for name in ("ended", "unknown"))
    reached = {"success_rate": None, "success_ci95": None, "episodes": 0}
    spent = {"wall_seconds": 1.0, "compile_seconds": 1.0, "env_steps": 1, "updates": 1}
    RunFolder(ended).write_summary(
        Summary(task="toy", agent="mine", seed=0, device="cpu", **reached, **spent)
    )
    (unknown / "config.json").write_text('{"task": "toy", "plugins": ["not_there"], "method": {}}')
    main((with_demos, ended, unknown), out=tmp_path / "compare.png")
    lines = [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert lines == [
        ["with_demos", "toy", "rlpd", "0"],
        ["ended", "toy", "mine", "0"],
        ["unknown", "toy", "?", "?"],
    ]


def test_without_a_run_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No run folder among what was named"):
        main((tmp_path,), out=tmp_path / "a.png")
