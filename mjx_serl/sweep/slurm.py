"""A sweep as an array job of Slurm: a script with one task for each run."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mjx_serl.sweep.folder import Sweep

SCRIPT = "sweep.sbatch"
_LOGS = "slurm"
_TEXT = """\
#!/bin/bash
# {title}.
# Options on sbatch's own command line go before these: sbatch -p PARTITION --gpus 1 {script}
# Submitted again it goes on: runs that are finished end at once, the others from their checkpoint.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{most}
#SBATCH --chdir={here}
#SBATCH --output={logs}/%a.out
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=2
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
exec {command} --only "$SLURM_ARRAY_TASK_ID"
"""


def write_script(sweep: Sweep, *, jobs: int | None, words: Sequence[str] = ()) -> Path:
    """Write the script into the sweep's folder and return its path.

    Args:
        sweep: whose folder holds its spec.
        jobs: tasks at once; None leaves it to Slurm.
        words: more options of the sweep's command.
    """
    folder = sweep.path.absolute()
    path, logs = folder / SCRIPT, folder / _LOGS
    logs.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mjx_serl.sweep", str(folder), *words]
    text = _TEXT.format(
        title=_line(sweep.title),
        script=_line(shlex.quote(str(path))),
        name=shlex.quote(f"sweep-{folder.name}"),
        last=len(sweep.jobs) - 1,
        most="" if jobs is None else f"%{jobs}",
        here=shlex.quote(str(Path.cwd())),
        # A percent sign stands for a number of the job there.
        logs=shlex.quote(str(logs).replace("%", "%%")),
        command=shlex.join(command),
    )
    path.write_text(text)
    return path


def _line(text: str) -> str:
    return " ".join(text.split())
