"""Run folders as the dashboard finds them, without the runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mjx_serl.run.replay_file import FILE, Replay, Shown, write_replay


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


def write_episodes(path: Path) -> None:
    """A replay file of two rings: an episode solved in 12 steps, and one driven by a person."""
    draw = np.random.default_rng(0)
    ended = np.arange(20) == 11
    arrays = {
        "action": draw.uniform(-1, 1, (20, 2)).astype(np.float32),
        "reward": ended.astype(np.float32),
        "terminated": ended,
        "truncated": np.arange(20) == 19,
        "valid": np.ones(20, bool),
        "expert": np.arange(20) > 11,
        "q": np.linspace(0, 1, 20, dtype=np.float32),
        "policy_action": np.full((20, 2), np.nan, np.float32),
        "obs/front": np.broadcast_to(np.uint8(np.arange(20))[:, None, None, None], (20, 8, 8, 3)),
    }
    arrays["policy_action"][12:] = 0.5
    episodes = (Shown("online", 0, 12), Shown("people", 12, 8))
    write_replay(path / FILE, Replay(("x", "gripper"), 10.0, episodes, arrays, 400))
