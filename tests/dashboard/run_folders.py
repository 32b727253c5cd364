"""Run folders as the dashboard finds them, without the runs."""

import json
from pathlib import Path
from typing import Any


def write_run(root: Path, name: str, *, epochs: int = 20, **changes: Any) -> Path:
    """A run of so many epochs with an evaluation every fifth; `final=True` ends it."""
    final = changes.pop("final", False)
    path = root / name
    path.mkdir(parents=True)
    agent = {"type": "sac", "lr": changes.pop("lr", 3e-4), "hidden": [256, 256]}
    config = {"task": "franka/pick_cube", "seed": 0, "preset": "laptop", "total_env_steps": 20_000}
    config |= {"method": {"type": "off_policy", "agent": agent}} | changes
    (path / "config.json").write_text(json.dumps(config))
    with (path / "metrics.jsonl").open("w") as file:
        for row in rows(epochs, final=final):
            file.write(json.dumps(row) + "\n")
    return path


def rows(epochs: int, *, first: int = 1, final: bool = False) -> list[dict[str, Any]]:
    """Rows of metrics: 400 env steps and 2 s an epoch."""
    made = []
    for epoch in range(first, first + epochs):
        at = {"epoch": epoch, "env_steps": 400 * epoch, "grad_steps": 400 * epoch}
        at["elapsed_s"] = 2.0 * epoch
        more = {f"learner/metric_{i}": epoch + i / 7 for i in range(20)}
        good = min(1.0, epoch / epochs)
        made.append({"kind": "epoch", **at, "train/success_rate": good, "learner/q": good, **more})
        if epoch % 5 == 0:
            share = {"success_rate": good, "success_ci95": [good / 2, min(1.0, good + 0.1)]}
            made.append({"kind": "eval", **at, "episodes": 100, **share})
    if final:
        made.append({**made[-1], "kind": "final", "success_rate": 0.97, "success_ci95": [0.9, 1.0]})
    return made
