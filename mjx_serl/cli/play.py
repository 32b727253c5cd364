"""Watch a task: `python play.py TASK` writes a video, `--view` plays it live in the browser."""

from pathlib import Path
from typing import Literal

import tyro

from mjx_serl.cli.task_help import with_tasks
from mjx_serl.platform import needs_mjx, prepare_platform, program_cache
from scenes.contract.command_line import guarded, require_port
from scenes.contract.errors import InputError
from scenes.contract.operator import Device
from scenes.contract.plugins import load_plugins
from scenes.contract.ranges import require_seed


def main(
    task: tyro.conf.Positional[str | None] = None,
    /,
    policy: Literal["expert", "random", "zero", "trained"] | None = None,
    run: Path | None = None,
    episodes: int = 2,
    seed: int = 0,
    size: int = 256,
    out: Path = Path(),
    view: bool = False,
    dump: Path | None = None,
    pilot: bool = False,
    device: Device = "page",
    port: int = 8080,
    gallery: tuple[str, ...] | None = None,
    scan: Path | None = None,
    room: str | None = None,
    looks: tuple[Path, ...] = (),
    shadows: bool = False,
    robot_fit: Path | None = None,
    plugin: tuple[str, ...] = (),
) -> int:
    """Show how a policy plays, as the cameras see it and from the side.

    Args:
        task: a registered task, franka/pick_cube if none is named; a run brings its own.
        policy: what plays; the run's own if there is a run, else the scripted expert.
        run: a run folder, whose latest good checkpoint plays.
        episodes: in the video, from starts that training never saw.
        seed: picks other starts.
        size: width and height of the added cameras [px]; a run's own keep theirs.
        out: the .mp4 file to write, a .png file for a picture of the start, or a folder.
        view: serve a page on this machine instead of writing a video.
        dump: with --view, nan_world.npz of a run: the world that was no longer finite, as it was
            before, and what its action did.
        pilot: serve a page from which you take over; without a run or a policy the arm waits.
        device: what you drive with beside that page's keys, sticks and gamepad.
        port: of the page; the next free one if it is taken.
        gallery: write pictures of these tasks, of all where none is named, into the folder `out`:
            what their cameras see, random starts, and the expert at work.
        scan: a scanned scene, a folder of one .ply per body; a run brings its own.
        room: wood or lab, or a file: a table, walls and things around; a run brings its own.
        looks: .npz files of robot surfaces beyond the shipped ones; a run brings its own.
        shadows: draw soft shadows on the table; a run is drawn as it was trained.
        robot_fit: a robot_fit.json of `python -m mjx_serl.sysid`, whose values the task's robot
            takes; a run brings its own.
        plugin: modules to import first, which register tasks of yours.
    """
    if gallery is not None:
        pages = {"view": view or None, "pilot": pilot or None, "dump": dump}
        _require_none(task=task, policy=policy, run=run, robot_fit=robot_fit, **pages)
    if dump is not None and (not view or pilot or task or policy or robot_fit):
        raise InputError("--dump takes --view, and allows --run, --size, --seed and --port")
    of_run = run if dump is None or run is not None else dump.parent
    prepare_platform(mjx_on_cpu=needs_mjx(run=of_run), cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    load_plugins(plugin)
    from mjx_serl.envs.observation import PixelConfig
    from mjx_serl.viewing.play import build_playable, require_output, save_play

    require_seed(seed)
    pixels = PixelConfig(scan=scan, room=room, surfaces=looks, shadows=shadows)
    if gallery is not None:
        from mjx_serl.envs.task import TASKS
        from mjx_serl.viewing.gallery import save_gallery

        for line in save_gallery(out, gallery or tuple(TASKS), seed=seed, pixels=pixels):
            print(line, flush=True)
        return 0
    # What cannot work is told before anything is built.
    if view:
        from mjx_serl.viewing.browser import require_page

        require_page(port)
    elif pilot:
        require_port(port)
    else:
        require_output(out)
    if dump is not None:
        from mjx_serl.viewing.nan_dump import build_dumped

        playable = build_dumped(dump, run, size=size)
    else:
        playable = build_playable(
            task, run, policy, size=size, episodes=episodes, pixels=pixels, robot_fit=robot_fit
        )
    if pilot:
        from mjx_serl.pilot.by_hand import play_by_hand

        driven = playable.policies[playable.chosen] if policy or run else None
        play_by_hand(playable.recorded, driven, seed=seed, port=port, device=device)
        return 0
    if view:
        from mjx_serl.viewing.browser import serve

        return serve(playable, seed=seed, port=port)
    print(save_play(out, playable, episodes=episodes, seed=seed))
    return 0


def _require_none(**given: object) -> None:
    """Raise InputError for what a gallery would not heed."""
    named = [name.replace("_", "-") for name, value in given.items() if value is not None]
    if named:
        raise InputError(
            f"--gallery takes no {', '.join(named)}, allowed: names of tasks after it, and --seed, "
            "--out and what is drawn"
        )


def run() -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, description=with_tasks(main)))
