"""A module of the user's registers a task and an agent; runs remember which they need."""

import textwrap
from pathlib import Path

import pytest

from mjx_serl import commands
from mjx_serl.agents.agent import AGENTS
from mjx_serl.config import TrainConfig
from mjx_serl.envs.task import TASKS
from mjx_serl.run.folder import RunFolder
from scenes.contract.serialize import from_json

MODULE = """
import dataclasses

from mjx_serl.agents.agent import AGENTS, AgentConfig
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.pick_cube import SPARSE

TASKS.register("{name}/short")(dataclasses.replace(SPARSE, episode_steps=7))


@AGENTS.register("{name}")
@dataclasses.dataclass(frozen=True)
class Config(AgentConfig):
    lr: float = 0.25
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Name of a module in a folder that Python does not search by itself."""
    name = f"plugin_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE.format(name=name)))
    monkeypatch.chdir(tmp_path)
    yield name
    TASKS._table.pop(f"{name}/short", None)
    AGENTS._table.pop(name, None)


def test_it_is_there_once_it_is_named(plugin: str):
    assert f"{plugin}/short" not in TASKS
    argv = ["--plugin", plugin, "--task", f"{plugin}/short", "--agent", plugin, "--agent.lr", "0.5"]
    cfg, resume = commands.parse_train(argv)
    assert resume is None and cfg.plugins == (plugin,) and cfg.agent_name == plugin
    assert cfg.method.agent.lr == 0.5
    assert TASKS[cfg.task].episode_steps == 7


def test_a_run_remembers_it(plugin: str, tmp_path: Path):
    """What the config names is registered by reading it, in a process that knows nothing yet."""
    argv = ["--plugin", plugin, "--task", f"{plugin}/short", "--agent", plugin]
    cfg, _ = commands.parse_train(argv)
    folder = RunFolder(tmp_path)
    folder.write_config(cfg)
    again, _ = commands.parse_train(["--resume", str(tmp_path)])
    assert again == cfg and folder.read_config(TrainConfig) == cfg


def test_what_cannot_be_imported_is_told_by_name(tmp_path: Path):
    with pytest.raises(ImportError, match="--plugin no_such_module cannot be imported"):
        commands.parse_train(["--plugin", "no_such_module"])


def test_a_learner_that_nobody_registered_is_refused():
    with pytest.raises(KeyError, match=r"Unknown agent 'sacc'\. Did you mean 'sac'\?"):
        commands.parse_train(["--agent", "sacc"])
    with pytest.raises(KeyError, match=r"Unknown method 'on_line'\. .*Allowed: hg_dagger, off_"):
        commands.parse_train(["--method", "on_line"])
    data = {"method": {"type": "off_policy", "agent": {"type": "sacc"}}}
    with pytest.raises(ValueError, match="Unknown agent 'sacc'"):
        from_json(TrainConfig, data, allow_missing=True)
