"""A world that failed in a run is shown as it was before, and fails again."""

from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_bundle import tiny_config

from mjx_serl.cli import play as play_command
from mjx_serl.envs.env import make_env
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.nan_world import FILE, NanWorld, read_nan_world, write_nan_world
from mjx_serl.viewing.nan_dump import ITS_ACTION, build_dumped

ACTION = np.float32([1, 0, 0, 0])


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a world whose joint velocity is no number to the physics."""
    root = tmp_path_factory.mktemp("runs")
    cfg = tiny_config(root)
    folder = RunFolder.create(root, task=cfg.task, agent="a", seed=0)
    folder.write_config(cfg)
    env = make_env(cfg.task, physics="native")
    world = jax.jit(env.step)(jax.jit(env.reset)(jax.random.key(3)), ACTION)
    row = np.array(world.carry).view(np.float64)
    row[1 + env.scene.model.nq] = np.nan
    state = (np.asarray(world.sim.qpos), np.asarray(world.sim.qvel), ACTION)
    path = folder.path / FILE
    write_nan_world(path, NanWorld(2, 400, *state, [row.view(np.uint32)]))
    return path


def test_the_world_begins_as_it_was_and_fails_again(dumped: Path) -> None:
    playable, found = build_dumped(dumped, None, size=16), read_nan_world(dumped)
    assert (found.world, found.env_steps, playable.chosen) == (2, 400, ITS_ACTION)
    worlds, _ = jax.jit(playable.start)(jax.random.key(0))
    np.testing.assert_allclose(worlds.sim.qpos[0], found.qpos, atol=1e-6)
    assert np.isfinite(worlds.sim.xpos).all()
    action = playable.policies[ITS_ACTION](worlds, {}, jax.random.key(0))
    np.testing.assert_array_equal(action[0], ACTION)
    after, ended = jax.jit(playable.recorded.step)(worlds, action)
    assert bool(ended[0]) and not bool(after.valid[0])


def test_without_what_the_physics_went_on_from_it_begins_at_its_state(
    dumped: Path, tmp_path: Path
) -> None:
    found = read_nan_world(dumped)
    np.savez(tmp_path / FILE, world=2, qpos=found.qpos, qvel=found.qvel, action=found.action)
    playable = build_dumped(tmp_path / FILE, dumped.parent, size=16)
    worlds, _ = jax.jit(playable.start)(jax.random.key(0))
    np.testing.assert_allclose(worlds.sim.qpos[0], found.qpos, atol=1e-6)


def test_what_is_no_such_file_is_told(dumped: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a run writes nan_world.npz"):
        build_dumped(tmp_path / "none.npz", dumped.parent, size=16)
    other = tmp_path / "other.npz"
    other.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is no world that failed: File is not a zip"):
        read_nan_world(other)
    write_nan_world(other, NanWorld(0, 0, np.zeros(3), np.zeros(3), ACTION))
    with pytest.raises(ValueError, match=r"qpos is of shape \[3\], the run's task has \[16\]"):
        build_dumped(other, dumped.parent, size=16)
    with pytest.raises(ValueError, match="--dump takes --view"):
        play_command.main(dump=other)
