"""A classifier pays and ends episodes by the picture of the state that the action answers."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv, ToyState

from mjx_serl.envs.judge import VERDICT, Judge, Judged, RewardConfig
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.vector import clear_stats, vectorize
from mjx_serl.training.episodes import EpisodeResult, episode_keys, play_episodes
from mjx_serl.types import Obs


@dataclasses.dataclass(frozen=True)
class Sees:
    """A classifier whose first entry of a picture is the probability of success."""

    thresholds: tuple[float, ...] = (0.7,)

    def __call__(self, pictures: Obs) -> jax.Array:
        return pictures["front"][:, :1]


def worlds(**fields: Any) -> ToyState:
    """Worlds one after the other, which nothing has ended."""
    num = len(next(iter(fields.values())))
    blank = jax.vmap(ToyEnv().reset)(jax.random.split(jax.random.key(0), num))
    return blank.replace(**{name: jnp.asarray(x) for name, x in fields.items()})


def judged(judge: Judge, verdict: Any, before: ToyState, after: ToyState, reached: Any = None):
    memory = judge.start(after.t.shape[0])
    if reached is not None:
        memory = memory.replace(reached=jnp.asarray(reached))
    return judge(memory, before, {VERDICT: jnp.asarray(verdict)}, after)


# Four worlds: called solved and solved, called solved and not, neither, solved and not called so.
VERDICTS = [[0.7], [0.9], [0.69], [0.1]]
BEFORE = {"success": [True, False, False, True]}


def test_a_verdict_pays_and_ends_and_the_truth_is_that_of_the_state_it_judged():
    after = worlds(success=[True, True, False, True], terminated=[True, True, False, True])
    memory, after, done = judged(Judge(ToyEnv(), Sees()), VERDICTS, worlds(**BEFORE), after)
    np.testing.assert_array_equal(done, [True, True, False, False])
    np.testing.assert_array_equal(after.reward, [1, 1, 0, 0])
    np.testing.assert_array_equal(after.terminated, [True, True, False, False])
    # The second was called solved one step too early: the step after it does not count.
    np.testing.assert_array_equal(after.success, [True, False, False, True])
    assert (int(memory.successes), int(memory.false_positives)) == (2, 1)


def test_a_verdict_may_only_pay_or_only_end():
    after = worlds(success=[True] * 4, terminated=[True] * 4, reward=[0.5] * 4)
    _, paid, _ = judged(Judge(ToyEnv(), Sees(), use="reward"), VERDICTS, worlds(**BEFORE), after)
    np.testing.assert_array_equal(paid.reward, [1, 1, 0, 0])
    np.testing.assert_array_equal(paid.terminated, BEFORE["success"])
    judge = Judge(ToyEnv(), Sees(), use="termination")
    _, ended, _ = judged(judge, VERDICTS, worlds(**BEFORE), after)
    np.testing.assert_array_equal(ended.reward, [0.5] * 4)
    np.testing.assert_array_equal(ended.terminated, [True, True, False, False])


def test_a_lost_world_ends_and_a_time_out_is_no_termination():
    after = worlds(terminated=[True, False, False], success=[False] * 3, t=[3, STEPS, STEPS - 1])
    before = worlds(success=[False] * 3)
    for judge in (Judge(ToyEnv(), Sees()), Judge(ToyEnv())):
        memory, ended, _ = judged(judge, [[0.0]] * 3, before, after, reached=[0, 0, 0])
        np.testing.assert_array_equal(ended.terminated, [True, False, False])
        np.testing.assert_array_equal(ended.truncated, [False, True, False])
        assert not ended.reward.any() and int(memory.successes) == 0


def test_without_a_classifier_nobody_is_told_of_success():
    after = worlds(terminated=[True], success=[True], reward=[1.0])
    _, ended, done = judged(Judge(ToyEnv()), [[1.0]], worlds(success=[True]), after)
    assert not ended.terminated.any() and not ended.reward.any() and not done.any()


def test_stages_count_in_order_and_each_once():
    """The second of three stages seen, with none, one and two reached before."""
    judge = Judge(ToyEnv(), Sees(thresholds=(0.5, 0.5, 0.5)))
    seen = [[0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]]
    none = worlds(success=[False] * 5)
    memory, after, done = judged(judge, seen, none, none, reached=[0, 1, 2, 1, 2])
    np.testing.assert_allclose(after.reward, np.array([0, 1, 0, 2, 1]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(done, [False, False, False, True, True])
    # Episodes that are over begin at none again.
    np.testing.assert_array_equal(memory.reached, [0, 2, 2, 0, 0])


def test_what_the_arm_measures_can_be_asked_too():
    task = SimpleNamespace(episode_steps=STEPS, plausible=lambda sim, command, state: state > 0.0)
    env: Any = SimpleNamespace(task=task, name="toy")
    judge = RewardConfig(geometric=True).build(env, Sees())
    before = worlds(success=[True, True], task_state=[1.0, -1.0])
    _, _, done = judged(judge, [[0.9], [0.9]], before, before)
    np.testing.assert_array_equal(done, [True, False])
    with pytest.raises(ValueError, match="--reward.geometric with 'toy', which has no test"):
        RewardConfig(geometric=True).build(ToyEnv(), Sees())
    assert RewardConfig().build(env, None) is None


# -- in the loop ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Shows:
    """A camera whose picture is the world's age as a share of its episode's planned end."""

    config: PixelConfig = dataclasses.field(default_factory=lambda: PixelConfig(cameras=("front",)))

    def pictures(self, worlds: ToyState, look: tuple) -> Obs:
        age = worlds.t / jnp.maximum(worlds.end, 1)
        return {"front": age[:, None] * jnp.ones(2)}

    def encoded(self, pictures: Obs) -> Obs:
        return pictures

    def observe(self, worlds: ToyState, look: tuple) -> Obs:
        return self.encoded(self.pictures(worlds, look))


@dataclasses.dataclass(frozen=True, eq=False)
class ToyObserver(Observer):
    traceable: bool = True  # pyright: ignore

    def looks(self, key: jax.Array, num: int) -> tuple:
        return ()

    @property
    def obs_spec(self) -> Any:
        return SimpleNamespace(names=("x", "age", "front"))


def observer(threshold: float) -> ToyObserver:
    env = ToyEnv()
    return ToyObserver(env, Shows(), judge=Judge(env, Sees((threshold,))))


@pytest.mark.parametrize("threshold", [1.0, 0.6])
def test_episodes_go_on_to_the_picture_that_is_judged(threshold: float):
    """1 is the picture of the planned end, 0.6 an earlier one; worlds that fail end unjudged."""
    vec_env = vectorize(observer(threshold), num_envs=6)
    state = jax.jit(vec_env.reset)(jax.random.key(3))
    step, truth, lost = jax.jit(vec_env.step), [], 0
    for _ in range(2 * STEPS):
        before = state.envs
        state, row = step(state, jnp.zeros((6, 2)))
        shown = np.asarray(before.t >= threshold * before.end)
        np.testing.assert_array_equal(row.reward, shown)
        fails = np.asarray((before.t + 1 == before.end) & (before.late == 1))
        np.testing.assert_array_equal(row.terminated, shown | fails)
        assert set(row.obs) == {"x", "age", "front"}, "the verdict itself is not observed"
        assert (np.asarray(row.obs["front"])[shown] >= threshold).all()
        truth += np.asarray(before.success)[shown].tolist()
        lost += int((fails & ~shown).sum())
    sums: Judged = state.judged
    assert int(sums.successes) == len(truth) > 3
    assert int(sums.false_positives) == truth.count(False)
    assert int(state.stats.successes) == truth.count(True)
    assert all(truth) == (threshold == 1.0)
    assert int(state.stats.episodes) >= len(truth) + lost
    assert int(clear_stats(state).judged.successes) == 0


def test_an_evaluation_tells_what_was_said_beside_the_truth():
    def idle(envs: ToyState, pictures: Obs, key: jax.Array) -> jax.Array:
        return jnp.zeros((envs.t.shape[0], 2))

    keys = episode_keys(jax.random.key(1), episodes=40, steps=STEPS)

    @jax.jit
    def play() -> list[EpisodeResult]:
        seen = (observer(1.0), observer(0.5), ToyObserver(ToyEnv(), Shows()))
        return [play_episodes(one, idle, keys)[0] for one in seen]

    judged, early, plain = play()
    assert plain.judged is None
    start = jax.vmap(ToyEnv().reset)(keys.starts)
    solved = np.asarray(start.late == 0)
    # What the time limit leads to is no longer seen.
    np.testing.assert_array_equal(judged.judged, solved & (start.end < STEPS))
    np.testing.assert_array_equal(judged.success, solved & (start.end <= STEPS))
    assert early.judged.mean() > judged.judged.mean() and not early.success.any()
