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
from mjx_serl.data.blocks import blocks_of
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.vector import vectorize
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.replay_episodes import find_episodes
from mjx_serl.tasks.alternating import TurnState
from mjx_serl.training.dagger import HGDAggerConfig
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.from_actors import BLOCK
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.training.pair import Pair, PairConfig
from mjx_serl.training.pair_from_actors import CREDIT, PairFromActors, pair_from_actors
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.types import Transition, choice
from scenes.contract.policy_contract import TURN
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
        state = pair.first_state(key, None)
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
    after, _ = jax.jit(lambda key: alone.epoch(alone.first_state(key, None)))(jax.random.key(0))
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


# -- fed by arms elsewhere -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fed(pair: Pair) -> PairFromActors:
    return pair_from_actors(pair)


def arm_rows(part: int, length: int, seed: int = 0) -> list[Any]:
    """Blocks of an episode of a part at an arm."""
    rng = np.random.default_rng(seed)
    obs = {f.name: rng.normal(size=(length, 1, *f.shape)).astype(f.dtype) for f in TURNS.fields}
    obs[TURN][:] = 1.0 - 2.0 * part
    last = (np.arange(length) == length - 1)[:, None]
    no = np.zeros((length, 1), bool)
    return blocks_of(
        Transition(
            obs=obs,
            action=rng.uniform(-1, 1, (length, 1, 2)).astype(np.float32),
            reward=last.astype(np.float32),
            terminated=last,
            truncated=no,
            valid=~no,
            expert=no,
        ),
        BLOCK,
    )


def after_episodes(fed: PairFromActors, *episodes: tuple[int, int]) -> TrainState:
    """The first state with episodes of (part, length)."""
    state = fed.init(jax.random.key(0))
    for number, (part, length) in enumerate(episodes):
        for block in arm_rows(part, length, number):
            state = fed.receive(state, block)
    return state


def learned(fed: PairFromActors, state: TrainState) -> list[int]:
    return [int(state.agent[name].step) for name in fed.parts]


def test_what_an_arm_did_goes_to_the_part_whose_turn_it_was(fed: PairFromActors):
    state = after_episodes(fed, (0, 20), (1, 7), (0, 5))
    for name, want in zip(PARTS, (25, 7), strict=True):
        data = state.data[name]["online"].data
        assert data.valid.sum() == want
        turn = data.obs[TURN][..., 0][data.valid]
        assert (turn == 1 - 2 * PARTS.index(name)).all()
    assert state.data[CREDIT].tolist() == [25, 7]


def test_rows_pay_for_the_updates_of_their_own_part(fed: PairFromActors):
    state = after_episodes(fed, (0, 64), (1, 32))
    steps = fed.env_steps_per_epoch
    counts = []
    for _ in range(3):
        state, _ = fed.epoch(state)
        counts.append((learned(fed, state), state.data[CREDIT].tolist()))
    assert counts == [
        ([steps, 0], [64 - steps, 32]),
        ([2 * steps, 0], [64 - 2 * steps, 32]),
        ([2 * steps, steps], [64 - 2 * steps, 32 - steps]),
    ]


def test_a_part_without_rows_does_not_learn(fed: PairFromActors):
    state, _ = fed.epoch(after_episodes(fed))
    assert learned(fed, state) == [0, 0]


def test_an_arm_explores_by_the_policy_of_the_part_that_it_observes():
    def explore(params: PolicyParams, obs: Any, noise: Any) -> Any:
        return choice(noise[:, 0] + params.agent)

    fed = PairFromActors(SimpleNamespace(explore=explore), PARTS)
    params: Any = PolicyParams({"there": 1.0, "back": 2.0}, {"there": 0.0, "back": 0.0})
    obs = {TURN: jnp.array([[1.0], [-1.0]])}
    chosen = fed.explore(params, obs, 0.1 * jnp.ones((2, 1, 2)))
    np.testing.assert_allclose(chosen.action[:, 0, 0], [1.1, 2.1])


def test_the_rings_of_both_and_what_they_pay_for_are_on_the_disk(
    fed: PairFromActors, tmp_path: Path
):
    state, _ = fed.epoch(after_episodes(fed, (0, 40), (1, 40)))
    store = CheckpointStore(tmp_path)
    store.save(1, state, {})
    again, _, _ = store.restore(fed.state_shapes())
    assert_same(fed.epoch(again), fed.epoch(state))


def test_updates_before_the_first_epoch_are_refused():
    cfg = PairConfig(loop=LoopConfig(pretrain_updates=5))
    with pytest.raises(ValueError, match=r"pretrain_updates 5 with --method pair, allowed: 0"):
        cfg.check(num_envs=2)
