"""A run over the policy of another: where its parameters come from, and what is refused."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_bundle import tiny_config
from toy_env import ToyEnv

from mjx_serl.agents.agent import AgentConfig
from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.dsrl import DSRLConfig
from mjx_serl.agents.flow_bc import FlowBCConfig
from mjx_serl.agents.residual import ResidualConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.commands import open_run
from mjx_serl.envs.observation import Observer
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.initial import learned_by, with_initial
from mjx_serl.run.loop import Run
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig

FLOW = FlowBCConfig(flow=FlowNetConfig(hidden=(8, 8), steps=2), horizon=2)


@pytest.mark.parametrize(
    "base_config, config",
    [
        (SACConfig(hidden=(8, 8)), ResidualConfig(hidden=(8, 8), critic_ensemble_size=2)),
        (FLOW, DSRLConfig(hidden=(8, 8))),
    ],
)
def test_it_begins_as_its_base(base_config: AgentConfig, config: Any) -> None:
    loop = LoopConfig(batch_size=8, steps_per_epoch=2, warmup_steps=0, buffer_size=60)
    base, over = (
        OffPolicyConfig(agent=agent, loop=loop, demos=DemoConfig(count=0)).build(
            Observer(ToyEnv()), num_envs=2
        )
        for agent in (base_config, config.over(base_config))
    )
    assert (base.least_success, over.least_success) == (0.0, 0.02)

    @jax.jit
    def start() -> list[Any]:
        return [t.first_state(jax.random.key(i), None) for i, t in enumerate((base, over))]

    starts = start()
    moved = jax.tree.map(lambda x: x + 0.5, starts[0].normalizer)
    params = base.policy_params(starts[0].replace(normalizer=moved))
    # As `load_initial` finds them: of what the new trainer says it begins with.
    shapes = jax.eval_shape(learned_by(over), starts[1])
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    state = with_initial(starts[1], params, over)
    obs = {"x": jnp.array([[0.3, -2.0], [5.0, 1.0]]), "age": jnp.ones((2, 1))}
    choose = [
        trainer.choose(trainer.policy_params(s), obs, jax.random.key(0), deterministic=True).action
        for trainer, s in ((over, state), (base, starts[0].replace(normalizer=moved)))
    ]
    np.testing.assert_array_equal(*choose)
    other = over.choose(over.policy_params(starts[1]), obs, jax.random.key(0), deterministic=True)
    assert np.abs(other.action - choose[0]).max() > 0
    # Nothing else of the state has been touched.
    np.testing.assert_array_equal(*(jax.tree.leaves(s.agent.critic)[0] for s in (state, starts[1])))


@pytest.mark.parametrize(("solved", "fails"), [(1, True), (2, False)])
def test_a_base_that_never_succeeds_is_refused(solved: int, fails: bool) -> None:
    said: list[Any] = []
    record = SimpleNamespace(success_rate=solved / 100, successes=solved, episodes=100)
    run = SimpleNamespace(
        least_success=0.02,
        hooks=SimpleNamespace(on_eval=said.append),
        _record=lambda *args: record,
    )
    check = lambda: Run.require_success(run, None, 0.0)  # noqa: E731
    if fails:
        with pytest.raises(ValueError, match="solves 1 of 100 episodes, allowed: at least 2%"):
            check()
        assert said == []
    else:
        check()
        assert said == [record]


def test_the_base_is_that_of_the_run_it_begins_with(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, agent=SACConfig(hidden=(24,)))
    folder = RunFolder.create(tmp_path, task=config.task, agent="a", seed=0, name="base")
    folder.write_config(config)
    over = tiny_config(tmp_path, agent=ResidualConfig())
    with pytest.raises(ValueError, match="corrects a policy: name its run with --init"):
        open_run(over, None).__enter__()
    over = dataclasses.replace(over, init=folder.path)
    with open_run(over, None, hooks=()) as run:
        assert run.cfg.method.agent.base == config.method.agent
    loop = dataclasses.replace(over.method.loop, normalize_steps=100)
    moving = dataclasses.replace(over, method=dataclasses.replace(over.method, loop=loop))
    with pytest.raises(ValueError, match="normalize_steps 100, allowed over a base: 0"):
        open_run(moving, None).__enter__()
