"""Runs that learn from pictures: resumed exactly, and the same whether fused or staged."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import EvalConfig, RunConfig, TrainConfig
from mjx_serl.envs.observation import CameraView, Observer, PixelConfig
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Run
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.training.state import TrainState
from mjx_serl.types import PyTree


def config(folder: Path, epochs: int) -> TrainConfig:
    """Two worlds, two cameras, a small learner; `epochs` epochs of three steps."""
    return TrainConfig(
        num_envs=2,
        total_env_steps=6 * epochs,
        pixels=PixelConfig(cameras=("front", "wrist"), size=32, splats=2000),
        method=OffPolicyConfig(
            agent=SACConfig(hidden=(16,), encoder=EncoderConfig(features=8), n_step=2),
            loop=LoopConfig(
                batch_size=8, updates_per_step=1, steps_per_epoch=3, warmup_steps=8, buffer_size=64
            ),
            demos=DemoConfig(count=1),
        ),
        eval=EvalConfig(every_epochs=100, check_episodes=2, episodes=2, stop_at=2.0),
        run=RunConfig(
            folder=folder,
            name="run",
            checkpoint_seconds=0.0,
            keep_checkpoints=epochs,
            video="off",
            tensorboard=False,
            bundle=False,
        ),
    )


def last_of(run: Run) -> PyTree:
    """The newest checkpoint of a run."""
    return CheckpointStore(run.folder.checkpoints).restore(run.trainer.state_shapes())[0]


def half_of(run: Run, epochs: int, folder: Path) -> RunFolder:
    """A copy of a run as it was on disk after so many epochs."""
    shutil.copytree(run.folder.path, folder)
    for step in (folder / "checkpoints").iterdir():
        if int(step.name) > epochs:
            shutil.rmtree(step)
    (folder / "summary.json").unlink(missing_ok=True)
    return RunFolder.open(folder)


def assert_equal(one: PyTree, other: PyTree) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.slow
def test_resuming_a_pixel_run_is_exact(tmp_path: Path) -> None:
    """Images in the buffer, pictures of the worlds and the encoder included."""
    cfg = config(tmp_path, 4)
    folder = RunFolder.create(tmp_path, task=cfg.task, agent="drq", seed=0, name="run")
    folder.write_config(cfg)
    whole = Run(cfg, folder)
    whole.train()
    second = Run(cfg, half_of(whole, 2, tmp_path / "half"))
    assert int(last_of(second).epoch) == 2
    second.train(resume=True)
    straight, resumed = last_of(whole), last_of(second)
    assert int(straight.epoch) == 4
    assert straight.data["online"].data.obs["front"].dtype == np.uint8
    assert np.asarray(straight.data["online"].data.obs["wrist"]).any()
    assert_equal(straight, resumed)


@dataclasses.dataclass(frozen=True, eq=False)
class HostCameras(CameraView):
    """Cameras whose renderer says that it cannot be traced."""

    def observe(self, worlds, look):
        assert not isinstance(worlds.t, jax.core.Tracer), "drawn under jit"
        return super().observe(worlds, look)


class HostObserver(Observer):
    """What gsplat makes of an observer: to be called between compiled pieces."""

    @property
    def traceable(self) -> bool:
        return False


@pytest.mark.slow
def test_staged_and_fused_epochs_agree(tmp_path: Path) -> None:
    cfg = config(tmp_path, 1)
    method = dataclasses.replace(cfg.method, demos=DemoConfig(count=0))
    fused_seen = cfg.build_observer()
    cameras = fused_seen.cameras
    assert cameras is not None
    staged_seen = HostObserver(fused_seen.env, HostCameras(cameras.config, cameras.renderer))
    states = []
    for seen in (fused_seen, staged_seen):
        trainer = method.build(seen, num_envs=cfg.num_envs)
        state: TrainState = trainer.init(jax.random.key(1))
        epoch = jax.jit(trainer.epoch) if trainer.traceable else trainer.epoch
        for _ in range(2):
            state, _ = epoch(state)
        states.append(jax.device_get(state.replace(key=jax.random.key_data(state.key))))
    fused, staged = states
    rings = [state.data["online"].data for state in states]
    np.testing.assert_array_equal(rings[0].reward, rings[1].reward)
    for camera in ("front", "wrist"):
        a, b = (np.int32(ring.obs[camera]) for ring in rings)
        assert np.abs(a - b).max() <= 1  # a float that rounds the other way
        assert (a != b).mean() < 1e-3
    for a, b in zip(jax.tree.leaves(fused.agent), jax.tree.leaves(staged.agent), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
