"""The fused epoch on toy worlds: what enters the buffer, the batches and the statistics."""

import dataclasses
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import SPEC, STEPS, ToyEnv

from mjx_serl.agents.sac import SACConfig
from mjx_serl.data import normalize
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.pick_cube import DENSE, SPARSE, PickCube, PickCubeConfig
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig, buffer_rows
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.state import TrainState, tree_bytes
from mjx_serl.types import Batch, Transition
from scenes.contract.errors import InputError

NUM_ENVS = 6


def with_ring(state: TrainState, source: str, data: Transition) -> TrainState:
    """The state with other rows in one of its rings."""
    ring = state.data[source].replace(data=data)
    return state.replace(data=state.data | {source: ring})


def mark_rows(state: TrainState) -> TrainState:
    """Write each stored row's own number into its reward."""
    ring = state.data["online"].data.reward
    marks = np.arange(ring.size, dtype=np.float32).reshape(ring.shape)
    data = state.data["online"].data.replace(reward=marks)
    return with_ring(state, "online", data)


def draw(toy: Any, state: TrainState, updates: int = 60) -> Batch:
    """Batches [updates, batch_size] as an iteration of the epoch draws them."""
    return jax.device_get(toy.sample(state, jax.random.key(5), updates))


def flags(state: TrainState, name: str) -> np.ndarray:
    filled = int(state.data["online"].filled)
    return np.asarray(getattr(state.data["online"].data, name))[:filled].ravel()


# -- what is hardly meant ------------------------------------------------------------------------


def test_a_sparse_task_without_the_demonstrations_it_wants_is_warned_of():
    def cautions(config: PickCubeConfig, *, count: int = 0, fraction: float = 0.5) -> list[str]:
        method = OffPolicyConfig(
            loop=LoopConfig(demo_fraction=fraction), demos=DemoConfig(count=count)
        )
        task = PickCube(config=config, scene=None)
        return method.cautions(SimpleNamespace(env=SimpleNamespace(task=task)))

    (line,) = cautions(SPARSE)
    assert "pays nothing before it is solved" in line and "--demos.count 20" in line
    assert cautions(DENSE) == cautions(SPARSE, count=1) == cautions(SPARSE, fraction=0) == []
    toy = SimpleNamespace(env=ToyEnv())
    assert OffPolicyConfig(demos=DemoConfig(count=0)).cautions(toy) == []


# -- warm-up -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warmed_up(make_idle: Callable) -> dict[str, tuple[Any, TrainState]]:
    """Toy trainers without demonstrations and their first states, which one program makes."""
    changes = {
        "61 steps": {"warmup_steps": 61},
        "none": {"warmup_steps": 0},
        "span of 4": {"warmup_steps": 0, "n_step": 4},
        "long": {"warmup_steps": 240},
    }
    toys = {name: make_idle(demos=False, **change) for name, change in changes.items()}

    @jax.jit
    def start(key: jax.Array) -> dict[str, TrainState]:
        return {name: toy.trainer.first_state(key, None) for name, toy in toys.items()}

    states = start(jax.random.key(0))
    return {name: (toy, states[name]) for name, toy in toys.items()}


@pytest.mark.parametrize(("warmup", "rows"), [("61 steps", 11), ("none", 2)])
def test_warm_up_plays_random_actions_before_learning(warmed_up: dict, warmup: str, rows: int):
    """Steps are counted over all worlds, rounded up to whole rows, and one row can be learned."""
    _, state = warmed_up[warmup]
    assert int(state.data["online"].filled) == rows
    assert int(state.epoch) == 0 and int(state.agent.step) == 0
    actions = np.asarray(state.data["online"].data.action)[:rows]
    assert np.abs(actions).max() <= 1.0
    assert len(np.unique(actions)) == actions.size


def test_warm_up_covers_an_n_step_span(warmed_up: dict):
    _, state = warmed_up["span of 4"]
    assert int(state.data["online"].filled) == 5


def test_worlds_time_out_together_unless_they_are_staggered(
    make_toy: Callable, monkeypatch: pytest.MonkeyPatch
):
    """Six worlds of eight steps: their first episodes are 0, 1, 2, 4, 5 and 6 steps shorter."""
    step = ToyEnv.step

    def never_ending(env: ToyEnv, state: Any, action: jax.Array) -> Any:
        return step(env, state.replace(end=jnp.full_like(state.end, 99)), action)

    monkeypatch.setattr(ToyEnv, "step", never_ending)

    def first_time_outs(**loop: Any) -> list[int]:
        toy = make_toy(demos=False, warmup_steps=60, **loop)
        return np.argmax(toy.start().data["online"].data.truncated, axis=0).tolist()

    assert first_time_outs() == [7] * NUM_ENVS
    assert first_time_outs(stagger=True) == [7, 6, 5, 3, 2, 1]


def test_a_pool_in_proportion_to_the_epoch_starts_more_episodes_differently(make_toy: Callable):
    """One world's epoch of 500 steps: four starts, or 80."""
    method = OffPolicyConfig(loop=LoopConfig(steps_per_epoch=500))
    by_epoch = dataclasses.replace(method, loop=dataclasses.replace(method.loop, pool="epoch"))
    assert (method.pool_size(1), by_epoch.pool_size(1)) == (4, 80)
    assert by_epoch.pool_size(100_000) == 4096
    # As it is where epochs are short.
    assert OffPolicyConfig(loop=LoopConfig(pool="epoch")).pool_size(16) == method.pool_size(16)
    toy = make_toy(demos=False, pool="epoch", steps_per_epoch=60)
    assert toy.start().worlds.pool.t.shape == (4 * NUM_ENVS * 3,)


def test_the_smallest_buffer_that_is_allowed_trains(make_idle: Callable):
    agent = SACConfig(hidden=(8,), n_step=4)
    loop = {"warmup_steps": 0, "buffer_size": 5 * NUM_ENVS, "batch_size": 8}
    method = OffPolicyConfig(agent=agent, loop=LoopConfig(**loop))
    method.check(num_envs=NUM_ENVS)
    with pytest.raises(ValueError, match=r"buffer_size 30, allowed: at least 35, which is 5 rows"):
        method.check(num_envs=NUM_ENVS + 1)
    toy = make_idle(n_step=agent.n_step, demos=False, **loop)
    after, metrics = toy.epoch(toy.start())
    assert int(after.data["online"].filled) == 5
    assert np.isfinite(metrics["learner/seen"]), "sampled, with spans of four steps"


def test_demonstrations_leave_the_warm_up_as_it_is(toy: Any):
    """60 steps of six worlds are ten rows, not eleven."""
    assert int(toy.start().data["online"].filled) == 10


def test_a_buffer_holds_its_size_and_the_warm_up():
    config = LoopConfig(buffer_size=1000, warmup_steps=300)
    assert buffer_rows(config, 7) == 142
    assert buffer_rows(LoopConfig(buffer_size=100, warmup_steps=301), 7) == 43
    assert buffer_rows(LoopConfig(buffer_size=4, warmup_steps=0), 4) == 2


@pytest.mark.parametrize(
    "agent", [SACConfig(n_step=STEPS), SACConfig(horizon=STEPS), SACConfig(n_step=STEPS + 3)]
)
def test_a_span_that_every_time_limit_cuts_off_is_refused(agent: SACConfig):
    method, worlds = OffPolicyConfig(agent=agent), Observer(ToyEnv())
    with pytest.raises(InputError, match="less than the time limit of 'toy', 8 control steps"):
        method.build(worlds, num_envs=2)


# -- batches -----------------------------------------------------------------------------------


def test_time_outs_never_enter_a_batch_and_terminations_do(warmed_up: dict):
    toy, state = warmed_up["long"]
    state = mark_rows(state)
    terminated, truncated = flags(state, "terminated"), flags(state, "truncated")
    assert truncated.sum() > 5 and terminated.sum() > 5
    batch = draw(toy, state)
    drawn = np.unique(batch.reward).astype(int)
    newest = np.arange(len(truncated) - NUM_ENVS, len(truncated))
    usable = np.setdiff1d(np.flatnonzero(~truncated), newest[~terminated[newest]])
    np.testing.assert_array_equal(drawn, usable)
    np.testing.assert_array_equal(batch.terminated, terminated[batch.reward.astype(int)])


def test_half_of_a_batch_is_demonstrations(toy: Any):
    batch = draw(toy, toy.start())
    np.testing.assert_array_equal(batch.expert.sum(-1), np.full(60, 16))


@pytest.fixture(scope="module")
def only_demos(make_toy: Callable) -> Any:
    """A toy trainer that learns from demonstrations alone."""
    return make_toy(demo_fraction=1.0)


@pytest.mark.parametrize(("share", "experts"), [(0.0, 0), (0.25, 8), (1.0, 32)])
def test_the_demonstrations_share_is_exact(
    toy: Any, make_toy: Callable, only_demos: Any, share: float, experts: int
):
    # The share changes no state.
    sharing = only_demos if share == 1.0 else make_toy(demo_fraction=share)
    assert (draw(sharing, toy.start()).expert.sum(-1) == experts).all()


def test_what_an_agent_keeps_beside_its_steps_is_in_the_batch(
    make_idle: Callable, monkeypatch: pytest.MonkeyPatch
):
    """Of demonstrations too, and from observations as they were, before they are scaled."""

    def beside(self: Any, steps: Transition, action: Any) -> dict[str, jax.Array]:
        return {"sum": steps.obs["x"].sum(-1) + steps.action[..., 0]}

    toy = make_idle(warmup_steps=30)
    monkeypatch.setattr(type(toy.trainer.agent), "beside", beside)
    state, _ = toy.epoch(toy.start())
    batch = draw(toy, state)
    wanted = batch.obs["x"].sum(-1) * SPEC["x"].scale + batch.action[..., 0]
    np.testing.assert_allclose(batch.extras["sum"], wanted, rtol=1e-5)
    assert batch.expert.any() and not batch.expert.all()


def test_without_demonstrations_nothing_is_expert(warmed_up: dict):
    toy, state = warmed_up["long"]
    assert "demos" not in state.data
    assert not draw(toy, state).expert.any()


def test_demonstrations_are_stored_whole_and_stay(toy: Any):
    state = toy.start()
    for stored, given in zip(
        jax.tree.leaves(state.data["demos"].data), jax.tree.leaves(toy.demos), strict=True
    ):
        np.testing.assert_array_equal(stored, given)
    after, _ = toy.epoch(state)
    rings = (jax.tree.leaves(s.data["demos"]) for s in (state, after))
    for old, new in zip(*rings, strict=True):
        np.testing.assert_array_equal(old, new)


def test_padding_of_demonstrations_is_never_drawn(toy: Any, only_demos: Any):
    state = toy.start()
    valid = np.asarray(toy.demos.valid)
    assert not valid.all()
    ring = state.data["demos"].data.reward
    marks = np.where(valid, ring, np.float32(np.nan))
    data = state.data["demos"].data.replace(reward=marks)
    batch = draw(only_demos, with_ring(state, "demos", data))
    assert np.isfinite(batch.reward).all()


# -- the epoch ---------------------------------------------------------------------------------


def test_defect_4_an_epoch_stores_every_step_it_makes(warmed_up: dict, make_idle: Callable):
    toy = make_idle(demos=False, utd_ratio=3)
    _, state = warmed_up["61 steps"]
    after, metrics = toy.epoch(state)
    assert toy.trainer.env_steps_per_epoch == 5 * NUM_ENVS
    assert toy.trainer.updates_per_epoch == 5 * 2 * 3
    assert int(after.epoch) == 1
    assert int(after.agent.step) == toy.trainer.updates_per_epoch
    assert int(after.data["online"].filled - state.data["online"].filled) == 5
    size = float(metrics["buffer/size"])
    assert size == int(toy.trainer.sources["online"].buffer.size(after.data["online"]))
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert {m.split("/")[0] for m in metrics} >= {"episode", "env", "buffer"}


def test_episode_sums_are_those_of_the_epoch(toy: Any):
    """Rows stored by an epoch say how many episodes ended in it."""
    state, _ = toy.epoch(toy.start())
    after, metrics = toy.epoch(state)
    rows = slice(int(state.data["online"].filled), int(after.data["online"].filled))
    online = jax.device_get(after.data["online"].data)
    ended = (online.terminated | online.truncated)[rows]
    assert float(metrics["episode/count"]) == int(ended.sum())


def test_defect_5_resets_are_drawn_anew_every_epoch(toy: Any):
    state = toy.start()
    pools = [state.worlds.pool.obs["x"]]
    for _ in range(2):
        state, _ = toy.epoch(state)
        pools.append(state.worlds.pool.obs["x"])
    assert len(np.unique(np.concatenate(pools)[:, 0])) == 3 * len(pools[0])


def test_an_epoch_is_a_function_of_its_state(toy: Any):
    state = toy.start()
    once, again = toy.epoch(state), toy.epoch(state)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert (np.asarray(a) == np.asarray(b)).all()


def test_defect_15_other_seeds_train_other_agents(toy: Any):
    (one, _), (two, _) = toy.epoch(toy.start(0)), toy.epoch(toy.start(1))
    kernels = [np.asarray(jax.tree.leaves(s.agent.actor.params)[-1]) for s in (one, two)]
    assert (kernels[0] != kernels[1]).any()


@pytest.fixture(scope="module")
def running(make_idle: Callable) -> tuple[Any, Callable]:
    """A toy trainer whose statistics run until step 60, and its epoch, which takes its input."""
    toy = make_idle(normalize_steps=60)
    return toy, jax.jit(toy.trainer.epoch, donate_argnums=0).lower(toy.start()).compile()


def test_the_epoch_reuses_its_input(running: tuple[Any, Callable]):
    """Donated: the ring is written in place and the old state is gone."""
    toy, epoch = running
    state = toy.start()
    rings = jax.tree.leaves((state.data["online"].data, state.data["demos"].data))
    before = [x.unsafe_buffer_pointer() for x in rings]
    after, _ = epoch(state)
    now = jax.tree.leaves((after.data["online"].data, after.data["demos"].data))
    assert [x.unsafe_buffer_pointer() for x in now] == before
    assert all(x.is_deleted() for x in rings)


def test_a_world_that_leaves_the_numbers_does_not_stop_learning(toy: Any):
    state = toy.start()
    carry = np.array(state.worlds.envs.carry)
    carry[2] = np.nan
    sick = state.worlds.envs.replace(carry=carry)
    after, metrics = toy.epoch(state.replace(worlds=state.worlds.replace(envs=sick)))
    first = int(state.data["online"].filled)
    assert float(metrics["env/nan_worlds"]) == 1.0
    valid = np.asarray(after.data["online"].data.valid)
    assert not valid[first, 2]
    assert valid[: first + 5].sum() == valid[: first + 5].size - 1
    assert bool(after.worlds.bad.seen) and int(after.worlds.bad.world) == 2
    floats = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
    remembered = jax.tree.leaves(after.worlds.bad)
    healthy = [x for x in floats if not any(x is y for y in remembered)]
    assert all(np.isfinite(x).all() for x in healthy)
    again, metrics = toy.epoch(after)
    assert float(metrics["env/nan_worlds"]) == 0.0
    assert int(again.agent.skipped) == 0


# -- action chunks -----------------------------------------------------------------------------

HORIZON = 4


@pytest.fixture(scope="module")
def chunks(make_idle: Callable) -> tuple[Any, TrainState, TrainState, dict]:
    """A toy trainer of chunks, the state before and after an epoch of 3 of them, its metrics."""
    toy = make_idle(demos=False, horizon=HORIZON, steps_per_epoch=3 * HORIZON)
    start = toy.start()
    return toy, start, *toy.epoch(start)


def test_a_world_that_ends_in_a_chunk_waits_for_its_end(chunks: tuple):
    _, start, after, metrics = chunks
    first = int(start.data["online"].filled)
    rows = jax.device_get(after.data["online"].data)
    rows = jax.tree.map(lambda x: x[first : int(after.data["online"].filled)], rows)
    assert rows.reward.shape == (3 * HORIZON, NUM_ENVS)
    ended = (rows.terminated | rows.truncated) & rows.valid
    waited, lengths = 0, []
    for t in range(0, 3 * HORIZON, HORIZON):
        for world in range(NUM_ENVS):
            over = np.flatnonzero(ended[t : t + HORIZON, world])
            last = t + int(over[0]) if len(over) else t + HORIZON - 1
            assert rows.valid[t : last + 1, world].all()
            age = rows.obs["age"][:, world, 0]
            np.testing.assert_array_equal(np.diff(age[t : last + 1]), 1.0)
            # What is seen while it waits is what the step led to: the episode is one step older.
            waiting = slice(last + 1, t + HORIZON)
            assert not rows.valid[waiting, world].any() and (rows.reward[waiting, world] == 0).all()
            np.testing.assert_array_equal(age[waiting], age[last] + 1)
            waited += HORIZON - 1 - (last - t)
            if len(over):
                lengths.append(age[last] + 1)
                if t + HORIZON < len(age):
                    assert age[t + HORIZON] == 0
    assert waited and {0, HORIZON - 1} != set(ended.nonzero()[0] % HORIZON)
    assert float(metrics["episode/count"]) == len(lengths) > 0
    assert float(metrics["episode/step_sum"]) == sum(lengths)
    assert float(metrics["env/nan_worlds"]) == 0


def test_all_worlds_are_asked_once_a_chunk_and_learn_as_often(chunks: tuple):
    toy, start, after, _ = chunks
    trainer = toy.trainer
    assert int(after.agent.step) == trainer.updates_per_epoch == 2 * 3 * HORIZON
    _, k_act = jax.random.split(start.key)
    chosen = trainer.agent.act(None, {"x": jnp.zeros((NUM_ENVS, 2))}, k_act)
    first = int(start.data["online"].filled)
    played = np.asarray(after.data["online"].data.action)[first : first + HORIZON]
    np.testing.assert_array_equal(played.swapaxes(0, 1), chosen.action)


def test_an_epoch_of_chunks_is_whole_chunks():
    agent = SACConfig(horizon=4)
    with pytest.raises(ValueError, match="steps_per_epoch 25, allowed: a multiple of 4"):
        OffPolicyConfig(agent=agent).check(num_envs=2)
    OffPolicyConfig(agent=agent, loop=LoopConfig(steps_per_epoch=24)).check(num_envs=2)


# -- statistics --------------------------------------------------------------------------------


def test_declared_scales_are_used_and_never_move(toy: Any):
    state = toy.start()
    after, _ = toy.epoch(state)
    obs = {f.name: np.full((1, *f.shape), f.scale, np.float32) for f in SPEC.fields}
    seen = jax.jit(normalize.normalize)(after.normalizer, obs)
    assert set(seen) == set(obs)
    for value in seen.values():
        np.testing.assert_allclose(value, 1.0, rtol=1e-6)
    for old, new in zip(
        jax.tree.leaves(state.normalizer), jax.tree.leaves(after.normalizer), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def moments(toy: Any, state: TrainState, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of everything seen: stored rows and valid demonstration rows."""
    seen = np.asarray(state.data["online"].data.obs["x"])[:rows].reshape(-1, 2)
    shown = np.asarray(toy.demos.obs["x"])[np.asarray(toy.demos.valid)]
    both = np.concatenate([seen, shown])
    return both.mean(0), both.var(0)


def test_running_statistics_take_in_everything_then_freeze(running: tuple[Any, Callable]):
    """30 env steps per epoch: the second epoch ends at 60, after which nothing moves."""
    toy, epoch = running
    state = toy.start()
    warm = int(state.data["online"].filled)
    for epochs in range(4):
        rows = warm + 5 * min(epochs, 2)
        mean, variance = moments(toy, state, rows)
        np.testing.assert_allclose(state.normalizer.mean["x"], mean, rtol=1e-4)
        found = state.normalizer.m2["x"] / state.normalizer.count
        np.testing.assert_allclose(found, variance, rtol=1e-3)
        shown = int(np.asarray(toy.demos.valid).sum())
        assert float(state.normalizer.count) == rows * NUM_ENVS + shown
        state, _ = epoch(state)


def test_frozen_statistics_stay_frozen_beyond_two_billion_env_steps(make_idle: Callable):
    """The count of env steps passes 2^31 where that of epochs is small, and then is negative."""
    toy = make_idle(normalize_steps=60)
    start = toy.start()
    per_epoch = toy.trainer.env_steps_per_epoch
    for epoch in (2**31 // per_epoch + 1, 3 * 2**31 // per_epoch, 2**31 - 1):
        late = start.replace(epoch=jnp.int32(epoch))
        after, _ = toy.epoch(late)
        chex.assert_trees_all_equal(after.normalizer, start.normalizer)
        assert int(after.epoch) == min(epoch + 1, 2**31 - 1)
    never = make_idle(normalize_steps=10**12)
    assert never.epoch(never.start())[0].normalizer.count > start.normalizer.count


def test_the_agent_sees_scaled_batches_and_raw_observations_alike(toy: Any):
    state = toy.start()
    batch = draw(toy, state)
    # "age" is at most 8 at a declared scale of 0.5: clipped to 10.
    assert batch.obs["age"].max() == 10.0
    obs = {"x": np.full((3, 2), 2.0, np.float32), "age": np.full((3, 1), 1.0, np.float32)}
    policy = jax.jit(trained_policy(toy.trainer, toy.trainer.policy_params(state)))
    scaled = {"x": np.full((3, 2), 0.5, np.float32), "age": np.full((3, 1), 2.0, np.float32)}
    key = jax.random.key(0)
    act = jax.jit(partial(toy.trainer.agent.act, deterministic=True))
    direct = act(state.agent, scaled, key).action[:, 0]
    np.testing.assert_allclose(policy(obs, key), direct, rtol=1e-6)


def test_bytes_of_a_state_are_counted_from_shapes_too(toy: Any):
    state = toy.start()
    ring = state.data["online"]
    assert tree_bytes(ring) == sum(x.nbytes for x in jax.tree.leaves(ring))
    assert tree_bytes(jax.eval_shape(lambda: ring)) == tree_bytes(ring)
