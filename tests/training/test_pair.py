"""Two learners by turns: whose rows are whose, who acts, what is put back, exact resume."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import SPEC, ToyEnv, ToyState
from whole_runs import assert_same

from mjx_serl.agents.sac import SACConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.vector import vectorize
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.replay_episodes import find_episodes
from mjx_serl.tasks.alternating import TURN, TurnState
from mjx_serl.training.dagger import HGDAggerConfig
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.training.pair import Pair, PairConfig
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.types import choice
from scenes.contract.specs import ObsField, ObsSpec

PARTS, WORLDS = ("there", "back"), 6
TURNS = ObsSpec(fields=(*SPEC.fields, ObsField(name=TURN, shape=(1,))))


@dataclasses.dataclass(frozen=True, eq=False)
class TurnsEnv(ToyEnv):
    """Toy worlds whose episodes are of two parts by turns; `first` has only the first."""

    first: bool = False
    obs_spec: ObsSpec = TURNS

    def reset(self, key: jax.Array) -> ToyState:
        turn = jax.random.bernoulli(jax.random.fold_in(key, 5)).astype(jnp.int32)
        return self._of(super().reset(key), turn)

    def carry_on(self, state: ToyState, key: jax.Array) -> ToyState:
        return self._of(super().carry_on(state, key), 1 - state.task_state.turn)

    def step(self, state: ToyState, action: jax.Array) -> ToyState:
        return self._of(super().step(state, action), state.task_state.turn)

    def _of(self, state: ToyState, turn: jax.Array) -> ToyState:
        turn = 0 * turn if self.first else turn
        obs = state.obs | {TURN: (1.0 - 2.0 * turn)[None]}
        return state.replace(task_state=TurnState(turn, ()), obs=obs)  # pyright: ignore


def make_pair(agent: Any, *, first: bool = False) -> Pair:
    """A pair without demonstrations on toy worlds."""
    loop = LoopConfig(
        batch_size=16, updates_per_step=1, steps_per_epoch=30, warmup_steps=12, buffer_size=600
    )
    method = OffPolicyConfig(agent=agent, loop=loop, demos=DemoConfig(count=0))
    worlds: Any = Observer(TurnsEnv(first=first))
    return Pair(method.trainer(vectorize(worlds, num_envs=WORLDS, autoreset="lost"), None), PARTS)


@pytest.fixture(scope="module")
def pair(make_idle: Callable) -> Pair:
    return make_pair(make_idle(demos=False).trainer.agent)


@pytest.fixture(scope="module")
def played(pair: Pair) -> tuple[TrainState, TrainState, dict]:
    """The first state, that of an epoch later, and its metrics."""

    @jax.jit
    def play(key: jax.Array) -> tuple[TrainState, TrainState, dict]:
        state = pair._first_state(key, None)
        return state, *pair.epoch(state)

    return jax.device_get(play(jax.random.key(0)))


def test_a_row_belongs_to_the_part_whose_turn_it_was(played: tuple):
    _, state, _ = played
    there, back = (state.data[name]["online"].data for name in PARTS)
    filled = int(state.data["there"]["online"].filled)
    assert filled == 2 + 30
    own = {
        name: data.obs[TURN][:filled, :, 0] for name, data in zip(PARTS, (there, back), strict=True)
    }
    np.testing.assert_array_equal(there.valid[:filled], own["there"] > 0)
    np.testing.assert_array_equal(back.valid[:filled], own["back"] < 0)
    assert there.valid.any() and back.valid.any()


def test_no_transition_reaches_into_the_others_turn(played: tuple):
    _, state, _ = played
    data = state.data["there"]["online"].data
    filled = int(state.data["there"]["online"].filled)
    turn, over = data.obs[TURN][:filled, :, 0], (data.terminated | data.truncated)[:filled]
    changes = turn[1:] != turn[:-1]
    assert changes.sum() > WORLDS
    assert over[:-1][changes].all()


def test_each_ring_shows_its_own_episodes(pair: Pair, played: tuple):
    _, state, _ = played
    rings = pair.rings(state.replace(key=jax.random.key(0)))
    assert [ring.name for ring in rings] == [f"{part}, online" for part in PARTS]
    for i, ring in enumerate(rings):
        turn = np.asarray(ring.rows.data.obs[TURN]).reshape(-1)
        found = find_episodes(ring.rows)
        assert found and all((turn[rows] == 1 - 2 * i).all() for rows in found)


def test_episodes_are_counted_by_part_and_worlds_that_are_put_back(played: tuple):
    _, state, metrics = played
    episodes = [metrics[f"pair/{name}_episodes"] for name in PARTS]
    solved = [metrics[f"pair/{name}_successes"] for name in PARTS]
    assert min(episodes) > 0 and sum(episodes) == metrics["episode/count"]
    assert sum(solved) == metrics["episode/successes"]
    data = state.data["there"]["online"].data
    ended = int(data.terminated[2 : 2 + 30].sum())
    assert metrics["pair/put_back"] == ended - sum(solved) > 0


def test_both_learn_but_not_before_there_is_something_to_learn_from(
    played: tuple, make_idle: Callable
):
    first, state, _ = played
    assert [int(first.agent[name].step) for name in PARTS] == [0, 0]
    assert [int(state.agent[name].step) for name in PARTS] == [30, 30]
    alone = make_pair(make_idle(demos=False).trainer.agent, first=True)
    after, _ = jax.jit(lambda key: alone.epoch(alone._first_state(key, None)))(jax.random.key(0))
    assert [int(after.agent[name].step) for name in PARTS] == [30, 0]


def test_the_policy_of_the_part_that_is_observed_acts():
    def choose(params: PolicyParams, obs: Any, key: Any, *, deterministic: bool) -> Any:
        return choice(jnp.full((3, 2), params.agent + params.normalizer))

    pair = Pair(SimpleNamespace(choose=choose), PARTS)
    params: Any = PolicyParams({"there": 1.0, "back": 2.0}, {"there": 0.1, "back": 0.2})
    obs = {TURN: jnp.array([[1.0], [-1.0], [1.0]])}
    chosen = pair.choose(params, obs, jax.random.key(0), deterministic=True)
    np.testing.assert_allclose(chosen.action[:, 0, 0], [1.1, 2.2, 1.1])


def test_it_goes_on_from_the_disk_bit_for_bit(pair: Pair, played: tuple, tmp_path: Path):
    _, state, _ = played
    store = CheckpointStore(tmp_path)
    store.save(1, state, {})
    again, _, _ = store.restore(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state)))
    epoch = jax.jit(pair.epoch)
    assert_same(epoch(again), epoch(state))


def test_one_task_is_no_pair(make_idle: Callable):
    with pytest.raises(
        ValueError, match="'toy', which is one task; allowed: a task of two by turns"
    ):
        PairConfig().build(Observer(ToyEnv()), num_envs=2)
    assert PairConfig().label(images=False) == "rlpd_pair"


@pytest.mark.parametrize("method", [PairConfig, HGDAggerConfig])
def test_methods_of_single_actions_take_no_chunks(method: Callable):
    cfg = method(agent=SACConfig(horizon=5, n_step=5))
    with pytest.raises(ValueError, match="plays single actions, got an agent with horizon 5"):
        cfg.check(num_envs=2)
