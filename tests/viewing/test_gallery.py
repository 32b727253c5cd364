"""The gallery: whose episode is shown, how large files are, what a wrong name is answered with."""

from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from toy_env import STEPS, ToyEnv
from videos import frames

from mjx_serl.cli import play as command
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.viewing import gallery
from mjx_serl.viewing.recorded_env import RecordedEnv
from mjx_serl.viewing.video import save_jpeg
from scenes.contract.command_line import BAD_INPUT, guarded
from scenes.contract.errors import InputError

KEY = jax.random.key(7)


def test_the_first_episode_that_the_expert_solves_is_shown_to_its_end():
    env = ToyEnv()
    episode = gallery.play_expert(RecordedEnv(Observer(env), Observer(env)), KEY)
    assert episode.tried == gallery.WORLDS and 0 < episode.successes < gallery.WORLDS
    assert episode.solved and bool(episode.states.success[-1])
    assert episode.states.t.tolist() == list(range(len(episode.states.t)))
    assert 2 < len(episode.states.t) <= STEPS + 1
    # Half a step of 0.1 at a time, the expert's.
    np.testing.assert_allclose(np.diff(episode.states.carry[:, 0]), 0.05, atol=1e-6)


def test_states_are_drawn_in_batches_and_none_is_lost():
    states = jax.device_get(jax.vmap(ToyEnv().reset)(jax.random.split(KEY, 20)))
    states = states.replace(t=np.arange(20))
    seen = []

    def draw(worlds) -> dict[str, np.ndarray]:
        seen.append(len(worlds.t))
        return {"side": np.asarray(worlds.t)[:, None, None, None]}

    assert gallery._draw_all(draw, states)["side"].ravel().tolist() == list(range(20))
    assert seen == [gallery.WORLDS] * 3


def test_a_jpeg_is_as_good_as_its_size_allows(tmp_path: Path):
    grey = np.random.default_rng(0).integers(0, 255, (200, 300, 1), np.uint8)
    noise = np.broadcast_to(grey, (200, 300, 3))
    files = {most: tmp_path / f"{most}.jpg" for most in (1_000_000, 40_000)}
    for most, path in files.items():
        save_jpeg(path, noise, most=most)
        assert path.stat().st_size <= most
        assert imread(path).shape == noise.shape
    best, small = (np.abs(imread(p).astype(int) - noise).mean() for p in files.values())
    assert best < 0.8 * small


def test_an_unknown_task_is_told_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = {"gallery": ("franka/pick_cube", "franka/pickcube"), "out": tmp_path / "new"}
    assert guarded(lambda: command.main(**asked)) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("error: Unknown task 'franka/pickcube'.") and said.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_pictures_of_a_task(tmp_path: Path):
    pixels = PixelConfig(splats=500, cached=False)
    (line,) = gallery.save_gallery(tmp_path, ["franka/pick_cube"], seed=0, size=32, pixels=pixels)
    assert line == "franka/pick_cube: side, front, wrist; the expert solved 9 of 9"
    files = {path.name.rsplit("-", 1)[1]: path for path in tmp_path.iterdir()}
    shapes = {name: imread(p).shape for name, p in files.items() if name.endswith("jpg")}
    assert shapes == {
        "views.jpg": (32, 3 * 32 + 2 * 4, 3),
        "worlds.jpg": (3 * 32 + 2 * 2, 3 * 32 + 2 * 2, 3),
        "expert.jpg": (2 * 32 + 2, 6 * 32 + 5 * 2, 3),
    }
    video = frames(files["expert.mp4"])
    assert len(video) > 10 and np.abs(video[0].astype(int) - video[-1]).max() > 30


def test_a_gallery_refuses_what_it_would_not_heed(tmp_path: Path):
    with pytest.raises(InputError, match=r"takes no task, run, allowed: names of tasks after it"):
        command.main("franka/pick_cube", run=tmp_path, gallery=())
