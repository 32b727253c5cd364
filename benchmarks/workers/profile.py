"""Per-operation time of a compiled call, as text."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

CALLS = 5
ROWS = 30
# In a compiled program: name = type op(...), metadata={op_name="jit(f)/.../dot_general" ...}.
_OP_NAME = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name=\"([^\"]*)\"", re.MULTILINE)
_NOT_WORK = ("ThunkExecutor", "ThreadpoolListener", "end: ", "Wait", "while", "call")


def write_profile(
    path: Path, call: Callable[[], None], program: str, updates: int, params: Mapping[str, Any]
) -> None:
    """Trace a few calls and write the operations that took longest.

    Args:
        path: text file to write.
        call: runs the compiled program once, to its end.
        program: its compiled text, which says where an operation comes from.
        updates: learner updates in one call.
        params: printed above the table.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                call()
        times = operation_times(Path(folder))
    origins = dict(_OP_NAME.findall(program))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table(times, origins, updates * CALLS, params))


def operation_times(folder: Path) -> dict[str, tuple[float, int]]:
    """Return seconds and count of every operation in a trace folder, by its name in the program."""
    total: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for path in folder.rglob("*.xplane.pb"):
        profile = jax.profiler.ProfileData.from_file(str(path))
        for event in _operations(profile):
            seconds, count = total[event.name]
            total[event.name] = (seconds + event.duration_ns * 1e-9, count + 1)
    return dict(total)


def _operations(profile: Any) -> Any:
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                stats = {key for key, _ in event.stats}
                if "hlo_op" in stats and not event.name.startswith(_NOT_WORK):
                    yield event


def table(
    times: Mapping[str, tuple[float, int]],
    origins: Mapping[str, str],
    updates: int,
    params: Mapping[str, Any],
) -> str:
    """Text: share, microseconds per update, runs per update, operation, where it comes from."""
    whole = sum(seconds for seconds, _ in times.values()) or 1.0
    lines = [
        "# Written by `python -m benchmarks.learner --profile`: time per operation, all threads.",
        f"# {dict(params)}; {updates} updates, {1e6 * whole / updates:.0f} us of work per update",
        f"{'share':>6} {'us/update':>9} {'runs/update':>11}  operation (from)",
    ]
    ranked = sorted(times.items(), key=lambda item: -item[1][0])
    for name, (seconds, count) in ranked[:ROWS]:
        origin = "/".join(origins.get(name, "").split("/")[-3:])
        lines.append(
            f"{seconds / whole:6.1%} {1e6 * seconds / updates:9.1f} {count / updates:11.2f}  "
            f"{name} ({origin})"
        )
    return "\n".join(lines) + "\n"
