"""Record demonstrations of a task's scripted expert, or of a person, into one .npz file."""

from pathlib import Path

import tyro

from mjx_serl.cli.task_help import with_tasks
from mjx_serl.platform import prepare_platform, program_cache
from scenes.contract.command_line import guarded, require_port
from scenes.contract.errors import InputError
from scenes.contract.language import BYTES, TokenizerConfig
from scenes.contract.operator import Device
from scenes.contract.plugins import load_plugins


def main(
    out: tyro.conf.Positional[Path],
    /,
    task: str = "franka/pick_cube",
    episodes: int = 20,
    noise: float | None = None,
    seed: int = 0,
    cameras: tuple[str, ...] = (),
    image_size: int = 64,
    scan: Path | None = None,
    room: str | None = None,
    looks: tuple[Path, ...] = (),
    shadows: bool = False,
    tokenizer: TokenizerConfig = BYTES,
    pilot: bool = False,
    device: Device = "page",
    port: int = 8011,
    classifier_frames: Path | None = None,
    successes: int = 200,
    plugin: tuple[str, ...] = (),
) -> int:
    """Record solved episodes; train with them by `python train.py --demos.file OUT`.

    The states of the simulator are kept too, by which another task can judge (`--demos.relabel`).
    With `--pilot` a person drives on a page in the browser, and every solved episode is in the file
    as soon as it is over; a file that is there is gone on with. Of an arm a person's are recorded
    by `deploy.py RUN --operator keyboard --record FOLDER`, and made a file
    by `python -m robot_bridge export-demos`.

    Args:
        out: the .npz file to write; an existing one is never overwritten.
        task: a registered task.
        episodes: solved episodes to keep.
        noise: standard deviation of the noise on the expert's steps [m]; what the task's expert
            copes with if none is given.
        seed: of starts and noise.
        cameras: cameras whose pictures are recorded too, for example front wrist.
        image_size: width and height of the pictures [px].
        scan: a scanned scene that the pictures are drawn from, a folder of one .ply per body.
        room: wood or lab, or a file: a table, walls and things around.
        looks: .npz files of robot surfaces beyond the shipped ones.
        shadows: draw soft shadows on the table, as `--pixels.shadows` does in training.
        tokenizer: of what the worlds of a task with instructions are told, as in training.
        pilot: serve a page on this machine, from which you drive.
        device: what you drive with beside the page's keys, sticks and gamepad.
        port: of the page; one of the next nine if it is taken.
        classifier_frames: with `--pilot`, an .npz file for the frames of all episodes, of which
            those that you see while you hold a key are successes; it is gone on with too, and is
            what `python -m mjx_serl.classifier train OUT --frames` learns from.
        successes: frames of success that are wanted in it.
        plugin: modules to import first, which register tasks of yours.
    """
    prepare_platform(cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    load_plugins(plugin)
    from mjx_serl.envs.observation import PixelConfig
    from mjx_serl.run.demonstrations import record_scripted

    pixels = PixelConfig(
        cameras=cameras,
        size=image_size,
        scan=scan,
        room=room,
        surfaces=looks,
        shadows=shadows,
    )
    if pilot:
        from mjx_serl.pilot.by_hand import record_by_hand

        if noise is not None:
            raise InputError("--noise is the scripted expert's: leave it out with --pilot")
        if tokenizer != BYTES:
            raise InputError(f"--pilot with --tokenizer {tokenizer.name}, allowed: as it is given")
        require_port(port)
        count = record_by_hand(
            task,
            out,
            episodes=episodes,
            seed=seed,
            pixels=pixels,
            port=port,
            device=device,
            frames=classifier_frames,
            successes=successes,
        )
        print(f"{out}: {count} episodes of {task}" if count else "nothing was recorded")
        return 0
    if classifier_frames is not None:
        raise InputError("--classifier-frames takes a person who marks them: add --pilot")
    how = {"noise": noise, "seed": seed, "pixels": pixels, "tokenizer": tokenizer}
    steps = record_scripted(task, out, episodes=episodes, **how)
    print(f"{out}: {episodes} episodes, {steps} steps of {task}")
    return 0


def run() -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, description=with_tasks(main)))
