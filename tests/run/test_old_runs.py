"""A run folder of the version before there were training methods: config, checkpoint, bundle."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from mjx_serl.config import TrainConfig
from mjx_serl.run.evaluation import evaluate_grid, evaluate_run, load_policy
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.robustness import describe_grid
from mjx_serl.training.policies import trained_policy

OLD = Path(__file__).resolve().parents[1] / "data" / "run_before_methods"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_its_config_is_read_as_of_today():
    cfg = RunFolder.open(OLD).read_config(TrainConfig)
    written = json.loads((OLD / "config.json").read_text())
    assert "method" not in written
    assert cfg.method.agent.hidden == tuple(written["agent"]["hidden"]) == (8, 8)
    assert cfg.method.loop.buffer_size == written["loop"]["buffer_size"] == 24
    assert cfg.method.demos.count == written["demos"]["count"] == 1
    assert cfg.agent_name == "rlpd"


def test_its_policy_acts_as_it_did(old: Path):
    """The golden actions of its bundle are those that the version before computed."""
    run, params = load_policy(old)
    with np.load(old / "bundle" / "golden.npz", allow_pickle=False) as golden:
        obs = {n.removeprefix("obs/"): golden[n] for n in golden.files if n.startswith("obs/")}
        actions = golden["actions"][:, 0]
    assert np.abs(actions).max() > 0.01
    found = jax.jit(trained_policy(run.trainer.exact(), params))(obs, jax.random.key(0))
    np.testing.assert_allclose(found, actions, atol=1e-5)


@pytest.mark.slow
def test_it_is_evaluated_again(old: Path):
    _, result = evaluate_run(old, episodes=4, seed=0)
    assert result.steps.tolist() == [100] * 4  # what evaluate.py of that version printed


@pytest.mark.slow
def test_its_grid_of_extremes_goes_into_its_summary(old: Path):
    folder, cells = RunFolder.open(old), evaluate_grid(old, episodes=2, seed=0)
    assert len(cells) == 8 and {cell.episodes for cell in cells} == {2}
    assert len(describe_grid(cells).splitlines()) == 8
    summary = folder.read_summary()
    assert summary is not None and summary.grid == cells
