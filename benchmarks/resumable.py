"""How a benchmark's script runs: in one go, or row by row, so that it goes on where it was."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from benchmarks.options import read_options
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.results import Recorder, load, say
from benchmarks.table import finish
from scenes.contract.command_line import guarded
from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name

Config = TypeVar("Config")


def go_on(
    kind: type[Config], about: str | None, question: str, run: Callable[[Config, Recorder], None]
) -> NoReturn:
    """Read options of a `kind`, measure and file, and end the process; bad input is one line."""
    options = read_options(kind, about)

    def measure() -> int:
        run(options, resumed(question))
        return 0

    sys.exit(guarded(measure))


def measure_once(
    kind: type[Config], about: str | None, question: str, run: Callable[[Config, Recorder], None]
) -> NoReturn:
    """Read options of a `kind`, measure all of it, file, and end the process."""
    options, recorder = read_options(kind, about), Recorder(question)
    run(options, recorder)
    finish(recorder.results)
    sys.exit(0)


def measure_to_save(
    kind: type[Any], about: str | None, question: str, run: Callable[[Any, Recorder], None]
) -> None:
    """Read options of a `kind` and measure all of it; it is filed where `save` says so."""
    options, recorder = read_options(kind, about), Recorder(question)
    run(options, recorder)
    if options.save:
        finish(recorder.results)


def resumed(question: str) -> Recorder:
    """Return a recorder that begins with what is filed of a question, and files every new row."""
    recorder = Recorder(question, keep=finish)
    recorder.results += [row for row in load() if row.question == question]
    return recorder


def named_tasks(only: tuple[str, ...]) -> list[str]:
    """Return those tasks, or all; raises KeyError for an unknown one."""
    from mjx_serl.envs.task import TASKS

    for name in only:
        TASKS[name]  # an unknown one is told with those that there are
    return [name for name in TASKS if not only or name in only]


def require_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownNameError for the first of some names that is not among the known ones."""
    known = [*known]
    for name in names:
        if name not in known:
            raise UnknownNameError(unknown_name(kind, name, known))


def is_wanted(recorder: Recorder, name: str, *, again: bool) -> bool:
    """Return whether to measure a row, whose old one is dropped then; says so."""
    filed = any(row.name == name for row in recorder.results)
    if filed and not again:
        return False
    drop(recorder, name)
    say(f"{recorder.question}: {name}")
    return True


def drop(recorder: Recorder, name: str) -> None:
    """Take a row out, where there is one."""
    recorder.results[:] = [row for row in recorder.results if row.name != name]


def ask_worker(
    recorder: Recorder, worker: str, name: str, timeout: float, params: dict[str, Any]
) -> dict[str, Any] | None:
    """What a process of its own says once it is ready; None where it did not, which is filed."""
    process = WorkerProcess(worker, params)
    try:
        process.wait_ready(timeout)
        return process.ready["facts"]
    except WorkerError as error:
        recorder.missing(name, str(error), params)
        return None
    finally:
        process.close()
