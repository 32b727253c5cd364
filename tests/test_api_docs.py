"""The library as docs/api.md shows it: every block of it is run."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_arms import mjcf
from tiny_bundle import tiny_config, with_changes

import mjx_serl
from mjx_serl.agents.agent import AGENTS
from mjx_serl.commands import parse_train
from mjx_serl.envs.env import make_env
from mjx_serl.envs.task import TASKS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
TASK_PAGE = ROOT / "docs" / "add_a_task.md"


def blocks(page: Path = PAGE) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.slow
def test_every_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The suite has prepared the platform already; jax is there.
    monkeypatch.setattr("mjx_serl.platform.prepare_platform", lambda: None)
    (tmp_path / "my_arm.xml").write_text(mjcf())
    names: dict = {"config": with_changes(tiny_config(tmp_path), bundle=True)}
    assert len(blocks()) >= 6
    try:
        for block in blocks():
            exec(compile(block, str(PAGE), "exec"), names)
        obs = names["env"].observe(names["reset"](names["jax"].random.key(3)))
        bundled = mjx_serl.load(names["result"].folder / "bundle")
        actions = [policy.act(obs) for policy in (bundled, names["policy"])]
        assert actions[0].shape == (4, 4)
        assert abs(actions[0] - actions[1]).max() < 1e-5
    finally:
        TASKS._table.pop("mine/pick_cube", None)
        AGENTS._table.pop("still", None)
    said = capsys.readouterr().out
    assert "(4,) (4,) (4,)" in said and "('x', 'y', 'z', 'gripper')" in said
    assert names["still"].summary.agent == "still"
    assert names["rows"].action.shape[1:] == (4, 4)
    assert any("option timestep" in note for note in names["mine"].env.scene.notes)


def test_the_template_of_a_task_can_be_played_and_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (template,) = blocks(TASK_PAGE)
    (tmp_path / "push_cube.py").write_text(template)
    monkeypatch.chdir(tmp_path)
    try:
        cfg, _ = parse_train(["--plugin", "push_cube", "--task", "mine/push_cube"])
        env = make_env(cfg.task, max_worlds=2)
        state = env.reset(jax.random.key(0))
        state = env.step(state, jnp.zeros(env.action_dim))
        assert 0 < float(state.reward) < 0.1 and not bool(state.success)
        mark = env.scene.marker("goal").body_id
        np.testing.assert_allclose(state.sim.xpos[mark], (0.55, 0.0, 0.01), atol=1e-6)
        body = env.scene.objects["cube"].body_id
        there = state.sim.replace(xpos=state.sim.xpos.at[body, :2].set(jnp.array([0.55, 0.03])))
        reward, terms = env.task.reward(there, state.command, state.task_state)
        assert float(terms["at_goal"]) == 1 and float(reward) > 1
        assert bool(env.task.terminated(there, state.task_state))
    finally:
        TASKS._table.pop("mine/push_cube", None)
        sys.modules.pop("push_cube", None)


def test_importing_the_library_loads_nothing() -> None:
    code = (
        "import sys, mjx_serl; print(sorted(set(mjx_serl.__all__) - set(dir(mjx_serl))), "
        "[m for m in ('jax', 'mujoco', 'flax', 'tyro') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[] []", done.stderr


def test_an_unknown_name_of_the_library_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'mjx_serl' has no attribute 'trian'"):
        mjx_serl.trian  # noqa: B018
