"""Reads back what was recorded."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np


def frames(path: Path) -> np.ndarray:
    """Frames of a video, uint8 [T, H, W, 3]."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    size = subprocess.run([*command[:1], "-i", str(path)], capture_output=True, text=True).stderr
    width, height = size.split("yuv420p")[1].split("), ")[1].split(",")[0].split(" ")[0].split("x")
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, int(height), int(width), 3)
