"""The way out to Gymnasium: its own checker, Stable-Baselines3's, seeds, endings, restarts."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils import env_checker
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode
from peer_env import MOVIEPY, TORCH, peer_packages, peer_python
from videos import frames

from mjx_serl.adapters.gymnasium import (
    MjxSerlEnv,
    MjxSerlVectorEnv,
    env_id,
    register_envs,
)
from mjx_serl.adapters.interfaces import observation_space
from mjx_serl.envs.env import Env
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.put_cube_on_plate import SAID
from scenes.contract.language import BYTES, INSTRUCTION, tokens_of
from scenes.contract.specs import ObsField, ObsSpec

ROOT = Path(__file__).resolve().parents[2]
SPARSE = "mjx_serl/FrankaPickCube-v0"
# Positions and velocities have no honest bound, and none is made up for the checker's sake.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*A Box observation space (minimum|maximum) value is:UserWarning"
)


@pytest.fixture(scope="module")
def single() -> MjxSerlEnv:
    return gymnasium.make(SPARSE).unwrapped


@pytest.fixture(scope="module")
def vector() -> MjxSerlVectorEnv:
    return gymnasium.make_vec(SPARSE, num_envs=3)


@pytest.fixture(scope="module")
def seeing() -> MjxSerlVectorEnv:
    """Two worlds with a camera that are drawn from the side and end after five steps."""
    drawn = {"render_mode": "rgb_array", "render_size": 32}
    return gymnasium.make_vec(
        SPARSE, num_envs=2, max_episode_steps=5, cameras=["front"], image_size=16, **drawn
    )


def test_worlds_say_what_they_are_told(vector: MjxSerlVectorEnv):
    told = gymnasium.make_vec("mjx_serl/FrankaPutCubeOnPlateInstructed-v0", num_envs=6)
    with pytest.raises(RuntimeError, match="before reset"):
        told.get_language_instruction()
    seen, _ = told.reset(seed=0)
    texts = told.get_language_instruction()
    assert len(set(texts)) > 1 and set(texts) <= set(SAID.train)
    tokenizer = BYTES.build()
    np.testing.assert_array_equal(seen[INSTRUCTION], [tokens_of(tokenizer, t) for t in texts])
    assert told.observation_space.contains(seen)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="told nothing in words"):
        vector.get_language_instruction()


def lifted(state):
    """The same state, with the cube counted as above its start: the next step succeeds."""
    task_state = state.task_state.replace(start_height=state.task_state.start_height - 0.2)
    return state.replace(task_state=task_state)


def test_every_task_has_an_id():
    register_envs()
    ours = {name for name in gymnasium.registry if name.startswith("mjx_serl/")}
    assert ours == {env_id(task) for task in TASKS}
    assert {SPARSE, "mjx_serl/FrankaPickCubeDense-v0"} <= ours


def test_an_unknown_id_is_answered_with_the_nearest():
    with pytest.raises(gymnasium.error.Error, match="Did you mean: `FrankaPickCube`"):
        gymnasium.make("mjx_serl/FrankaPickCub-v0")


@pytest.mark.parametrize("task", ["franka/pick_cube", "franka/pick_cube_dense"])
def test_gymnasiums_checker_passes(task: str):
    # What is drawn is the same for all tasks: a test below.
    env_checker.check_env(gymnasium.make(env_id(task)).unwrapped, skip_render_check=True)


@pytest.fixture(scope="module")
def one() -> MjxSerlVectorEnv:
    """A vector of one world: Gymnasium's checks ask `if terminated` of what they step."""
    return gymnasium.make_vec(SPARSE, num_envs=1)


@pytest.mark.parametrize(
    "check",
    [
        env_checker.check_reset_return_type,
        env_checker.check_reset_seed_determinism,
        env_checker.check_reset_options,
        env_checker.check_returned_data_not_reused,
        env_checker.check_reset_return_info_deprecation,
        env_checker.check_seed_deprecation,
        env_checker.env_reset_passive_checker,
    ],
)
def test_gymnasiums_checks_of_one_world_pass_for_a_vector(one: MjxSerlVectorEnv, check: Callable):
    """All but `check_step_determinism`, which asks whether the truncation `is False`."""
    check(one)


def test_gymnasiums_own_vector_of_our_single_world_is_matched(
    one: MjxSerlVectorEnv, single: MjxSerlEnv
):
    """Spaces, observations, rewards, ends and infos with their types, past the time limit."""
    theirs = gymnasium.vector.SyncVectorEnv([lambda: single])
    assert theirs.metadata["autoreset_mode"] is one.metadata["autoreset_mode"]
    check_environments_match(one, theirs, num_steps=103)


# Run where torch is, which this environment never has.
SB3_CHECK = """
import warnings
from stable_baselines3.common.env_checker import check_env
from mjx_serl.adapters.gymnasium import MjxSerlEnv
warnings.simplefilter("error")
check_env(MjxSerlEnv("franka/pick_cube"))
print("passed")
"""


@pytest.mark.slow  # and once the time to install torch
def test_stable_baselines_checker_passes():
    done = subprocess.run(
        [peer_python(TORCH), "-c", SB3_CHECK],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "passed\n", done.stderr[-4000:]


def test_spaces_are_the_specs(single: MjxSerlEnv, vector: MjxSerlVectorEnv, sparse: Env):
    names = set(sparse.obs_spec.names)
    assert set(single.observation_space.spaces) == names
    assert single.action_space == gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
    assert vector.single_observation_space == single.observation_space
    assert vector.observation_space["joint_velocity"].shape == (3, 7)
    assert vector.action_space.shape == (3, 4)


def test_images_are_bytes():
    spec = ObsSpec(fields=(ObsField(name="front", shape=(8, 8, 3), dtype="uint8"),))
    assert observation_space(spec)["front"] == gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


def test_equal_seeds_give_equal_episodes(single: MjxSerlEnv):
    def starts(seed: int | None, more: int) -> list[np.ndarray]:
        first = single.reset(seed=seed)[0]["cube_position"]
        return [first, *[single.reset()[0]["cube_position"] for _ in range(more)]]

    one, again, other = starts(5, 2), starts(5, 2), starts(6, 2)
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one)[:, :2] != np.asarray(other)[:, :2]).all()
    assert len(np.unique([s[0] for s in one])) == 3
    starts(None, 0)


def test_world_i_of_seed_s_is_the_single_world_of_seed_s_plus_i(
    single: MjxSerlEnv, vector: MjxSerlVectorEnv
):
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 3, 4)).astype(np.float32)
    batch = [vector.reset(seed=40)[0], *[vector.step(a)[0] for a in actions]]
    for world in range(3):
        alone = [single.reset(seed=40 + world)[0], *[single.step(a[world])[0] for a in actions]]
        for together, apart in zip(batch, alone, strict=True):
            for name in apart:
                # Two programs may round the controller's float32 differently.
                np.testing.assert_allclose(together[name][world], apart[name], atol=1e-5)


def test_seeds_of_a_vector(vector: MjxSerlVectorEnv):
    counted, listed = vector.reset(seed=7)[0], vector.reset(seed=[7, 8, 9])[0]
    np.testing.assert_array_equal(counted["cube_position"], listed["cube_position"])
    following = vector.reset()[0]
    assert (following["cube_position"][:, 0] != listed["cube_position"][:, 0]).all()
    with pytest.raises(ValueError, match="2 seeds for 3 worlds"):
        vector.reset(seed=[1, 2])


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_step_before_reset_is_an_error(make: Callable):
    env = make(SPARSE).unwrapped
    with pytest.raises(RuntimeError, match="step\\(\\) before reset\\(\\)"):
        env.step(env.action_space.sample())


def test_an_episode_ends_by_time_as_truncation(single: MjxSerlEnv):
    single.reset(seed=0)
    rows = [single.step(np.zeros(4, np.float32)) for _ in range(100)]
    assert [(r[2], r[3]) for r in rows] == [(False, False)] * 99 + [(False, True)]
    obs, reward, *_, info = rows[-1]
    assert (type(reward), type(info["success"]), info["success"]) == (float, bool, False)
    assert {"reach", "lift", "picked", "valid"} <= info.keys()
    assert obs["ee_position"].flags.writeable


def test_an_episode_ends_by_success_as_termination(single: MjxSerlEnv):
    single.reset(seed=0)
    worlds = single._play.worlds
    single._play.worlds = worlds.replace(state=lifted(worlds.state))
    _, reward, terminated, truncated, info = single.step(np.zeros(4, np.float32))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_a_vector_world_restarts_in_the_step_after_its_end(vector: MjxSerlVectorEnv, sparse: Env):
    """AutoresetMode.NEXT_STEP, world 1 succeeding: last observation first, then the new start."""
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    vector.reset(seed=0)
    worlds, action = vector._play.worlds, np.full((3, 4), 0.5, np.float32)
    only_one = jax.tree.map(lambda x, y: y.at[1].set(x[1]), lifted(worlds.state), worlds.state)
    vector._play.worlds = worlds.replace(state=only_one)
    last, reward, terminated, truncated, info = vector.step(action)
    assert reward.tolist() == [0.0, 1.0, 0.0]
    assert terminated.tolist() == [False, True, False] == info["success"].tolist()
    assert info["_success"].all() and not truncated.any()
    fresh, reward, terminated, truncated, info = vector.step(action)
    assert not reward.any() and not terminated.any() and not truncated.any()
    home = sparse.scene.model.key_qpos[0]
    assert vector._play.worlds.state.t.tolist() == [2, 0, 2]
    np.testing.assert_array_equal(fresh["joint_velocity"][1], np.zeros(7))
    np.testing.assert_array_equal(
        vector._play.worlds.state.sim.qpos[1, :7], home[:7].astype(np.float32)
    )
    assert (fresh["cube_position"][1, :2] != last["cube_position"][1, :2]).all()
    moved, *_ = vector.step(action)
    assert vector._play.worlds.state.t.tolist() == [3, 1, 3]
    assert (moved["ee_target"][1] != fresh["ee_target"][1]).any()


def test_gymnasiums_own_statistics_agree(vector: MjxSerlVectorEnv):
    """RecordEpisodeStatistics knows the declared mode: lengths are the time limit's."""
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector)
    envs.reset(seed=0)
    ends = []
    for step in range(205):
        *_, truncated, info = envs.step(np.zeros((3, 4), np.float32))
        if truncated.any():
            ends.append((step, info["episode"]["l"].tolist()))
    assert ends == [(99, [100] * 3), (200, [100] * 3)]


def test_bad_arguments_are_told():
    with pytest.raises(KeyError, match="Did you mean 'franka/pick_cube'"):
        MjxSerlEnv("franka/pickcube")
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        MjxSerlVectorEnv("franka/pick_cube", num_envs=0)
    with pytest.raises(ValueError, match=r"cameras 'front', allowed: a list, \['front'\]"):
        MjxSerlEnv("franka/pick_cube", cameras="front")
    with pytest.raises(ValueError, match="size 64.5, allowed: a whole number, 1 to 4096"):
        MjxSerlEnv("franka/pick_cube", cameras=["front"], image_size=64.5)


def start(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> list:
    return env.reset()[0]["cube_position"].tolist()


def test_a_generator_that_the_user_sets_starts_a_sequence(
    single: MjxSerlEnv, vector: MjxSerlVectorEnv
):
    def starts(env: gymnasium.Env | gymnasium.vector.VectorEnv, seed: int) -> list:
        env.np_random = np.random.default_rng(seed)
        return [start(env), start(env)]

    for env in (single, vector):
        first, other = starts(env, 1), starts(env, 2)
        assert first[0] != first[1] and first[0] != other[0]
        assert starts(env, 1) == first


def test_seeds_are_not_cut_to_32_bits(single: MjxSerlEnv, vector: MjxSerlVectorEnv):
    def begin(env: gymnasium.Env | gymnasium.vector.VectorEnv, seed) -> np.ndarray:
        return env.reset(seed=seed)[0]["cube_position"]

    assert (begin(single, 3) != begin(single, 3 + 2**32))[:2].all()
    wide = begin(vector, 2**32 - 1)
    np.testing.assert_array_equal(wide[1], begin(single, 2**32))
    assert (wide[1] != begin(single, 0))[:2].all()


def test_a_world_without_a_seed_goes_on_with_its_own(vector: MjxSerlVectorEnv):
    vector.reset(seed=11)
    following = vector.reset()[0]["cube_position"]
    vector.reset(seed=11)
    mixed = vector.reset(seed=[50, None, None])[0]["cube_position"]
    np.testing.assert_array_equal(mixed[1:], following[1:])
    assert (mixed[0] != following[0])[:2].all()


def test_a_mask_resets_its_worlds_and_no_others(vector: MjxSerlVectorEnv):
    """As in Gymnasium's SyncVectorEnv, infos are masked by it too."""
    vector.reset(seed=0)
    before, *_ = vector.step(np.full((3, 4), 0.5, np.float32))
    after, info = vector.reset(options={"reset_mask": np.array([False, True, False])})
    for name, rows in after.items():
        np.testing.assert_array_equal(rows[[0, 2]], before[name][[0, 2]])
    assert (after["ee_target"][1] != before["ee_target"][1]).any()
    assert vector._play.worlds.state.t.tolist() == [1, 0, 1]
    assert info["_success"].tolist() == [False, True, False]
    for bad in (np.zeros(3, bool), np.ones(2, bool), np.ones(3), [1, 0, 0]):
        with pytest.raises(ValueError, match=r"reset_mask .* allowed: bool \(3,\)"):
            vector.reset(options={"reset_mask": bad})


def test_options_that_are_not_known_are_refused(single: MjxSerlEnv, vector: MjxSerlVectorEnv):
    with pytest.raises(ValueError, match=r"reset options \['goal'\], allowed: none"):
        single.reset(options={"goal": 1})
    with pytest.raises(ValueError, match=r"reset options \['goal'\], allowed: reset_mask"):
        vector.reset(options={"goal": 1})
    with pytest.raises(KeyError, match="Unknown option 'camera'. Did you mean 'cameras'?"):
        MjxSerlEnv("franka/pick_cube", camera="front")
    with pytest.raises(ValueError, match="render_mode 'ansi', allowed: rgb_array or None"):
        MjxSerlEnv("franka/pick_cube", render_mode="ansi")
    with pytest.raises(ValueError, match="episode_steps 0, allowed: at least 1"):
        MjxSerlVectorEnv("franka/pick_cube", max_episode_steps=0)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (), (4,), (1, 4), (3, 5)])
def test_actions_of_another_shape_are_refused(
    single: MjxSerlEnv, vector: MjxSerlVectorEnv, shape: tuple[int, ...]
):
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"action of shape .*, allowed: \(3, 4\)"):
        vector.step(np.zeros(shape, np.float32))
    if shape != (4,):
        single.reset(seed=0)
        with pytest.raises(ValueError, match=r"action of shape .*, allowed: \(4,\)"):
            single.step(np.zeros(shape, np.float32))


def test_cameras_are_observed(seeing: MjxSerlVectorEnv):
    obs, _ = seeing.reset(seed=0)
    assert obs["front"].shape == (2, 16, 16, 3) and obs["front"].dtype == np.uint8
    assert obs["front"].std() > 10 and (obs["front"][0] != obs["front"][1]).any()
    assert "cube_position" not in obs  # only a simulator knows it
    assert seeing.observation_space.contains(obs)
    with pytest.raises(KeyError, match="frnt"):
        MjxSerlEnv("franka/pick_cube", cameras=["frnt"])
    with pytest.raises(FileNotFoundError, match="no_such_scan"):
        MjxSerlEnv("franka/pick_cube", cameras=["front"], scan="no_such_scan")


def test_worlds_are_rendered_from_the_side(seeing: MjxSerlVectorEnv):
    seeing.reset(seed=0)
    first = seeing.render()
    assert first is not None
    seeing.step(np.ones((2, 4), np.float32))
    assert [frame.shape for frame in first] == [(32, 32, 3)] * 2
    assert (first[0] != first[1]).any() and (first[0] != seeing.render()[0]).any()
    collected = gymnasium.make(SPARSE, render_mode="rgb_array_list", render_size=32)
    collected.reset(seed=0)
    collected.step(collected.action_space.sample())
    frames = collected.render()
    assert frames is not None
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 2
    # The same world, drawn by another program.
    assert np.abs(frames[0].astype(int) - first[0]).max() <= 1


@pytest.mark.slow  # the first time moviepy is fetched
def test_gymnasium_records_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(peer_packages(MOVIEPY))
    shown = gymnasium.make(SPARSE, render_mode="rgb_array", render_size=64)
    env = gymnasium.wrappers.RecordVideo(shown, str(tmp_path / "videos"), lambda episode: True)
    env.reset(seed=0)
    seen = [shown.render(), *[(env.step(np.ones(4, np.float32)), shown.render())[1] for _ in "abc"]]
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    played = frames(video)
    assert played.shape == (4, 64, 64, 3)
    # As drawn but for what H.264 loses, and the arm moves.
    assert np.abs(played.astype(int) - np.stack(seen)).mean() < 6
    assert np.abs(played[0].astype(int) - played[3]).mean() > 0.5


def test_without_a_render_mode_nothing_is_rendered(vector: MjxSerlVectorEnv):
    with pytest.warns(UserWarning, match="render_mode"):
        assert vector.render() is None


def test_the_time_limit_is_the_specs(single: MjxSerlEnv, seeing: MjxSerlVectorEnv):
    assert (single.spec.max_episode_steps, seeing.spec.max_episode_steps) == (100, 5)
    seeing.reset(seed=0)
    ends = [seeing.step(np.zeros((2, 4), np.float32))[3].tolist() for _ in range(6)]
    assert ends == [[False] * 2] * 4 + [[True] * 2, [False] * 2]
    longer = gymnasium.make(SPARSE, episode_steps=101)
    longer.reset(seed=0)
    ends = [longer.step(np.zeros(4, np.float32))[3] for _ in range(101)]
    assert ends == [False] * 100 + [True]


def test_a_fork_is_told_and_does_not_hang(monkeypatch: pytest.MonkeyPatch):
    """AsyncVectorEnv forks by default; the child has the module of its parent."""
    monkeypatch.setattr("mjx_serl.adapters.gymnasium._IMPORTED_BY", os.getppid())
    with pytest.raises(ValueError, match='context="spawn"'):
        MjxSerlEnv("franka/pick_cube")
