"""Learning from demonstrations alone, and HG-DAgger, on toy worlds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import ToyEnv
from whole_runs import assert_same

from mjx_serl.agents.bc import BCConfig
from mjx_serl.agents.hybrid import HybridConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.training.dagger import HGDAggerConfig
from mjx_serl.training.demonstrations import DemoConfig, RecordedDemos
from mjx_serl.training.off_policy import DEMOS, ONLINE, LoopConfig, OffPolicy
from mjx_serl.training.offline import Offline, OfflineConfig, OfflineLoopConfig
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.state import TrainState

AGENT = BCConfig(hidden=(8,), lr=3e-2)
COUNT = DemoConfig(count=5)
EXPERT = [0.5, 1.0]  # what the toy expert does, whatever it sees


@dataclasses.dataclass
class Trained:
    """A trainer, its first state, its compiled epoch, and the states after one and two of them."""

    trainer: Any
    first: TrainState
    epoch: Callable
    after: list[TrainState]
    metrics: dict


def trained(trainer: Offline | OffPolicy) -> Trained:
    first, epoch = trainer.init(jax.random.key(0)), jax.jit(trainer.epoch)
    one, _ = epoch(first)
    two, metrics = epoch(one)
    return Trained(trainer, first, epoch, [one, two], metrics)


@pytest.fixture(scope="module")
def demos(make_toy: Callable) -> RecordedDemos:
    """The toy expert's episodes."""
    return make_toy().trainer.demos


def shown(trainer: OffPolicy, demos: RecordedDemos) -> OffPolicy:
    return dataclasses.replace(trainer, demos=demos)


@pytest.fixture(scope="module")
def offline(demos: RecordedDemos) -> Trained:
    loop = OfflineLoopConfig(batch_size=32, updates_per_epoch=100)
    method = OfflineConfig(agent=AGENT, loop=loop, demos=COUNT)
    trainer = method.build(Observer(ToyEnv()), num_envs=1)
    return trained(Offline(shown(trainer.learner, demos)))


@pytest.fixture(scope="module")
def dagger(demos: RecordedDemos) -> Trained:
    loop = LoopConfig(
        batch_size=32, updates_per_step=2, steps_per_epoch=5, warmup_steps=0, buffer_size=600,
        pretrain_updates=100,
    )  # fmt: skip
    method = HGDAggerConfig(agent=AGENT, loop=loop, demos=COUNT)
    return trained(shown(method.build(Observer(ToyEnv()), num_envs=6), demos))


@pytest.fixture(scope="module")
def hybrid(make_toy: Callable) -> Trained:
    """The off-policy loop with the hybrid agent; a toy's gripper says nothing of itself."""
    agent = HybridConfig(sac=SACConfig(hidden=(8,), utd_ratio=2), grasp_penalty=0.0)
    return trained(make_toy(agent=agent).trainer)


@pytest.fixture(params=["offline", "dagger"])
def run(request: pytest.FixtureRequest) -> Trained:
    """Each of the two."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", ["offline", "dagger", "hybrid"])
def test_epochs_through_the_disk_equal_those_in_one_go(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Trained = request.getfixturevalue(name)
    store = CheckpointStore(tmp_path)
    store.save(1, run.after[0], {})
    store.wait()
    restored, _, _ = store.restore(run.trainer.state_shapes())
    assert_same(run.epoch(restored)[0], run.after[1])


def test_the_policy_becomes_the_experts(run: Trained) -> None:
    trainer, state = run.trainer, run.after[1]
    policy = trained_policy(trainer, trainer.policy_params(state))
    obs = {"x": jnp.ones((3, 2)), "age": jnp.ones((3, 1))}
    np.testing.assert_allclose(policy(obs, jax.random.key(0)), [EXPERT] * 3, atol=0.1)


def test_an_offline_epoch_makes_updates_and_no_step(offline: Trained) -> None:
    trainer, (one, two) = offline.trainer, offline.after
    assert (trainer.env_steps_per_epoch, trainer.updates_per_epoch) == (0, 100)
    assert [int(s.agent.step) for s in (offline.first, one, two)] == [0, 100, 200]
    assert [int(s.epoch) for s in (offline.first, one, two)] == [0, 1, 2]
    assert two.worlds == () and set(two.data) == {DEMOS}
    assert set(offline.metrics) == {
        f"learner/{name}" for name in ("bc_loss", "bc_square_error", "skipped_updates")
    }
    (share,) = trainer.memory(two)
    assert (share.option, share.value) == ("--demos.count", 5)
    assert float(offline.metrics["learner/bc_square_error"]) < 0.05


def test_demonstrations_are_needed_to_learn_from_them_alone() -> None:
    none = DemoConfig(count=0)
    with pytest.raises(ValueError, match=r"there are none; allowed: --demos\.count above 0"):
        OfflineConfig(demos=none).check(num_envs=1)
    OfflineConfig(demos=dataclasses.replace(none, file=Path("x.npz"))).check(num_envs=1)
    with pytest.raises(ValueError, match="pretrain_updates 5000 without demonstrations"):
        HGDAggerConfig(demos=none).check(num_envs=1)
    assert OfflineConfig().label(images=False) == "bc"
    assert HGDAggerConfig().label(images=True) == "hg_dagger"


def test_rollouts_add_the_experts_steps_to_what_is_learned_from(dagger: Trained) -> None:
    state = dagger.after[1]
    assert int(dagger.first.agent.step) == 100, "learned before the first epoch"
    assert int(state.agent.step) == 100 + 2 * dagger.trainer.updates_per_epoch
    ring = jax.device_get(state.data[ONLINE])
    rows = jax.tree.map(lambda x: x[: int(ring.filled)], ring.data)
    assert rows.valid.any() and not rows.valid.all()
    np.testing.assert_array_equal(rows.valid, rows.expert)
    np.testing.assert_allclose(rows.action[rows.valid], [EXPERT] * int(rows.valid.sum()))
    share = float(dagger.metrics["takeover/share"])
    last = rows.expert[-5:]
    assert share == pytest.approx(last.mean()) and 0 < share < 1
