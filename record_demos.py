"""Record demonstrations of a task's scripted expert into one .npz file."""

import sys
from pathlib import Path

import tyro

from mjx_serl.platform import prepare_platform
from mjx_serl.run.signals import QuitSignal
from scenes.contract.command_line import guarded


def main(
    out: tyro.conf.Positional[Path],
    /,
    task: str = "franka/pick_cube",
    episodes: int = 20,
    noise: float = 0.0075,
    seed: int = 0,
    cameras: tuple[str, ...] = (),
    image_size: int = 64,
    scan: Path | None = None,
    looks: tuple[Path, ...] = (),
) -> int:
    """Record solved episodes; train with them by `python train.py --demos.file OUT`.

    Args:
        out: the .npz file to write; an existing one is never overwritten.
        task: a registered task.
        episodes: solved episodes to keep.
        noise: standard deviation of the noise on the expert's steps [m].
        seed: of starts and noise.
        cameras: cameras whose pictures are recorded too, for example front wrist.
        image_size: width and height of the pictures [px].
        scan: a scanned scene that the pictures are drawn from, a folder of one .ply per body.
        looks: .npz files of robot surfaces beyond the shipped ones.
    """
    prepare_platform(cache_dir=Path(__file__).resolve().parent / ".cache" / "jax")
    # JAX must start after the platform is prepared.
    from mjx_serl.envs.observation import PixelConfig
    from mjx_serl.run.demonstrations import record_scripted

    pixels = PixelConfig(cameras=cameras, size=image_size, scan=scan, surfaces=looks)
    steps = record_scripted(task, out, episodes=episodes, noise=noise, seed=seed, pixels=pixels)
    print(f"{out}: {episodes} episodes, {steps} steps of {task}")
    return 0


if __name__ == "__main__":
    with QuitSignal():
        sys.exit(guarded(lambda: tyro.cli(main)))
