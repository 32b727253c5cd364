"""Runs that learn from pictures: resumed exactly, and the same whether fused or staged."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from videos import frames
from whole_runs import assert_same, half_way

from mjx_serl.agents.sac import SACConfig
from mjx_serl.cli import play
from mjx_serl.commands import guarded, open_run
from mjx_serl.config import EvalConfig, RunConfig, TrainConfig
from mjx_serl.envs.observation import CameraView, Observer, PixelConfig
from mjx_serl.envs.task import TASKS
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Run
from mjx_serl.tasks.pick_cube import SPARSE
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.training.state import TrainState

EPOCHS = 4
HALF = 2
SHORT = "test/short"
STEPS = 8  # of an episode


def config(folder: Path) -> TrainConfig:
    """Two worlds, two cameras, stacked pictures, a small learner; epochs of three steps."""
    return TrainConfig(
        task=SHORT,
        num_envs=2,
        total_env_steps=6 * EPOCHS,
        pixels=PixelConfig(cameras=("front", "wrist"), size=32, splats=1000, stack=2),
        method=OffPolicyConfig(
            agent=SACConfig(hidden=(16,), encoder=EncoderConfig(features=8), n_step=2),
            loop=LoopConfig(
                batch_size=8, updates_per_step=1, steps_per_epoch=3, warmup_steps=8, buffer_size=64
            ),
            demos=DemoConfig(count=0),
        ),
        eval=EvalConfig(every_epochs=100, check_episodes=2, episodes=2, stop_at=2.0),
        run=RunConfig(
            folder=folder,
            name="run",
            checkpoint_seconds=0.0,
            keep_checkpoints=EPOCHS,
            tensorboard=False,
            bundle=False,
        ),
    )


@pytest.fixture(scope="module", autouse=True)
def short_task() -> Iterator[None]:
    """The sparse task in episodes that end within the run; every step of each is drawn."""
    TASKS.register(SHORT)(dataclasses.replace(SPARSE, episode_steps=STEPS))
    yield
    TASKS._entries.pop(SHORT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run from start to end, each of its epochs one compiled function."""
    with open_run(config(tmp_path_factory.mktemp("pixels")), None, hooks=[]) as run:
        run.train()
    return run


@pytest.fixture(scope="module")
def shapes(whole: Run) -> TrainState:
    """Of the state of each run here."""
    return whole.trainer.state_shapes()


def last_of(folder: RunFolder, shapes: TrainState) -> TrainState:
    """The newest checkpoint of a run."""
    return CheckpointStore(folder.checkpoints).restore(shapes)[0]


@pytest.mark.slow
def test_resuming_a_pixel_run_is_exact(
    whole: Run, shapes: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images in the buffer, pictures of the worlds and the encoder included."""
    second = Run(whole.cfg, half_way(whole, tmp_path / "half"))
    assert int(last_of(second.folder, shapes).epoch) == HALF
    # An evaluation knows nothing of resuming.
    monkeypatch.setattr(second, "_finish", lambda *args: None)
    monkeypatch.setattr(second, "_compile_eval", lambda *args: None)
    second.train(resume=True)
    straight, resumed = last_of(whole.folder, shapes), last_of(second.folder, shapes)
    assert int(straight.epoch) == EPOCHS
    assert straight.data["online"].data.obs["front"].dtype == np.uint8
    assert np.asarray(straight.data["online"].data.obs["wrist"]).any()
    assert_same(straight, resumed)


@pytest.mark.slow
def test_a_pixel_run_leaves_its_video_and_can_be_played(
    whole: Run, shapes: TrainState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = frames(whole.folder.path / "policy.mp4")
    assert video.shape[1:] == (256, 3 * 256 + 2 * 4, 3)
    for output in whole.outputs:
        output.after_check(whole, last_of(whole.folder, shapes))
    worlds = matplotlib.image.imread(whole.folder.path / "worlds.png")
    assert worlds.shape[:2] == (2 * 34 - 2, 2 * 32), "two worlds of two cameras"
    # As many episodes as policy.mp4 has, which are compiled already.
    assert guarded(lambda: play.main(run=whole.folder.path, episodes=2, out=tmp_path)) == 0
    said = capsys.readouterr().out
    assert said == f"{tmp_path / 'test-short-trained.mp4'}: 0 of 2 episodes solved\n"
    again = frames(tmp_path / "test-short-trained.mp4")
    np.testing.assert_array_equal(again, video)


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
def test_staged_and_fused_epochs_agree(whole: Run, shapes: TrainState, tmp_path: Path) -> None:
    """Two epochs from the start of the run, whose own are fused."""
    cfg, cameras = whole.cfg, whole.observer.cameras
    assert cameras is not None
    seen = HostObserver(whole.observer.env, HostCameras(cameras.config, cameras.renderer))
    trainer = cfg.method.build(seen, num_envs=cfg.num_envs)
    assert whole.trainer.traceable and not trainer.traceable
    staged: TrainState = trainer.init(jax.random.key(cfg.seed))
    for _ in range(HALF):
        staged, _ = trainer.epoch(staged)
    fused = last_of(half_way(whole, tmp_path / "half"), shapes)
    assert int(fused.epoch) == int(staged.epoch) == HALF
    rings = [jax.device_get(state.data["online"].data) for state in (fused, staged)]
    np.testing.assert_array_equal(rings[0].reward, rings[1].reward)
    for camera in ("front", "wrist"):
        a, b = (np.int32(ring.obs[camera]) for ring in rings)
        assert np.abs(a - b).max() <= 1  # a float that rounds the other way
        assert (a != b).mean() < 1e-3
    for a, b in zip(jax.tree.leaves(fused.agent), jax.tree.leaves(staged.agent), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
