"""Stacked pictures: what is learned from is what was acted on, and each picture is stored once."""

import dataclasses
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv, ToyState

from mjx_serl.agents.qc import QCConfig
from mjx_serl.agents.reward_model import ViceConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.envs.observation import FEATURES, CameraView, Observer, PixelConfig
from mjx_serl.envs.stacking import by_frame, newest, pushed, repeated
from mjx_serl.envs.vector import Autoreset, vectorize
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.demonstrations import DemoConfig, demo_contract
from mjx_serl.training.episodes import episode_keys, play_episodes
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.types import Transition, choice
from robot_bridge.policy.policy import StackingPolicy
from scenes.contract.errors import InputError

SIZE, STACK, WORLDS = 4, 3, 5


@dataclasses.dataclass(frozen=True, eq=False)
class ToyView(CameraView):
    """A camera whose picture no other moment of any world has."""

    renderer: Any = dataclasses.field(
        default_factory=lambda: SimpleNamespace(
            chosen=SimpleNamespace(backend=SimpleNamespace(TRACEABLE=True))
        )
    )

    def pictures(self, worlds: Any, look: Any) -> dict[str, jax.Array]:
        """Age in all pixels, and the bits of the world's place."""
        bits = jax.lax.bitcast_convert_type(worlds.carry, jnp.uint8)  # [N, 2, 4]
        pixels = jnp.tile(bits.reshape(len(bits), -1), 2)[:, : SIZE * SIZE]
        grey = pixels.reshape(-1, SIZE, SIZE, 1)
        age = jnp.broadcast_to(worlds.t.astype(jnp.uint8)[:, None, None, None], grey.shape)
        return {"front": jnp.concatenate([grey, 255 - grey, age], axis=-1)}


class Halves:
    """A frozen encoder of two numbers."""

    shape = (2,)

    def __call__(self, pictures: dict[str, jax.Array]) -> jax.Array:
        picture = pictures["front"].astype(jnp.float32)
        return jnp.stack([picture[:, :2].mean((1, 2, 3)), picture[:, 2:].mean((1, 2, 3))], -1)


@dataclasses.dataclass(frozen=True, eq=False)
class ToyObserver(Observer):
    """Worlds that all look alike."""

    def looks(self, key: jax.Array, num: int) -> tuple:
        """Nothing to draw."""
        return ()


def toy(stack: int = STACK, *, encoder: Any = None) -> ToyObserver:
    pixels = PixelConfig(cameras=("front",), size=SIZE, stack=stack)
    return ToyObserver(ToyEnv(), ToyView(pixels, encoder=encoder))


# -- the stack itself ------------------------------------------------------------------------------


def test_a_stack_is_a_queue_that_an_episode_s_start_fills() -> None:
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 256, (9, WORLDS, 2, 3)).astype(np.uint8)
    fresh = draw.random((9, WORLDS)) < 0.3
    stacked = repeated(jnp.asarray(frames[0]), STACK)
    queues = [deque([frame] * STACK, STACK) for frame in frames[0]]
    for t in range(1, 9):
        stacked = pushed(stacked, jnp.asarray(frames[t]), jnp.asarray(fresh[t]))
        for w, queue in enumerate(queues):
            queue.extend([frames[t, w]] * (STACK if fresh[t, w] else 1))
        np.testing.assert_array_equal(stacked, [np.concatenate([*q], -1) for q in queues])
        np.testing.assert_array_equal(newest(stacked, STACK), frames[t])


def test_an_encoder_reads_each_picture_of_a_stack() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 9)).astype(np.uint8)
    seen = by_frame(Halves(), {"front": jnp.asarray(pictures)}, 3)
    apart = [Halves()({"front": jnp.asarray(x)}) for x in np.split(pictures, 3, axis=-1)]
    np.testing.assert_array_equal(seen, np.concatenate(apart, axis=-1))


def test_the_bridge_s_policy_is_shown_the_same() -> None:
    asked: list[dict[str, np.ndarray]] = []

    class Asked:
        def reset(self) -> None:
            asked.append({})

        def act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
            if obs["front"][..., -3:].max() == 0:
                raise InputError("black")
            asked.append(obs)
            return np.zeros((1, 2), np.float32)

    policy = StackingPolicy(Asked(), ["front"], STACK)
    draw = np.random.default_rng(2)
    for length in (1, 2, 6):
        policy.reset()
        stacked = None
        for t in range(length):
            frame = draw.integers(1, 256, (2, 2, 3)).astype(np.uint8)
            policy.act({"front": frame, "arm": np.float32([t])})
            one = jnp.asarray(frame)[None]
            if stacked is None:
                stacked = repeated(one, STACK)
            else:
                stacked = pushed(stacked, one, jnp.array([False]))
            np.testing.assert_array_equal(asked[-1]["front"], stacked[0])
            assert asked[-1]["arm"] == t
            with pytest.raises(InputError):  # and what was refused is not remembered
                policy.act({"front": np.zeros_like(frame), "arm": np.float32([t])})


# -- the ring --------------------------------------------------------------------------------------


def rows_of(time: np.ndarray, draw: np.random.Generator) -> Transition:
    """Rows [T, WORLDS] that say which they are; some end, some must not be learned from."""
    lead = (len(time), WORLDS)
    which = np.stack([np.broadcast_to(time[:, None], lead), np.broadcast_to(range(WORLDS), lead)])
    terminated, cut = draw.random(lead) < 0.1, draw.random(lead) < 0.1
    return Transition(
        obs={"front": which.transpose(1, 2, 0).astype(np.int32)},
        action=np.zeros((*lead, 1), np.float32),
        reward=np.zeros(lead, np.float32),
        terminated=terminated,
        truncated=cut & ~terminated,
        valid=draw.random(lead) < 0.8,
        expert=np.zeros(lead, bool),
    )


@pytest.mark.parametrize(("capacity", "chunk", "n_step"), [(16, 1, 1), (11, 3, 2), (64, 5, 1)])
def test_samples_are_what_a_queue_per_world_holds(capacity: int, chunk: int, n_step: int) -> None:
    draw = np.random.default_rng(capacity)
    buffer = ReplayBuffer(capacity, WORLDS, stack=STACK, stacked=("front",))
    add = jax.jit(buffer.add)
    queues: list[deque] = [deque(maxlen=STACK) for _ in range(WORLDS)]
    seen: dict[tuple[int, int], np.ndarray] = {}
    ages: dict[tuple[int, int], int] = {}
    kept: list[Transition] = []
    state = buffer.init(jax.tree.map(lambda x: x[0, 0], rows_of(np.arange(1), draw)))
    for start in range(0, 40, chunk):
        rows = rows_of(np.arange(start, start + chunk), draw)
        state, kept = add(state, rows), [*kept, rows]
        for t in range(chunk):
            for w, queue in enumerate(queues):
                frame = rows.obs["front"][t, w]
                ages[start + t, w] = len(queue)
                queue.extend([frame] * (1 if queue else STACK))
                seen[start + t, w] = np.concatenate([*queue])
                if rows.terminated[t, w] or rows.truncated[t, w]:
                    queue.clear()
    batch = jax.jit(partial(buffer.sample, batch_shape=4000, n_step=n_step))(
        state, jax.random.key(0)
    )
    batch, drawn = jax.device_get(batch), set()
    samples = zip(batch.obs["front"], batch.next_obs["front"], batch.terminated, strict=True)
    for row, after, ended in samples:
        t, w = row[-2:]
        np.testing.assert_array_equal(row, seen[t, w])
        if not ended:
            np.testing.assert_array_equal(after, seen[t + n_step, w])
        drawn.add((int(t), int(w)))
    if n_step == 1:
        every = jax.tree.map(lambda *x: np.concatenate(x), *kept)
        assert int(buffer.size(state)) == len(drawn) == _usable(every, seen, capacity)


def _usable(rows: Transition, seen: dict, capacity: int) -> int:
    """Transitions whose pictures, and whose successor's, are all still in the ring."""
    last, count = len(rows.valid) - 1, 0
    for t in range(max(0, last + 1 - capacity), last + 1):
        for w in range(WORLDS):
            oldest = seen[t, w][0]
            fits = oldest > last - capacity and (t < last or rows.terminated[t, w])
            count += bool(fits and rows.valid[t, w] and not rows.truncated[t, w])
    return count


def test_a_ring_of_single_pictures_is_as_it_was() -> None:
    rows = rows_of(np.arange(1), np.random.default_rng(0))
    state = ReplayBuffer(8, WORLDS).init(jax.tree.map(lambda x: x[0, 0], rows))
    assert state.before == () and len(jax.tree.leaves(state)) == 3 + 7


# -- acting and learning ---------------------------------------------------------------------------


@pytest.mark.parametrize("autoreset, encoder", [("pool", None), ("never", Halves())])
def test_what_is_learned_from_is_what_was_acted_on(autoreset: Autoreset, encoder: Any) -> None:
    observer = toy(encoder=encoder)
    name = "front" if encoder is None else FEATURES
    vec_env = vectorize(observer, num_envs=WORLDS, autoreset=autoreset, stagger=True)
    buffer = ReplayBuffer(40, WORLDS, stack=observer.stack, stacked=observer.stacked)

    @jax.jit
    def step(state: Any, key: jax.Array) -> Any:
        action = jax.random.uniform(key, (WORLDS, 2))
        after, row, last = vec_env.advance(state, choice(action))
        seen = (vec_env.observe(state), vec_env.observe_last(last, state))
        return vec_env.draw(after), row, seen

    state = vec_env.reset(jax.random.key(1))
    rows, acted, led = [], [], []
    for t in range(60):
        state, row, (before, after) = step(state, jax.random.key(t))
        rows.append(row)
        acted.append(np.asarray(before[name]))
        led.append(np.asarray(after[name]))
    steps = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    assert steps.obs[name].shape[-1] * STACK == acted[0].shape[-1], "stored once"
    assert steps.terminated.sum() > 5 < steps.truncated.sum()
    ring = buffer.init(jax.tree.map(lambda x: x[0, 0], steps))
    for first in range(0, 60, 20):
        ring = buffer.add(ring, jax.tree.map(lambda x, f=first: x[f : f + 20], steps))
    batch = jax.jit(partial(buffer.sample, batch_shape=2000))(ring, jax.random.key(2))
    # Steps are told apart by where their worlds were and what was done.
    index = {
        np.concatenate([steps.obs["x"][t, w], steps.action[t, w]]).tobytes(): (t, w)
        for t in range(60)
        for w in range(WORLDS)
    }
    found = np.concatenate([batch.obs["x"], batch.action], axis=-1)
    checked = 0
    for i, key in enumerate(found):
        t, w = index[key.tobytes()]
        np.testing.assert_array_equal(batch.obs[name][i], acted[t][w])
        if not batch.terminated[i]:
            np.testing.assert_array_equal(batch.next_obs[name][i], led[t][w])
            checked += 1
    assert checked > 1000


def test_episodes_and_demonstrations_see_and_keep_the_same() -> None:
    observer = toy()
    keys = episode_keys(jax.random.key(3), episodes=WORLDS, steps=STEPS)
    asked = []

    def act(worlds: ToyState, pictures: dict, key: jax.Array) -> jax.Array:
        asked.append(observer.observe(worlds, pictures)["front"].shape)
        return jnp.full((WORLDS, 2), 0.5)

    play = jax.jit(lambda keys: play_episodes(observer, act, keys, keep=lambda step: step.pictures))
    shown = np.asarray(play(keys)[1]["front"])
    assert asked[0] == (WORLDS, SIZE, SIZE, 3 * STACK)
    frames = shown[..., -3:]
    for t in range(STEPS):
        want = [frames[max(0, t - back)] for back in reversed(range(STACK))]
        np.testing.assert_array_equal(shown[t], np.concatenate(want, axis=-1))
    rows, _ = jax.jit(lambda key: demonstrate(observer, key, episodes=WORLDS, noise=0.0))(
        jax.random.key(3)
    )
    assert rows.obs["front"].shape == (STEPS, WORLDS, SIZE, SIZE, 3)
    assert demo_contract(observer) == demo_contract(toy(1)), "a file serves every stack"


def config(**changes: Any) -> OffPolicyConfig:
    fields: dict[str, Any] = {
        "agent": SACConfig(hidden=(8,)),
        "loop": LoopConfig(
            batch_size=8, updates_per_step=1, steps_per_epoch=3, warmup_steps=40, buffer_size=100,
            normalize_steps=60,
        ),
        "demos": DemoConfig(count=0),
    }  # fmt: skip
    return OffPolicyConfig(**(fields | changes))


def test_a_learner_of_stacked_features_scales_each_slot_alike() -> None:
    observer = toy(encoder=Halves())
    trainer = config().build(observer, num_envs=WORLDS)
    state = trainer.init(jax.random.key(0))
    mean = np.asarray(state.normalizer.mean[FEATURES])
    assert mean.shape == (2 * STACK,) and np.ptp(mean.reshape(STACK, 2), axis=0).max() == 0.0
    state, metrics = jax.jit(trainer.epoch)(state)
    assert np.isfinite(metrics["learner/critic_loss"])
    assert state.data["online"].data.obs[FEATURES].shape[-1] == 2


# -- what does not go together ---------------------------------------------------------------------


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(InputError, match="pixels.stack 2 without cameras, allowed: 1"):
        PixelConfig(stack=2)
    with pytest.raises(InputError, match="pixels.stack 17"):
        PixelConfig(cameras=("front",), stack=17)
    chunks = config(agent=QCConfig(hidden=(8,), horizon=3))
    with pytest.raises(InputError, match="--pixels.stack 3 with an agent with horizon 3"):
        chunks.build(toy(), num_envs=WORLDS)
    vice = config(vice=ViceConfig(updates=1), demos=DemoConfig(count=1))
    with pytest.raises(InputError, match="--pixels.stack 3 with --vice.updates"):
        vice.build(toy(), num_envs=WORLDS)
