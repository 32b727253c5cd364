"""Videos: what is written is read, and a file that is something else opens nothing."""

from pathlib import Path

import numpy as np
import pytest

from scenes.contract.videos import VideoWriter, read_video

FRAMES = 6
GREY = 30 * np.arange(FRAMES, dtype=np.uint8)


def written(path: Path, shape: tuple[int, int, int]) -> Path:
    writer = VideoWriter(path, shape, 10)
    writer.write(np.broadcast_to(GREY[:, None, None, None], (FRAMES, *shape)).copy())
    writer.close()
    return path


@pytest.mark.parametrize("shape", [(16, 24, 3), (17, 25, 3)])
def test_pictures_come_back_in_their_order(tmp_path: Path, shape: tuple[int, int, int]):
    video = written(tmp_path / "a.mp4", shape)
    for frames in (FRAMES, 2):
        back = read_video(video, shape, frames)
        assert back.shape == (frames, *shape)
        np.testing.assert_allclose(back.mean((1, 2, 3)), GREY[:frames], atol=2)


@pytest.mark.parametrize("shape", [(24, 16, 3), (8, 48, 3), (16, 16, 3), (64, 64, 3)])
def test_pictures_of_another_size_are_refused(tmp_path: Path, shape: tuple[int, int, int]):
    """Also where there are as many bytes."""
    video = written(tmp_path / "a.mp4", (16, 24, 3))
    with pytest.raises(ValueError, match=r"a\.mp4: got .* pictures '24 16'; allowed: 6 pictures"):
        read_video(video, shape, FRAMES)


def test_fewer_pictures_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="allowed: 7 pictures"):
        read_video(written(tmp_path / "a.mp4", (16, 24, 3)), (16, 24, 3), FRAMES + 1)


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "text": "{}",
}


@pytest.mark.parametrize("kind", [*PLAYLISTS])
def test_what_refers_to_another_file_opens_none(tmp_path: Path, kind: str):
    other = written(tmp_path / "other.mp4", (16, 24, 3))
    path = tmp_path / "a.mp4"
    path.write_text(PLAYLISTS[kind].format(other))
    with pytest.raises(ValueError, match=r"a\.mp4: "):
        read_video(path, (16, 24, 3), FRAMES)
