"""Find what a recorded arm is like: `python -m mjx_serl.sysid RECORDING... --robot piper`.

docs/sysid.md leads from a recording to a task that uses the result.
"""

import sys
from pathlib import Path

import numpy as np
import tyro

from mjx_serl.sysid.identify import identify
from mjx_serl.sysid.motion import Motion, cut_motions
from mjx_serl.sysid.report import UNITS, write_report
from mjx_serl.sysid.toolbox import toolbox
from robot_bridge.records.reader import RecordReader, TickRecord
from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError
from scenes.contract.files import require_writable
from scenes.contract.plugins import load_plugins
from scenes.contract.ranges import require_number
from scenes.contract.robot_fit import (
    FILE,
    FittedRecording,
    RobotFit,
    save_robot_fit,
    sha256_of,
)
from scenes.robots import robot_named

REPORT = "robot_fit.html"


def main(
    recordings: tyro.conf.Positional[tuple[Path, ...]],
    /,
    robot: str,
    out: Path = Path(),
    sim_dt: float = 0.005,
    plugin: tuple[str, ...] = (),
) -> int:
    """Fit delay, gains, damping, friction, armature and payload; write robot_fit.json and .html.

    Args:
        recordings: folders that `mjx-serl excite` or `deploy.py --record` wrote, or a folder of
            such folders; of several the last ones validate the fit.
        robot: whose they are, for example panda, fr3 or piper.
        out: folder for the results.
        sim_dt: physics step of the tasks that will use them [s].
        plugin: modules to import first, which register robots of yours.
    """
    load_plugins(plugin)
    require_number("sim-dt", sim_dt, least=1e-4, most=0.02)
    spec = robot_named(robot)
    toolbox()
    folders = find_recordings(recordings)
    out.mkdir(parents=True, exist_ok=True)
    for name in (FILE, REPORT):
        require_writable(out / name)
    motions = [m for folder in folders for m in cut_motions(read_log(folder, robot=spec.name))]
    used = [FittedRecording(name=folder.name, sha256=sha256_of(folder)) for folder in folders]
    found = identify(spec, motions, recordings=used, sim_dt=sim_dt, say=_say)
    save_robot_fit(out / FILE, found.fit)
    write_report(out / REPORT, found.fit, found.arm, found.shown, found.values)
    _say(describe(found.fit))
    _say(f"{out / FILE}, {out / REPORT}")
    return 0


def find_recordings(paths: tuple[Path, ...]) -> list[Path]:
    """The folders with recordings among paths and right below them, by name; InputError if none."""
    found: list[Path] = []
    for path in paths:
        inside = [path, *sorted(p for p in path.glob("*") if p.is_dir())] if path.is_dir() else []
        here = [folder for folder in inside if any(folder.glob("part-*.rec"))]
        if not here:
            raise InputError(
                f"There is no recording in '{path}', allowed: folders that `mjx-serl excite` or "
                "`deploy.py --record` wrote"
            )
        found += here
    if not found:
        raise InputError("No recording is given; make one with `mjx-serl excite --robot ROBOT`")
    return found


def read_log(folder: Path, *, robot: str) -> Motion:
    """All of a recording as one log, its targets NaN where none was sent."""
    reader = RecordReader(folder)
    if reader.header.robot != robot:
        raise InputError(
            f"Recording '{folder}' is of a '{reader.header.robot}', got --robot {robot}"
        )
    ticks = [record.tick for record in reader if isinstance(record, TickRecord)]
    if not ticks:
        raise InputError(f"Recording '{folder}' holds no ticks: it ended before the arm was read")
    nowhere = np.full_like(ticks[0].state.q, np.nan)
    return Motion(
        name=folder.name,
        t=np.array([tick.state.t for tick in ticks]),
        q=np.array([tick.state.q for tick in ticks]),
        dq=np.array([tick.state.dq for tick in ticks]),
        sent=np.array([tick.t for tick in ticks]),
        target=np.array([nowhere if t.target is None else t.target.q for t in ticks]),
        width=float(np.median([tick.state.gripper_width for tick in ticks])),
    )


def describe(fit: RobotFit) -> str:
    """The fit as a table."""
    lines = [f"{'parameter':<22}{'nominal':>11}{'found':>11}{'95 % interval':>24}"]
    for v in fit.values:
        if v.held:
            continue
        name, interval = f"{v.field} {v.joint}".strip(), f"{v.low:.4g} to {v.high:.4g}"
        lines.append(
            f"{name:<22}{v.nominal:>11.4g}{v.value:>11.4g}{interval:>24}  {UNITS[v.field]}"
        )
    held = [f"{v.field} {v.joint}".strip() for v in fit.values if v.held]
    if held:
        lines.append(f"held at their nominal values: {', '.join(held)}")
    for name, e in (("fitted", fit.fitted), ("validation", fit.validation)):
        lines.append(
            f"{name:<11} position error {e.position_before * 1e3:.3g} -> "
            f"{e.position_after * 1e3:.3g} mrad, velocity {e.velocity_before * 1e3:.3g} -> "
            f"{e.velocity_after * 1e3:.3g} mrad/s over {e.seconds:.1f} s"
        )
    return "\n".join(lines)


def run() -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, description=__doc__))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run())
