"""Records of a run, for the tests of what listens to one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mjx_serl.run.hooks import EvalRecord, RunInfo
from mjx_serl.run.summary import Summary, wilson_interval


def build_info(folder: str | Path, **changes: Any) -> RunInfo:
    """What is known before the first epoch, with `changes`."""
    fields = {
        "task": "franka/pick_cube",
        "agent": "rlpd",
        "seed": 0,
        "folder": Path(folder),
        "config": {},
        "device": "cpu",
        "state_bytes": 2,
        "buffer_bytes": 1,
        "total_env_steps": 1000,
    }
    return RunInfo(**(fields | changes))


def build_eval(epoch: int, *, successes: int = 9, final: bool = False) -> EvalRecord:
    """An evaluation over ten episodes."""
    return EvalRecord(
        epoch=epoch,
        env_steps=epoch * 100,
        elapsed_s=1.0,
        successes=successes,
        episodes=10,
        final=final,
    )


def build_summary() -> Summary:
    """The end of a run that succeeded in nine of ten episodes."""
    return Summary(
        task="t",
        agent="a",
        seed=0,
        success_rate=0.9,
        success_ci95=wilson_interval(9, 10),
        episodes=10,
        wall_seconds=1.0,
        compile_seconds=0.1,
        env_steps=1,
        updates=1,
        device="cpu",
    )


@pytest.fixture
def make_info() -> Callable[..., RunInfo]:
    """Return the maker of run infos."""
    return build_info


@pytest.fixture
def make_eval() -> Callable[..., EvalRecord]:
    """Return the maker of evaluations."""
    return build_eval


@pytest.fixture
def make_summary() -> Callable[[], Summary]:
    """Return the maker of summaries."""
    return build_summary
