"""The tables of docs/scale.md that are computed, from results.jsonl.

python -m benchmarks.scale_page
"""

from collections.abc import Callable, Iterator, Sequence

from benchmarks import devices, gpu_ready, large
from benchmarks.exchange import CLUSTERS, UPDATE_US, predicted
from benchmarks.process import ROOT
from benchmarks.results import Result, load

PAGE = ROOT / "docs" / "scale.md"
_EXCHANGED = ", 8 devices: exchanged per update"
_WORLDS = f", {gpu_ready.MANY} worlds"


def page(text: str, results: Sequence[Result]) -> str:
    """Return the page with its tables as the results have them."""
    for name, lines in _TABLES.items():
        begin, end = f"<!-- {name}: python -m benchmarks.scale_page -->", f"<!-- end {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{PAGE} has no {begin} ... {end}")
        text = "\n".join([f"{before}{begin}", *lines(results), f"{end}{after}"])
    return text


def _counted(results: Sequence[Result]) -> Iterator[str]:
    """What the compiled epochs exchange."""
    head = ("preset", "updates an epoch", "all-reduces an update", "bytes an update")
    yield from _head(*head, "at an epoch's end")
    for preset, params in _exchanged(results):
        yield _line(
            f"`{preset}`",
            f"{params['updates_per_epoch']:.0f}",
            f"{params['all_reduces_per_update']:g}",
            f"{params['bytes_per_update'] / 1e3:,.0f} kB",
            f"{params['outside_per_epoch']}, {params['bytes_outside']:,} B",
        )


def _predicted(results: Sequence[Result]) -> Iterator[str]:
    """What that is predicted to cost, and what is left."""
    yield from _head("preset", *(cluster.name for cluster in CLUSTERS))
    for preset, params in _exchanged(results):
        found = predicted(params["all_reduces_per_update"], params["bytes_per_update"])
        yield _line(f"`{preset}`", *map(_efficiencies, found.values()))


def _efficiencies(told: dict[str, float]) -> str:
    shares = (f"{told[f'{update:g} us']:.0%}"[:-1] for update in UPDATE_US)
    return f"{told['exchange_us']:.0f} us: {', '.join(shares)} %"


def _exchanged(results: Sequence[Result]) -> Iterator[tuple[str, dict]]:
    for row in results:
        is_one = row.question == devices.QUESTION and row.name.endswith(_EXCHANGED)
        if is_one and row.value is not None:
            yield row.name.removesuffix(_EXCHANGED), row.params


def _large(results: Sequence[Result]) -> Iterator[str]:
    """What a device holds of large policies, and what an update of them passes."""
    head = ("agent", "devices", "on each", "with `--fsdp`", "at the most off")
    yield from _head(*head, "all-gathers, reduce-scatters, all-reduces an update")
    for row in results:
        name, _, rest = row.name.partition(", ")
        if row.question != large.QUESTION or row.value is None or "--fsdp" not in rest:
            continue
        found, among = row.params, rest.split()[0]
        if "each" in found:
            yield _line(name, among, _gigabytes(found["bytes"]), _gigabytes(found["each"]), "", "")
            continue
        held = [found[kind].get("agent_bytes", found[kind]["arguments"]) for kind in _HELD]
        sizes = (f"{nbytes / 1e6:.3g} MB" for nbytes in held)
        told = found["fsdp"]
        passed = ""
        if "updates" not in found:
            every = [told["times"].get(x, 0) + told["times_inside"].get(x, 0) for x in _PASSED]
            passed = ", ".join(map(str, every))
        yield _line(name, among, *sizes, f"{found['differ']:.0e}", passed)


_HELD = ("replicated", "fsdp")
_PASSED = ("all-gather", "reduce-scatter", "all-reduce")


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.3g} GB"


def _temporaries(results: Sequence[Result]) -> Iterator[str]:
    """What epochs want beside their state."""
    head = ("preset, physics", "state", "fused", "unfused", "XLA, for a CPU")
    yield from _head(*head, "largest array that is computed", "faults")
    for (physics, preset), row in sorted(_lowered(results).items()):
        name, params = f"`{preset}`, {physics}", row.params
        if row.value is None:
            yield _line(name, *["-"] * 5, params["reason"])
            continue
        sizes = [params["state_bytes"], params["fused_bytes"], row.value]
        on_cpu = _mebibytes(params["cpu_bytes"]) if "cpu_bytes" in params else ""
        faults = ", ".join(params["faults"]) or "none"
        yield _line(name, *map(_mebibytes, sizes), on_cpu, params["largest"][0], faults)


def _lowered(results: Sequence[Result]) -> dict[tuple[str, str], Result]:
    """Rows of a GPU's number of worlds, by their physics and preset."""
    found = {}
    for row in results:
        if row.question == gpu_ready.QUESTION and row.name.endswith(_WORLDS):
            preset, physics = row.name.removesuffix(_WORLDS).split(", ")
            found[physics, preset] = row
    return found


def _mebibytes(nbytes: float) -> str:
    return f"{nbytes / 2**20:,.0f} MiB"


def _head(*cells: str) -> Iterator[str]:
    yield _line(*cells)
    yield _line(*["---"] * len(cells))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


_TABLES: dict[str, Callable[[Sequence[Result]], Iterator[str]]] = {
    "exchanged": _counted,
    "large": _large,
    "predicted": _predicted,
    "temporaries": _temporaries,
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(), load()))


if __name__ == "__main__":
    main()
