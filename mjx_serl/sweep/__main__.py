"""Many runs of train.py from one file: python -m mjx_serl.sweep SPEC.toml --jobs 4"""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tyro

from mjx_serl.run.run_lock import locked, require_unlocked
from mjx_serl.sweep.folder import Sweep, SweepJob
from mjx_serl.sweep.jobs import Jobs
from mjx_serl.sweep.plan import planned_apart
from mjx_serl.sweep.report import Report
from mjx_serl.sweep.search import Trials, open_sweep
from mjx_serl.sweep.slurm import write_script
from scenes.contract.command_line import FAILED, INTERRUPTED, guarded
from scenes.contract.errors import InputError
from scenes.contract.ranges import require_number


def main(
    spec: tyro.conf.Positional[Path],
    /,
    jobs: int | None = None,
    retry: bool = False,
    only: int | None = None,
    slurm: bool = False,
    report: bool = False,
) -> int:
    """Train every variant and seed of a file, each as a process of its own, and write a report.

    Started again, it goes on: what is finished is left out, what was interrupted is resumed.

        seeds = "0..7"
        together = true                       # optional: a variant's seeds in one process
        [base]                                # options of train.py for all runs
        task = "franka/pick_cube"
        [grid]                                # each combination is a variant
        agent.lr = [3e-4, 6e-4]
        [variants.chunked]                    # a name for options, with each of the grid's
        preset = "qc_rlpd"

    With [search] in place of grid and variants Optuna chooses options; docs/sweeps.md has the rest.

    Args:
        spec: the TOML file, or the folder of a sweep that was begun.
        jobs: runs side by side, which share the processors (by default 1), or tasks of Slurm at
            once (by default all).
        retry: train what failed as well, from its last checkpoint.
        only: train the run of this number alone, from 0.
        slurm: write a script for Slurm (sbatch) in place of training.
        report: write the report anew in place of training.
    """
    if jobs is not None:
        require_number("jobs", jobs, least=1, whole=True)
    if sum([only is not None, slurm, report]) > 1:
        raise InputError("--only, --slurm and --report, allowed: one of them")
    sweep = open_sweep(spec)
    if sweep.spec.search is not None and (slurm or retry or only is not None):
        raise InputError(
            "--slurm, --retry or --only with [search], whose trials are chosen by what came of "
            "earlier ones; allowed: --jobs, --report"
        )
    sys.stdout.write(f"{sweep.title}\n")
    sys.stdout.flush()
    if report:
        return _report(sweep)
    if sweep.spec.search is not None:
        sweep.path.mkdir(parents=True, exist_ok=True)
        with locked(sweep.path):
            return _search(sweep, jobs or 1)
    # Before every option is checked nothing is there.
    configs = None if sweep.is_checked else planned_apart(sweep.file, sweep.path)
    sweep.path.mkdir(parents=True, exist_ok=True)
    if only is not None:
        run = sweep.job(only)
        # Many of these may begin at once, and write the same.
        require_unlocked(sweep.path)
        sweep.write(configs)
        return _train(sweep, [run], jobs=1, retry=retry, words=("--only", str(only)))
    with locked(sweep.path):
        sweep.write(configs)
        if slurm:
            return _submit(sweep, jobs, retry=retry)
        words = () if jobs is None else ("--jobs", str(jobs))
        status = _train(sweep, sweep.jobs, jobs=jobs or 1, retry=retry, words=words)
        _report(sweep)
        return status


def _train(
    sweep: Sweep,
    runs: Sequence[SweepJob],
    *,
    jobs: int,
    retry: bool,
    words: tuple[str, ...],
) -> int:
    """Train those of some runs that are not over; says which failed, and returns the status."""
    before = Counter(run.state() for run in runs)
    sys.stdout.write(f"{', '.join(f'{n} {state}' for state, n in before.items())}\n")
    wanted = ("not begun", "interrupted", *(["failed"] if retry else []))
    todo = [run for run in runs if run.state() in wanted]
    work = Jobs(todo, jobs=jobs, total=len(runs), done=before["finished"])
    stopped = work.work(sweep.command(*words))
    failed = [run for run in runs if run.state() == "failed"]
    for run in failed:
        sys.stdout.write(f"failed: {run.name}: {run.failure()}\n  {run.log}\n")
    if failed:
        sys.stdout.write(f"Once that is mended:\n  {sweep.command(*words, '--retry')}\n")
    for why in filter(None, (run.holder() for run in runs)):
        sys.stdout.write(f"left alone: {why}\n")
    if stopped:
        sys.stdout.write(f"Stopped and saved. Go on with:\n  {sweep.command(*words)}\n")
        return INTERRUPTED
    return 0 if all(run.state() == "finished" for run in runs) else FAILED


def _search(sweep: Sweep, jobs: int) -> int:
    """Train trial after trial, as many at once as there are jobs for; returns the status."""
    trials, words, worst = Trials(sweep), ("--jobs", str(jobs)), 0
    at_once = jobs if sweep.spec.together else jobs // len(sweep.spec.seeds)
    while names := trials.begun or trials.ask(max(at_once, 1)):
        sweep = trials.sweep
        try:
            sweep.write(planned_apart(sweep.file, sweep.path))
        except SystemExit:
            trials.drop()  # else it would be met again each time
            raise
        todo = [job for job in sweep.jobs if job.variant.name in names]
        status = _train(sweep, todo, jobs=jobs, retry=False, words=words)
        trials.tell(sweep)
        sys.stdout.write(f"{trials.best}\n")
        if status == INTERRUPTED or trials.begun:
            return status
        worst = max(worst, status)
    _report(trials.sweep)
    return worst


def _submit(sweep: Sweep, jobs: int | None, *, retry: bool) -> int:
    path = write_script(sweep, jobs=jobs, words=("--retry",) if retry else ())
    sys.stdout.write(f"Submit it with:\n  sbatch {shlex.quote(str(path))}\n")
    sys.stdout.write(f"and once runs are over, for the report:\n  {sweep.command('--report')}\n")
    return 0


def _report(sweep: Sweep) -> int:
    tables = Report(sweep).write()
    sys.stdout.write(f"{tables}{sweep.path / 'report.md'}\n")
    return 0


def run(prog: str | None = None) -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, prog=prog))


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.sweep"))
