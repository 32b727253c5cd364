"""Every agent goes on from the disk bit for bit, on toy worlds.

The hybrid agent, behaviour cloning, HG-DAgger, VICE and the pair: test_offline, test_vice and
test_pair; a whole run of SAC: tests/run/test_resume.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from toy_env import ToyEnv
from whole_runs import assert_same

from mjx_serl.agents.agent import AGENTS
from mjx_serl.agents.bc import BCConfig
from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.dsrl import DSRLConfig
from mjx_serl.agents.flow_bc import FlowBCConfig
from mjx_serl.agents.flow_ppo import FlowPPOConfig
from mjx_serl.agents.hybrid import HybridConfig
from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.agents.qc import ACTORS, QCConfig
from mjx_serl.agents.residual import ResidualConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.nets.velocity import MLPVelocityConfig
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.on_policy import OnPolicyConfig, OnPolicyLoopConfig
from mjx_serl.training.on_policy_chunks import ChunkLoopConfig, OnPolicyChunksConfig
from mjx_serl.training.state import TrainState
from mjx_serl.training.trainer import Trainer

NET: Any = {"hidden": (8, 8)}
FLOW = FlowNetConfig(hidden=(8, 8), steps=2)
CHUNKED = SACConfig(horizon=2, n_step=2, **NET)
BASE: Any = {"utd_ratio": 2, **NET}


def _qc(actor: Any) -> QCConfig:
    horizon = 1 if actor == "edited" else 2
    return QCConfig(actor=actor, horizon=horizon, candidates=2, flow=FLOW, **NET)


CASES = {
    "sac of chunks": CHUNKED,
    **{f"qc {actor}": _qc(actor) for actor in ACTORS},
    "residual": ResidualConfig(
        base=SACConfig(**NET), actor_delay=2, critic_ensemble_size=2, **BASE
    ),
    "residual of chunks": ResidualConfig(base=CHUNKED, critic_ensemble_size=2, **BASE),
    "dsrl": DSRLConfig(base=FlowBCConfig(horizon=2, flow=FLOW), **BASE),
}
ELSEWHERE = (BCConfig, HybridConfig, FlowBCConfig, PPOConfig, FlowPPOConfig)


@pytest.mark.parametrize("name", CASES)
def test_epochs_through_the_disk_equal_those_in_one_go(
    name: str, make_toy: Callable, tmp_path: Path
) -> None:
    toy = make_toy(agent=CASES[name], steps_per_epoch=4, warmup_steps=24)
    assert_goes_on(toy.trainer, toy.epoch, toy.start(), tmp_path)


def test_ppo_goes_on_in_the_middle_of_episodes(tmp_path: Path) -> None:
    method = OnPolicyConfig(
        agent=PPOConfig(lr_schedule="adaptive", lr=1e-3, **NET),
        # Of 18 steps an epoch, in episodes of at most 8: statistics still move in the second.
        loop=OnPolicyLoopConfig(rollout_steps=3, passes=2, minibatches=3, normalize_steps=100),
    )
    trainer = method.build(Observer(ToyEnv()), num_envs=6)
    assert_goes_on(trainer, jax.jit(trainer.epoch), trainer.init(jax.random.key(0)), tmp_path)


def test_a_flow_policy_under_ppo_goes_on_in_the_middle_of_episodes(tmp_path: Path) -> None:
    net = MLPVelocityConfig(hidden=(8,))
    method = OnPolicyChunksConfig(
        agent=FlowPPOConfig(net=net, horizon=3, steps=2, value_hidden=(8,), actor_average=0.9),
        loop=ChunkLoopConfig(rollout_chunks=2, minibatches=2, pretrain_updates=0),
        demos=DemoConfig(count=0),
    )
    trainer = method.build(Observer(ToyEnv()), num_envs=6)
    assert_goes_on(trainer, jax.jit(trainer.epoch), trainer.init(jax.random.key(0)), tmp_path)


def assert_goes_on(trainer: Trainer, epoch: Callable, first: TrainState, folder: Path) -> None:
    """Two epochs, through the disk or not, end in the same state and report the same."""
    one, _ = epoch(first)
    two, metrics = epoch(one)
    agents = (jax.tree.leaves(s.agent) for s in (one, two))
    assert any((a != b).any() for a, b in zip(*agents, strict=True)), "it learns"
    store = CheckpointStore(folder)
    store.save(1, one, {})
    store.wait()
    restored, _, _ = store.restore(trainer.state_shapes())
    assert_same(epoch(restored), (two, metrics))


def test_no_agent_is_left_out() -> None:
    tested = {type(case) for case in CASES.values()} | set(ELSEWHERE)
    assert tested == {AGENTS[name] for name in AGENTS}
