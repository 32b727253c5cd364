"""A reward that is learned in the loop: what is stored, what is learned from, exact resume."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from toy_env import ToyEnv
from whole_runs import assert_same

from mjx_serl.agents.reward_model import ViceConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.envs.judge import Judge
from mjx_serl.envs.observation import FEATURES, Observer
from mjx_serl.experiments import PRESETS
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import OffPolicyConfig, shown
from scenes.contract.specs import ObsField, ObsSpec

VICE = ViceConfig(updates=2, batch_size=8, hidden=8)


@pytest.fixture(scope="module")
def toy(make_toy: Callable, make_idle: Callable) -> Any:
    """Toy worlds whose classifier reads x and age."""
    agent = make_idle(demos=False).trainer.agent
    return make_toy(agent=agent, vice=VICE)


@pytest.fixture(scope="module")
def epochs(toy: Any) -> list:
    """The first state, and those of two epochs with their metrics."""
    first = toy.start()
    one, _ = toy.epoch(first)
    return [first, one, *toy.epoch(one)]


def test_nobody_is_told_of_success_and_batches_are_paid_by_the_classifier(toy: Any, epochs: list):
    *_, state, _ = epochs
    ring = state.data["online"]
    filled = int(ring.filled)
    assert not np.asarray(ring.data.reward)[:filled].any()
    vice = toy.trainer.vice
    paid = jax.jit(
        lambda s, key: toy.trainer._sample(s, key, 4, toy.trainer._reward_of(s)),
    )(state, jax.random.key(0))
    n = np.prod(paid.reward.shape)
    flat = jax.tree.map(lambda x: x.reshape(n, *x.shape[2:]), paid)
    # Statistics scale what agents see; these toys' are those of their spec.
    raw = {
        f.name: flat.next_obs[f.name] * f.scale
        for f in toy.trainer.vec_env.observer.obs_spec.fields
    }
    said = vice.says(state.data["vice"], raw) & ~flat.terminated
    np.testing.assert_array_equal(flat.reward, said)


def test_defect_12_the_classifier_learns_and_its_mistakes_are_told(epochs: list):
    first, one, two, metrics = epochs
    for before, after in ((first, one), (one, two)):
        old, new = (s.data["vice"].net.params for s in (before, after))
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True))
    np.testing.assert_array_equal(one.data["vice"].goals["x"], first.data["vice"].goals["x"])
    for name in ("loss", "gradient_norm", "said", "true", "false_positives"):
        assert np.isfinite(metrics[f"vice/{name}"])


def test_it_goes_on_from_the_disk_bit_for_bit(toy: Any, epochs: list, tmp_path: Path):
    _, one, two, metrics = epochs
    store = CheckpointStore(tmp_path)
    store.save(1, one, {})
    again, _, _ = store.restore(jax.eval_shape(lambda: one))
    assert_same(toy.epoch(again), (two, metrics))


def test_what_is_shown_of_a_state():
    x, eye = ObsField(name="x", shape=(2,)), ObsField(name="eye", shape=(8, 8, 3), dtype="uint8")
    features = ObsField(name=FEATURES, shape=(4,))
    assert shown(ObsSpec(fields=(x, eye))) == ["eye"]
    assert shown(ObsSpec(fields=(x, features))) == [FEATURES]
    assert shown(ObsSpec(fields=(x, dataclasses.replace(x, name="y", critic_only=True)))) == ["x"]


def test_what_does_not_go_together_is_refused():
    worlds: Any = Observer(ToyEnv())
    method = OffPolicyConfig(vice=VICE, demos=DemoConfig(count=0))
    with pytest.raises(ValueError, match="takes its goals from the ends of demonstrations"):
        method.build(worlds, num_envs=2)
    judged = dataclasses.replace(worlds, judge=Judge(worlds.env))
    with pytest.raises(ValueError, match="learns a reward itself: leave out --reward"):
        method.build(judged, num_envs=2)
    chunks = dataclasses.replace(method, agent=SACConfig(horizon=5, n_step=5), vice=ViceConfig())
    with pytest.raises(ValueError, match="sees one in 5; allowed: agent.horizon 1"):
        chunks.build(judged, num_envs=2)


def test_the_preset_is_whole():
    """SERL has no script for its VICE (serl_family.md 7, 12)."""
    cfg = PRESETS["vice"]()
    cfg.check()
    assert cfg.method.vice.updates > 0 and cfg.method.demos.count > 0 and cfg.pixels.cameras
