"""A small untrained run and its bundle, for what exports, reads and runs policies."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mjx_serl import config
from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import EvalConfig, RunConfig, TrainConfig
from mjx_serl.data import normalize
from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.task import TASKS
from mjx_serl.export.bundle import write_bundle
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Run
from mjx_serl.run.summary import Summary
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.training.state import PolicyParams
from scenes.contract.manifest import SUMS, write_sums


def tiny_config(root: Path, **changes: Any) -> TrainConfig:
    """Two epochs of two steps in four worlds of franka/pick_cube."""
    fields = {
        "physics": "native",
        "num_envs": 4,
        "total_env_steps": 16,
        "method": OffPolicyConfig(
            agent=changes.pop("agent", SACConfig(hidden=(16, 16))),
            loop=LoopConfig(
                batch_size=16, updates_per_step=2, steps_per_epoch=2, warmup_steps=8, buffer_size=52
            ),
            demos=DemoConfig(count=0),
        ),
        "eval": EvalConfig(every_epochs=2, check_episodes=2, episodes=2),
        "run": RunConfig(folder=root, checkpoint_seconds=0.0, tensorboard=False, video="off"),
    }
    return TrainConfig(**(fields | changes))


def tiny_run(root: Path, *, name: str = "run", **changes: Any) -> Run:
    """A run in `root/name` that has not begun."""
    cfg = tiny_config(root, **changes)
    folder = RunFolder.create(root, task=cfg.task, agent="a", seed=0, name=name)
    folder.write_config(cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "make_env", shared_env)
        return Run(cfg, folder)


_ENVS: dict[tuple[Any, ...], tuple[Any, Env]] = {}


def shared_env(name: str, *, scene: Any, fit: Any, **options: Any) -> Env:
    """A task's world, made once: its step, which is most of what is traced of a run, is too."""
    if scene is not None or fit is not None:
        return make_env(name, scene=scene, fit=fit, **options)
    # A name may stand for another task later; the one that it stands for now is kept alive.
    key = (name, id(TASKS[name]), *sorted(options.items()))
    if key not in _ENVS:
        _ENVS[key] = TASKS[name], make_env(name, **options)
    return _ENVS[key][1]


def drawn_policy(run: Run, *, seed: int = 0) -> PolicyParams:
    """Parameters drawn so that biases and norms count, and statistics of no particular scale."""
    spec = run.observer.obs_spec
    init = lambda key: run.trainer.agent.init(key, spec, run.env.action_spec)  # noqa: E731
    rng = np.random.default_rng(seed)
    agent = jax.tree.map(
        lambda x: x + (0.05 * rng.normal(size=x.shape)).astype(x.dtype),
        jax.device_get(jax.jit(init)(jax.random.key(seed))),
    )
    statistics = normalize.init(spec, scaled=True)
    moved = jax.tree.map(lambda x: x + np.float32(0.01), statistics.mean)
    return PolicyParams(run.trainer.agent.acting(agent), statistics.replace(mean=moved))


def summary_of(run: Run) -> Summary:
    """What a run might have ended with."""
    return Summary(
        task=run.cfg.task,
        agent=run.cfg.agent_name,
        seed=0,
        success_rate=0.5,
        success_ci95=(0.1, 0.9),
        episodes=2,
        wall_seconds=1.0,
        compile_seconds=1.0,
        env_steps=16,
        updates=8,
        device="cpu",
        commit="0123456789ab",
    )


def tiny_bundle(root: Path, **changes: Any) -> Path:
    """The bundle of a small untrained run."""
    run = tiny_run(root, **changes)
    write_bundle(run, drawn_policy(run), root / "bundle", summary=summary_of(run))
    return root / "bundle"


def sign_again(bundle: Path) -> None:
    """Make the checksums those of the files as they are: what follows is not caught by them."""
    files = {p.name: p.read_bytes() for p in bundle.iterdir() if p.name != SUMS}
    (bundle / SUMS).write_bytes(write_sums(files))


def with_changes(run: TrainConfig, **changes: Any) -> TrainConfig:
    """A config with some fields of its run section changed."""
    return dataclasses.replace(run, run=dataclasses.replace(run.run, **changes))
