"""The ring: successors, wrap-around, what may be sampled, dtypes, mixtures.

Defects are those of reference serl_family.md section 7.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.data.replay import Mixture, ReplayBuffer, ReplayState, mix
from mjx_serl.types import Batch, Transition

NUM_ENVS = 3
PIXELS = np.arange(12).reshape(2, 2, 3)  # no two of a picture are alike


def example() -> Transition:
    return Transition(
        obs={"image": np.zeros((2, 2, 3), np.uint8), "state": np.zeros(2, np.float32)},
        action=np.zeros(1, np.float32),
        reward=np.float32(0),
        terminated=np.bool_(False),
        truncated=np.bool_(False),
        valid=np.bool_(True),
        expert=np.bool_(False),
    )


def steps(start: int, count: int, *, flags: dict[str, set] | None = None) -> Transition:
    """Rows start..start+count whose every leaf names its (time, world); flags mark some."""
    time, world = np.meshgrid(np.arange(start, start + count), np.arange(NUM_ENVS), indexing="ij")
    flags = flags or {}

    def mark(name: str) -> np.ndarray:
        marked = flags.get(name, set())
        return np.array(
            [[(t, w) in marked for w in range(NUM_ENVS)] for t in range(start, start + count)]
        )

    image = PIXELS + (time * NUM_ENVS + world)[..., None, None, None]
    return Transition(
        obs={
            "image": (image % 256).astype(np.uint8),
            "state": np.stack([time, world], -1).astype(np.float32),
        },
        action=(time * 10 + world).astype(np.float32)[..., None],
        reward=(time * 100 + world).astype(np.float32),
        terminated=mark("terminated"),
        truncated=mark("truncated"),
        valid=~mark("invalid"),
        expert=mark("expert"),
    )


def fill(rows: int, capacity: int, chunk: int, **flags: set) -> tuple[ReplayBuffer, ReplayState]:
    buffer = ReplayBuffer(capacity, NUM_ENVS)
    state = compiled(buffer, "init")(example())
    add = compiled(buffer, "add")
    for start in range(0, rows, chunk):
        state = add(state, steps(start, min(chunk, rows - start), flags=flags))
    return buffer, state


@functools.cache
def compiled(buffer: ReplayBuffer | Mixture, method: str, **options: Any) -> Callable:
    """A method under jit; equal buffers share its programs."""
    return jax.jit(functools.partial(getattr(buffer, method), **options))


def sample(
    buffer: ReplayBuffer | Mixture, state: Any, key: jax.Array, shape: Any, **options: Any
) -> Batch:
    """A batch as numpy."""
    draw = compiled(buffer, "sample", batch_shape=shape, **options)
    return jax.device_get(draw(state, key))


@pytest.mark.parametrize("rows, capacity, chunk", [(5, 8, 1), (8, 8, 4), (21, 8, 1), (23, 7, 3)])
def test_defects_1_2_3_a_sample_is_one_world_and_consecutive_steps(
    rows: int, capacity: int, chunk: int
) -> None:
    buffer, state = fill(rows, capacity, chunk)
    batch = sample(buffer, state, jax.random.key(0), (4, 500))
    time, world = np.asarray(batch.obs["state"]).reshape(-1, 2).T
    assert np.array_equal(np.asarray(batch.reward).ravel(), time * 100 + world)
    assert np.array_equal(np.asarray(batch.action).ravel(), time * 10 + world)
    told = PIXELS + (time * 3 + world).astype(int)[:, None, None, None]
    assert np.array_equal(np.asarray(batch.obs["image"]).reshape(-1, 2, 2, 3), told % 256)
    after = np.asarray(batch.next_obs["state"]).reshape(-1, 2)
    assert np.array_equal(after, np.stack([time + 1, world], -1))
    image = np.asarray(batch.next_obs["image"]).reshape(-1, 2, 2, 3)
    assert np.array_equal(image, (told + 3) % 256)
    # every stored row but the newest, and nothing that was overwritten
    oldest = max(0, rows - capacity)
    assert set(time.astype(int)) == set(range(oldest, rows - 1))
    assert int(compiled(buffer, "size")(state)) == (rows - 1 - oldest) * NUM_ENVS


def test_sampling_is_uniform() -> None:
    buffer, state = fill(9, 9, 3, truncated={(2, 0), (5, 1)}, invalid={(1, 1), (4, 2)})
    batch = sample(buffer, state, jax.random.key(0), 60_000)
    time, world = np.asarray(batch.obs["state"], int).T
    counts = np.bincount(time * NUM_ENVS + world, minlength=27).reshape(9, 3)
    open_rows = counts[counts > 0]
    assert open_rows.size == 24 - 4
    expected = 60_000 / 20
    chi2 = np.sum((open_rows - expected) ** 2 / expected)
    assert chi2 < 43.8  # 99.9 % quantile with 19 degrees of freedom


def test_truncated_and_invalid_rows_are_never_sampled() -> None:
    truncated, invalid = {(3, 0), (9, 2), (12, 1)}, {(4, 1), (10, 0), (11, 0)}
    buffer, state = fill(14, 6, 2, truncated=truncated, invalid=invalid)
    batch = sample(buffer, state, jax.random.key(1), 5_000)
    seen = {(int(t), int(w)) for t, w in np.asarray(batch.obs["state"])}
    allowed = {(t, w) for t in range(8, 13) for w in range(NUM_ENVS)}
    assert seen == allowed - truncated - invalid
    assert int(compiled(buffer, "size")(state)) == len(seen)


def test_newest_row_is_sampled_only_if_terminated() -> None:
    buffer, state = fill(4, 8, 1, terminated={(3, 1)})
    batch = sample(buffer, state, jax.random.key(0), 2_000)
    newest = np.asarray(batch.obs["state"])[np.asarray(batch.obs["state"])[:, 0] == 3]
    assert set(newest[:, 1]) == {1}
    assert np.isfinite(batch.next_obs["state"]).all()
    assert int(compiled(buffer, "size")(state)) == 3 * NUM_ENVS + 1


def test_the_expert_flag_travels_with_its_row() -> None:
    buffer, state = fill(6, 8, 1, expert={(1, 2), (3, 0)})
    batch = sample(buffer, state, jax.random.key(0), 2_000)
    seen = np.asarray(batch.obs["state"])[np.asarray(batch.expert)]
    assert {(int(t), int(w)) for t, w in seen} == {(1, 2), (3, 0)}


def test_terminated_travels_with_its_row() -> None:
    buffer, state = fill(6, 8, 1, terminated={(2, 0), (4, 2)})
    batch = sample(buffer, state, jax.random.key(0), 2_000)
    seen = np.asarray(batch.obs["state"])[np.asarray(batch.terminated)]
    assert {(int(t), int(w)) for t, w in seen} == {(2, 0), (4, 2)}


def test_dtypes_are_kept_and_bytes_are_told() -> None:
    buffer, state = fill(3, 8, 1)
    assert state.data.obs["image"].dtype == jnp.uint8
    batch = sample(buffer, state, jax.random.key(0), 4)
    assert batch.obs["image"].dtype == batch.next_obs["image"].dtype == jnp.uint8
    assert batch.terminated.dtype == jnp.bool_
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert buffer.nbytes(example()) == held
    per_row = 12 + 8 + 4 + 4 + 4  # image, state, action, reward, four flags
    assert held == per_row * 8 * NUM_ENVS + 3 * 4


def test_few_usable_rows_are_found_and_none_does_not_hang() -> None:
    bad = {(t, w) for t in range(40) for w in range(NUM_ENVS)} - {(17, 2), (30, 0)}
    buffer, state = fill(40, 40, 8, invalid=bad)
    batch = sample(buffer, state, jax.random.key(0), 256)
    assert {(int(t), int(w)) for t, w in np.asarray(batch.obs["state"])} == {(17, 2), (30, 0)}
    empty = compiled(buffer, "init")(example())
    assert int(compiled(buffer, "size")(empty)) == 0
    assert sample(buffer, empty, jax.random.key(0), 8).reward.shape == (8,)


def test_every_usable_row_is_as_likely_where_almost_none_is_usable() -> None:
    """Twenty of a thousand rows, as of demonstrations under a long time limit.

    One of them was 28 % of a batch when the rest of what 64 rounds had not found repeated it.
    """
    usable = {(50 * t, 0) for t in range(20)}
    bad = {(t, w) for t in range(1000) for w in range(NUM_ENVS)} - usable
    buffer, state = fill(1000, 1000, 200, invalid=bad)
    rows = np.asarray(sample(buffer, state, jax.random.key(0), 8000).obs["state"])[:, 0]
    seen, counts = np.unique(rows, return_counts=True)
    assert seen.tolist() == [50 * t for t in range(20)]
    # 400 each, one deviation 20.
    assert counts.min() > 320 and counts.max() < 480


def test_sampling_is_one_gather_per_leaf_and_adding_is_in_place() -> None:
    buffer, state = fill(6, 8, 1)
    jaxpr = jax.make_jaxpr(lambda s, k: buffer.sample(s, k, (7, 16)))(state, jax.random.key(0))
    gathers = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "gather"]
    big = [eqn for eqn in gathers if eqn.outvars[0].aval.shape[:1] == (7 * 16,)]
    assert len(big) == 2 * 2 + 4  # each obs twice, action, reward, terminated, expert
    pointer = state.data.obs["image"].unsafe_buffer_pointer()
    added = jax.jit(buffer.add, donate_argnums=0)(state, steps(6, 1))
    assert added.data.obs["image"].unsafe_buffer_pointer() == pointer


def test_mix_keeps_shares_in_every_batch() -> None:
    online, online_state = fill(6, 8, 1)
    demo, demo_state = fill(6, 8, 1)
    demo_state = demo_state.replace(
        data=demo_state.data.replace(reward=-np.ones((8, NUM_ENVS), np.float32))
    )
    mixture = mix((0.5, 0.5), (online, demo))
    batch = sample(mixture, (online_state, demo_state), jax.random.key(0), (5, 16))
    assert batch.obs["image"].shape == (5, 16, 2, 2, 3)
    assert np.array_equal((np.asarray(batch.reward) < 0).sum(axis=1), [8] * 5)
    assert mix((0.3, 0.7), (online, demo)).shares(15) == [4, 11]
    assert sum(mix((1 / 3, 1 / 3, 1 / 3), (online,) * 3).shares(256)) == 256
    only = sample(mix((1.0, 0.0), (online, demo)), (online_state, demo_state), jax.random.key(0), 8)
    assert only.reward.shape == (8,) and (only.reward >= 0).all()


def test_the_row_after_is_found_in_a_buffer_just_below_two_to_the_31() -> None:
    buffer = ReplayBuffer((2**31 - 1) // 1000, 1000)
    size = buffer.capacity_rows * 1000
    index = jnp.array([0, size - 2001, size - 1001, size - 1], jnp.int32)
    assert buffer._later(index, 2).tolist() == [2000, size - 1, 999, 1999]
    assert buffer._later(index, 0).tolist() == index.tolist()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"allowed: < 2\^31 transitions, so at most 2097151 rows"):
        ReplayBuffer(3_000_000, 1024)
    with pytest.raises(ValueError, match="capacity_rows 1"):
        ReplayBuffer(1, 4)
    buffer = ReplayBuffer(4, NUM_ENVS)
    state = buffer.init(example())
    with pytest.raises(ValueError, match="add: 5 rows, allowed: <= capacity_rows 4"):
        buffer.add(state, steps(0, 5))
    wrong = steps(0, 1)
    wrong = wrong.replace(obs=wrong.obs | {"image": wrong.obs["image"].astype(np.float32)})
    with pytest.raises(ValueError, match=r"image.*float32.*allowed: uint8"):
        buffer.add(state, wrong)
    with pytest.raises(ValueError, match="summing to 1"):
        mix((0.5, 0.6), (buffer, buffer))


def spans(batch: Batch) -> list[tuple[int, float, bool, int]]:
    """(row, reward, terminated, row of next_obs) of each sample."""
    first, after = np.asarray(batch.obs["state"])[:, 0], np.asarray(batch.next_obs["state"])[:, 0]
    reward, ended = np.asarray(batch.reward), np.asarray(batch.terminated)
    return list(zip(first.astype(int), reward, ended, after.astype(int), strict=True))


def test_defect_22_a_span_sums_discounted_rewards_up_to_a_termination() -> None:
    buffer, state = fill(12, 16, 1, terminated={(5, 0), (5, 1), (5, 2)})
    reward = np.arange(16, dtype=np.float32)[:, None].repeat(NUM_ENVS, 1)
    state = state.replace(data=state.data.replace(reward=reward))
    batch = sample(buffer, state, jax.random.key(0), 2_000, n_step=3, gamma=0.5)
    seen = {}
    for row, total, ended, after in spans(batch):
        seen[row] = (total, ended)
        assert ended or after == row + 3
    # 4 + 5/2, then the end; 6 + 7/2 + 8/4; the last span that has a successor starts at row 8.
    assert seen[4] == (6.5, True) and seen[5] == (5.0, True) and seen[6] == (11.5, False)
    assert set(seen) == set(range(9))


def test_a_span_is_never_cut_by_a_time_out_or_a_bad_row() -> None:
    buffer, state = fill(12, 16, 1, truncated={(4, 1)}, invalid={(8, 0)})
    batch = sample(buffer, state, jax.random.key(1), 4_000, n_step=3)
    rows = {tuple(x) for x in np.asarray(batch.obs["state"], int)}
    assert not rows & {(2, 1), (3, 1), (4, 1), (6, 0), (7, 0), (8, 0)}
    assert {(1, 1), (5, 1), (5, 0), (9 - 1, 2)} <= rows


# -- reward models and extras ------------------------------------------------------------------


def test_a_reward_model_is_asked_for_every_row_before_they_are_summed() -> None:
    """Rows pay their own time: a span of three from t sums t, t + 1 and t + 2."""
    buffer, state = fill(20, 24, 1)
    gamma = 0.5
    batch = sample(buffer, state, jax.random.key(0), 200, n_step=3, gamma=gamma,
        reward_of=lambda row: row.next_obs["state"][:, 0] + 0.0 * row.reward,
    )  # fmt: skip
    time = np.asarray(batch.obs["state"])[:, 0]
    want = sum(gamma**k * (time + k + 1) for k in range(3))
    np.testing.assert_allclose(batch.reward, want, rtol=1e-6)


def test_a_reward_model_sees_what_was_paid_and_what_ended() -> None:
    buffer, state = fill(20, 24, 1, terminated={(5, 0)})
    paid = sample(buffer, state, jax.random.key(0), 500, n_step=2, gamma=1.0,
        reward_of=lambda row: jnp.where(row.terminated, 1e6, row.reward),
    )  # fmt: skip
    stored = sample(buffer, state, jax.random.key(0), 500, n_step=2, gamma=1.0)
    last = np.asarray(stored.terminated)
    assert last.any() and (np.asarray(paid.reward)[last] >= 1e6).all()
    np.testing.assert_array_equal(paid.reward[~last], stored.reward[~last])


def test_extras_come_with_their_rows_and_only_shared_ones_with_a_mixture() -> None:
    buffer = ReplayBuffer(12, NUM_ENVS)
    rows = steps(0, 10)
    stage = {"stage": rows.reward.astype(np.int32)}
    value = {"value": rows.reward * 2.0}
    init, add = compiled(buffer, "init"), compiled(buffer, "add")
    both = add(
        init(example().replace(extras={"stage": np.int32(0), "value": np.float32(0)})),
        rows.replace(extras=stage | value),
    )
    one = add(init(example().replace(extras={"stage": np.int32(0)})), rows.replace(extras=stage))
    batch = sample(buffer, both, jax.random.key(0), 100, n_step=2)
    np.testing.assert_array_equal(batch.extras["value"], 2.0 * batch.extras["stage"])
    mixed = sample(mix((0.5, 0.5), (buffer, buffer)), (both, one), jax.random.key(0), 100)
    assert set(mixed.extras) == {"stage"} and mixed.extras["stage"].shape == (100,)


# -- action chunks -----------------------------------------------------------------------------

CHUNK, SPAN = 3, 4


@pytest.mark.parametrize("rows", [30, 50])
def test_chunks_are_what_a_loop_over_one_world_finds(rows: int) -> None:
    """Random ends in a ring before and after it wraps: each sample against a plain loop."""
    rng, capacity, gamma = np.random.default_rng(rows), 32, 0.5
    cells = [(t, w) for t in range(rows) for w in range(NUM_ENVS)]
    marks = rng.choice(4, len(cells), p=[0.76, 0.12, 0.06, 0.06])
    names = (None, "terminated", "truncated", "invalid")
    flags = {
        name: {cell for cell, mark in zip(cells, marks, strict=True) if names[mark] == name}
        for name in names[1:]
    }
    buffer, state = fill(rows, capacity, 2, **flags)
    batch = sample(buffer, state, jax.random.key(0), 3_000, n_step=SPAN, gamma=gamma, horizon=CHUNK)
    time, world = np.asarray(batch.obs["state"], int).T
    seen = set()
    for i, (t, w) in enumerate(zip(time, world, strict=True)):
        ends = [k for k in range(SPAN) if (t + k, w) in flags["terminated"]]
        taken = ends[0] + 1 if ends else SPAN
        span = {(t + k, w) for k in range(taken)}
        assert not span & (flags["truncated"] | flags["invalid"])
        assert t + taken <= rows - (not ends)  # of what is stored, its successor too
        paid = [gamma**k * ((t + k) * 100 + w) for k in range(taken)]
        np.testing.assert_allclose(batch.reward[i], sum(paid), rtol=1e-5)
        assert bool(batch.terminated[i]) == bool(ends)
        np.testing.assert_array_equal(batch.running[i], np.arange(CHUNK) < taken)
        for k in range(min(taken, CHUNK)):
            assert batch.action[i, k] == (t + k) * 10 + w
        if not ends:
            np.testing.assert_array_equal(batch.next_obs["state"][i], (t + SPAN, w))
        seen.add((int(t), int(w), taken))
    assert {taken for *_, taken in seen} == set(range(1, SPAN + 1))


def test_chunks_are_drawn_as_spans_of_single_actions_are() -> None:
    """The same key draws the same rows: a chunk's first action and its span are today's sample."""
    buffer, state = fill(14, 16, 2, terminated={(5, 0)})
    key = jax.random.key(0)
    chunk = sample(buffer, state, key, 64, n_step=SPAN, horizon=CHUNK)
    single = sample(buffer, state, key, 64, n_step=SPAN)
    assert single.running is None
    first = chunk.replace(action=chunk.action[:, :1], running=None)
    jax.tree.map(np.testing.assert_array_equal, first, single)
    with pytest.raises(ValueError, match="horizon 3, allowed: 1 to n_step 2"):
        buffer.sample(state, key, 8, n_step=2, horizon=3)


# -- what an expert did ------------------------------------------------------------------------


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("rows", [7, 23])
def test_what_experts_did_is_counted_and_drawn_alone(rows: int, n_step: int) -> None:
    """Beside the rule of `sample` itself, asked slot by slot, in a ring that wraps or does not."""
    draw = np.random.default_rng(rows)
    spots = [(t, w) for t in range(rows) for w in range(NUM_ENVS)]
    kinds = ("expert", "invalid", "terminated", "truncated")
    flags = {
        kind: {spots[i] for i in np.flatnonzero(draw.random(len(spots)) < share)}
        for kind, share in zip(kinds, (0.4, 0.1, 0.1, 0.1), strict=True)
    }
    flags["truncated"] -= flags["terminated"]
    buffer, state = fill(rows, 10, 4, **flags)
    every = jnp.arange(10 * NUM_ENVS)
    usable = np.asarray(buffer._usable(state, every, n_step))
    filled = np.repeat(np.arange(10) < int(state.filled), NUM_ENVS)
    want = usable & filled & np.asarray(state.data.expert).reshape(-1)
    among = buffer.experts(state, n_step=n_step)
    np.testing.assert_array_equal(np.diff(np.asarray(among), prepend=0), want)
    batch = buffer.sample(state, jax.random.key(0), 300, n_step=n_step, among=among)
    seen = {tuple(row) for row in np.asarray(batch.obs["state"]).tolist()}
    states = np.asarray(state.data.obs["state"]).reshape(-1, 2)
    assert seen == {tuple(row) for row in states[want].tolist()}
