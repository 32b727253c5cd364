"""Videos: pictures are those of the steps they are said to be, and none can harm a run."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv, ToyState

from mjx_serl.envs.observation import Observer
from mjx_serl.training.evaluate import evaluate
from mjx_serl.viewing import episode_video
from mjx_serl.viewing.episode_video import (
    EpisodePictures,
    VideoWriter,
    join_frames,
    record_episodes,
)
from mjx_serl.viewing.policies import build_policies, from_observations
from mjx_serl.viewing.recorded_env import RecordedEnv, look_at

KEY = jax.random.key(7)
HOLD = 7  # pictures that an end is held, at 10 per second


class ToyCameras:
    """Draws a world as two grey pictures: its step, and 100 times its first number."""

    def __init__(self, *, traceable: bool = True) -> None:
        backend = SimpleNamespace(TRACEABLE=traceable)
        self.renderer = SimpleNamespace(chosen=SimpleNamespace(backend=backend))
        self.config = SimpleNamespace(cameras=("step", "place"), stack=1)
        self.traceable = traceable

    def pictures(self, worlds: ToyState, look: tuple) -> dict[str, jax.Array]:
        """Grey values 4 px wide."""
        assert self.traceable or not isinstance(worlds.t, jax.core.Tracer)
        greys = {"step": worlds.t, "place": 100 * worlds.carry[:, 0]}
        return {
            name: jnp.broadcast_to(
                grey.astype(jnp.uint8)[:, None, None, None], (len(grey), 4, 4, 3)
            )
            for name, grey in greys.items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class FurtherCameras(Observer):
    """An observer whose worlds all look alike."""

    def looks(self, key: jax.Array, num: int) -> tuple:
        """Nothing to draw."""
        return ()


def toy_recorded(*, traceable: bool = True) -> RecordedEnv:
    env = ToyEnv()
    return RecordedEnv(Observer(env), FurtherCameras(env, ToyCameras(traceable=traceable)))


@pytest.fixture(scope="module")
def recorded() -> RecordedEnv:
    """A toy world whose cameras can be traced."""
    return toy_recorded()


@pytest.fixture(scope="module")
def still(recorded: RecordedEnv) -> EpisodePictures:
    """Six episodes in which nothing is done."""
    return record_episodes(recorded, build_policies(recorded.env)["zero"], KEY, episodes=6)


def test_a_picture_shows_the_step_it_belongs_to(still: EpisodePictures):
    assert still.pictures["step"].shape == (STEPS, 6, 4, 4, 3)
    steps = still.pictures["step"][:, :, 0, 0, 0]
    np.testing.assert_array_equal(steps, np.arange(STEPS)[:, None].repeat(6, 1))


def test_it_records_the_episodes_that_evaluation_plays(recorded: RecordedEnv):
    """Same key, same episodes: their lengths and successes are those that evaluate counts."""

    def policy(scale: jax.Array):
        return lambda obs, key: scale * jnp.sign(obs["x"]) + 0.1 * jax.random.normal(key, (20, 2))

    want = evaluate(recorded.observer, policy(jnp.float32(0.5)), KEY, episodes=20)
    played = record_episodes(
        recorded, from_observations(policy, jnp.float32(0.5)), KEY, episodes=20
    )
    np.testing.assert_array_equal(played.success, want.success)
    np.testing.assert_array_equal(played.running.sum(0), want.steps)
    assert 0 < played.success.sum() < 20


def test_the_scripted_expert_moves_the_world(recorded: RecordedEnv):
    played = record_episodes(recorded, build_policies(recorded.env)["expert"], KEY, episodes=3)
    place = played.pictures["place"][:, :, 0, 0, 0].astype(int)
    assert (np.abs(np.diff(place, axis=0) - 5) <= 1).all()  # half a step of 0.1, times 100


@pytest.mark.parametrize("name", ["expert", "random"])
def test_a_renderer_that_cannot_be_traced_gives_the_same_video(recorded: RecordedEnv, name: str):
    policy = build_policies(recorded.env)[name]
    videos = [
        record_episodes(env, policy, KEY, episodes=2)
        for env in (recorded, toy_recorded(traceable=False))
    ]
    jax.tree.map(np.testing.assert_array_equal, *videos)


def test_an_episode_is_cut_at_its_end_which_is_held(recorded: RecordedEnv, still: EpisodePictures):
    lengths = np.minimum(still.running.sum(0) + 1, STEPS)
    assert len(set(lengths)) > 1
    frames = join_frames(recorded, still)
    assert len(frames) == lengths.sum() + 6 * HOLD
    first = frames[: lengths[0] + HOLD, 0, 0, 0]
    last = lengths[0] - 1
    assert first.tolist() == [*range(lengths[0]), *[last] * HOLD]


def test_cameras_stand_in_the_order_they_are_named(recorded: RecordedEnv, still: EpisodePictures):
    frames = join_frames(recorded, still)
    place = still.pictures["place"][0, 0, 0, 0, 0]
    assert frames[0, 0, 0, 0] == 0 and frames[0, 0, -1, 0] == place > 0


def test_the_side_camera_looks_where_it_is_told():
    position, target = (0.9, -0.8, 0.6), (0.3, 0.1, 0.2)
    w, x, y, z = look_at(position, target)
    back = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
    want = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    np.testing.assert_allclose(-back, want, atol=1e-6)
    right_z, up_z = 2 * (x * z - w * y), 2 * (y * z + w * x)
    assert abs(right_z) < 1e-6 and up_z > 0


def test_a_video_that_fails_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = []
    monkeypatch.setattr(episode_video, "build_recorded_env", lambda *args: 1 / 0)
    writer = VideoWriter(tmp_path, Observer(ToyEnv()), SimpleNamespace(), warn=said.append)
    writer.write_policy(build_policies(ToyEnv())["zero"], KEY)
    assert said == ["policy.mp4 was not written (division by zero)"]
    assert list(tmp_path.iterdir()) == []


def test_the_writer_writes_and_says_so(
    recorded: RecordedEnv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(episode_video, "build_recorded_env", lambda *args: recorded)
    writer = VideoWriter(tmp_path, recorded.observer, SimpleNamespace(), warn=pytest.fail)
    writer.write_policy(build_policies(recorded.env)["zero"], KEY, episodes=3)
    assert (tmp_path / "policy.mp4").stat().st_size > 1000
    out = capsys.readouterr().out
    assert str(tmp_path / "policy.mp4") in out and "of 3 episodes solved" in out


def test_a_grid_of_the_training_worlds(tmp_path: Path):
    env = ToyEnv()
    writer = VideoWriter(
        tmp_path, FurtherCameras(env, ToyCameras()), SimpleNamespace(), warn=pytest.fail
    )
    worlds = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 70))
    writer.write_worlds(SimpleNamespace(envs=worlds, look=()))
    data = (tmp_path / "worlds.png").read_bytes()
    # 64 worlds of 8 x 4 px: 6 columns and 11 rows, 2 px apart.
    assert int.from_bytes(data[16:20]) == 6 * 10 - 2 and int.from_bytes(data[20:24]) == 11 * 6 - 2


def test_worlds_without_cameras_have_no_grid(tmp_path: Path):
    writer = VideoWriter(tmp_path, Observer(ToyEnv()), SimpleNamespace(), warn=pytest.fail)
    writer.write_worlds(SimpleNamespace())
    assert list(tmp_path.iterdir()) == []
