"""What people did beside the training: in a ring of its own, drawn among the demonstrations."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_runs import assert_same

from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import TrainConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.training.off_policy import (
    PEOPLE,
    PEOPLE_BLOCK,
    POLICY_ACTION,
    OffPolicy,
    OffPolicyConfig,
)
from mjx_serl.training.offline import OfflineConfig
from mjx_serl.training.state import TrainState
from mjx_serl.types import Transition

KEY = jax.random.key(0)
ROWS = 64


def block(first: float, *, driven: int = 10, length: int = 12) -> Transition:
    """An episode of `length` steps, the last `driven` of them a person's, in one block."""
    t = np.arange(PEOPLE_BLOCK)
    x = np.stack([first + t, -t], -1)[:, None].astype(np.float32)
    fields: dict[str, Any] = {
        "action": np.full((PEOPLE_BLOCK, 1, 2), 0.25, np.float32),
        "reward": np.zeros((PEOPLE_BLOCK, 1), np.float32),
        "terminated": (t == length - 1)[:, None],
        "truncated": np.zeros((PEOPLE_BLOCK, 1), bool),
        "valid": (t < length)[:, None],
        "expert": ((t >= length - driven) & (t < length))[:, None],
        "extras": {POLICY_ACTION: np.full((PEOPLE_BLOCK, 1, 2), -0.75, np.float32)},
    }
    return Transition(obs={"x": x, "age": x[..., :1]}, **fields)


@dataclasses.dataclass
class Trained:
    """A trainer with a ring for people, one without, and their epochs."""

    people: OffPolicy
    without: OffPolicy
    epoch: Callable
    learn: Callable  # an epoch that learns from people
    first: TrainState
    plain: list[TrainState]


@pytest.fixture(scope="module")
def trained(make_toy: Callable) -> Trained:
    """Both began with the same key."""
    plain = make_toy(agent=SACConfig(hidden=(8,))).trainer
    epoch, state = jax.jit(plain.epoch), plain.init(KEY)
    states = [state]
    for _ in range(2):
        states.append(epoch(states[-1])[0])
    people = plain.with_people(ROWS)
    learn = people.learning_from_people()
    return Trained(
        people, plain, jax.jit(people.epoch), jax.jit(learn.epoch), people.init(KEY), states
    )


def without_people(state: TrainState) -> TrainState:
    return state.replace(data={k: v for k, v in state.data.items() if k != PEOPLE})


def test_while_nobody_intervenes_nothing_changes(trained: Trained) -> None:
    state = trained.first
    for plain in trained.plain:
        assert_same(without_people(state), plain)
        state = trained.epoch(state)[0]


def test_rows_of_people_are_kept_with_both_actions(trained: Trained) -> None:
    people = trained.people
    state = people.intervene(copied(trained.first), block(10.0))
    ring = jax.device_get(state.data[PEOPLE])
    assert int(ring.filled) == PEOPLE_BLOCK
    np.testing.assert_array_equal(ring.data.expert[:16, 0].nonzero()[0], range(2, 12))
    np.testing.assert_allclose(ring.data.action[:16], 0.25)
    np.testing.assert_allclose(ring.data.extras[POLICY_ACTION][:16], -0.75)


def copied(state: TrainState) -> TrainState:
    """One whose arrays may be used up."""
    return jax.tree.map(jnp.copy, state)


def test_they_are_learned_from_among_the_demonstrations(trained: Trained) -> None:
    people = trained.people
    state = people.intervene(copied(trained.first), block(10.0))
    batch = people.learning_from_people()._sample(state, KEY, 100)
    theirs = np.asarray(batch.obs["x"])[..., 0] * 4.0 >= 9.5  # SPEC's scale
    half = theirs.shape[1] // 2
    assert not theirs[:, :half].any()
    shown = int(people.sources["demos"].buffer.size(state.data["demos"]))
    assert theirs[:, half:].mean() == pytest.approx(10 / (10 + shown), abs=0.04)
    seen = np.unique(np.round(np.asarray(batch.obs["x"])[theirs][:, 0] * 4.0))
    np.testing.assert_array_equal(seen, 10.0 + np.arange(2, 12))
    after = trained.learn(state)[0]
    assert not np.array_equal(
        *(jax.tree.leaves(s.agent.actor.params)[0] for s in (after, trained.plain[1]))
    )


def test_an_episode_that_was_taken_back_is_learned_from_no_more(trained: Trained) -> None:
    people = trained.people
    state = people.intervene(copied(trained.first), block(10.0))
    state = people.intervene(state, block(24.0))
    state = people.forget(state, PEOPLE_BLOCK)
    sample = people.learning_from_people()._sample
    seen = np.asarray(sample(state, KEY, 100).obs["x"])[..., 0] * 4.0
    assert seen.max() < 23 and (seen >= 9.5).any()
    none = people.forget(state, 2 * PEOPLE_BLOCK)
    assert_same(sample(none, KEY, 4), people._sample(trained.first, KEY, 4))


def test_epochs_with_interventions_through_the_disk_equal_those_in_one_go(
    trained: Trained, tmp_path: Path
) -> None:
    people = trained.people
    state = people.intervene(trained.epoch(trained.first)[0], block(10.0))
    store = CheckpointStore(tmp_path)
    store.save(1, state, {})
    store.wait()
    restored, _, _ = store.restore(people.state_shapes())

    def go_on(state: TrainState) -> TrainState:
        state = people.intervene(trained.learn(state)[0], block(24.0))
        return trained.learn(state)[0]

    assert_same(go_on(restored), go_on(state))


def test_its_size_is_among_what_memory_is_asked_for(trained: Trained) -> None:
    shares = {s.name: s for s in trained.people.memory(trained.first)}
    assert shares["interventions"].value == ROWS
    assert shares["interventions"].option == "--pilot.rows"
    assert "interventions" not in {s.name for s in trained.without.memory(trained.plain[0])}


def test_who_cannot_learn_from_people_is_told(make_toy: Callable) -> None:
    with pytest.raises(ValueError, match="--pilot plays single actions, got .* horizon 5"):
        make_toy(agent=SACConfig(hidden=(8,))).trainer.__class__.with_people(
            dataclasses.replace(
                make_toy(agent=SACConfig(hidden=(8,))).trainer, agent=SACConfig(horizon=5).build()
            ),
            ROWS,
        )
    cfg = TrainConfig(method=OfflineConfig())
    cfg = dataclasses.replace(cfg, pilot=dataclasses.replace(cfg.pilot, serve=True))
    with pytest.raises(ValueError, match="--pilot with --method offline, .* allowed: off_policy"):
        cfg.build(Observer(make_toy().trainer.vec_env.env))
    assert OffPolicyConfig().takeover.attend == 0
