"""What a platform needs set before JAX starts; called by the entry scripts, never at import."""

import contextlib
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from scenes.contract.files import checkout, usable_cache, user_cache

# MJX on a CPU is over 100 times too slow with XLA's fusion emitters (jax >= 0.7), see
# github.com/google-deepmind/mujoco/issues/2957. The learner is a third faster with them, so they
# are switched off only when MJX is what steps the worlds.
MJX_CPU_FLAG = "--xla_cpu_use_fusion_emitters=false"


# Devices that XLA makes of one CPU, and the threads that it then needs: where devices wait for each
# other on all threads of a small pool there is none left for the one that they wait for (reference
# next_capabilities.md C.4: on two cores 5 of 5 runs hung without).
DEVICES_FLAG = "--xla_force_host_platform_device_count"
LEAST_THREADS, THREADS_PER_DEVICE = 8, 4
_RANGE, _MOST_SEEDS = re.compile(r"(\d{1,9})\.\.(\d{1,9})"), 1000

# Settings of JAX that neither our worlds (32 bits) nor MJX (broadcasts freely) can work under,
# with the values that leave them as they are by default.
PLAIN = {
    "JAX_ENABLE_X64": ("0", "", "n", "no", "f", "false", "off"),
    "JAX_NUMPY_RANK_PROMOTION": ("allow",),
}


def program_cache() -> Path:
    """Where compiled programs are kept: in the checkout, else in the user's cache folder."""
    root = checkout()
    return user_cache() / "jax" if root is None else root / ".cache" / "jax"


def prepare_platform(
    *, mjx_on_cpu: bool = False, cache_dir: Path | None = None, cpu_devices: int = 1
) -> None:
    """Set XLA flags and the compilation cache; warns when JAX has been imported too early.

    64-bit JAX and rank promotion other than "allow" are switched off with a line on stderr.

    Args:
        mjx_on_cpu: the worlds are stepped by MJX (`jax` or `warp`) on a CPU.
        cache_dir: folder of compiled programs, kept between runs, a temporary one where it cannot
            be written; None leaves caching off.
        cpu_devices: that a CPU is to be for JAX; no GPU is changed by it.
    """
    wanted: dict[str, str] = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # Each program from the compilation cache would print a page about instruction sets that
        # XLA itself chose; what fails is raised as an exception all the same.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    flags = os.environ.get("XLA_FLAGS", "")
    more = [MJX_CPU_FLAG] if mjx_on_cpu and "xla_cpu_use_fusion_emitters" not in flags else []
    if cpu_devices > 1:
        more += [] if DEVICES_FLAG in flags else [f"{DEVICES_FLAG}={cpu_devices}"]
        wanted["NPROC"] = str(max(LEAST_THREADS, THREADS_PER_DEVICE * cpu_devices))
    if more:
        wanted["XLA_FLAGS"] = " ".join([*flags.split(), *more])
    if cache_dir is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        wanted["JAX_COMPILATION_CACHE_DIR"] = str(usable_cache(cache_dir))
        wanted["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    changed = {k: v for k, v in wanted.items() if k == "XLA_FLAGS" or k not in os.environ}
    if changed and "jax" in sys.modules:
        warnings.warn(
            f"JAX was imported before the platform was prepared, so {', '.join(changed)} may be "
            "ignored. Import jax after prepare_platform(), or start with train.py.",
            RuntimeWarning,
            stacklevel=2,
        )
    os.environ.update(changed)
    _set_plain()


def _set_plain() -> None:
    """Undo settings that nothing here works under, with a line for each."""
    for name, plain in PLAIN.items():
        value = os.environ.get(name)
        if value is not None and value.lower() not in plain:
            os.environ[name] = plain[0]
            sys.stderr.write(f"{name}={value} is ignored: nothing here works under it\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartOptions:
    """What a training command line says that must be known before JAX, and so the rest, is read.

    Attributes:
        preset: name of the defaults that the other options change; None takes the device's.
        resume: folder of a run to go on with.
        physics: what steps the worlds.
        devices: that train together.
        seeds: train with each of these, one after another, and print a table; A..B names all from
            A to B.
        together: train the seeds at the same time, in this process.
        plugin: modules to import, which register what is yours; may be given several times.
        method: name of another way to train than the preset's.
        agent: name of another learner than the preset's.
        net: name of another velocity net than that learner's, where it has one to choose.
    """

    preset: str | None = None
    resume: Path | None = None
    physics: str = "auto"
    devices: str | None = None
    seeds: tuple[int, ...] = ()
    together: bool = False
    plugin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    method: str | None = None
    agent: str | None = None
    net: Annotated[str | None, tyro.conf.arg(name="agent.net")] = None


def parse_start(argv: Sequence[str]) -> tuple[StartOptions, list[str]]:
    """Return the options that are needed first, and the words of the others in their order."""
    return tyro.cli(StartOptions, args=_spelt(argv), return_unknown_args=True, add_help=False)


def _spelt(argv: Sequence[str]) -> list[str]:
    """The words with each number that an A..B after --seeds stands for."""
    words, option = [], ""
    for word in argv:
        option = word if word.startswith("--") else option
        ends = _RANGE.fullmatch(word) if option == "--seeds" else None
        first, last = map(int, ends.groups()) if ends else (0, -1)
        few = first <= last < first + _MOST_SEEDS
        words += map(str, range(first, last + 1)) if few else [word]
    return words


def needs_mjx(*, physics: str = "auto", run: Path | None = None) -> bool:
    """Return whether MJX steps the worlds: of a run on disk, else of the physics named."""
    return _of_run(run, "physics", physics) in ("mjx", "warp")


def cpu_devices(*, devices: str | None, run: Path | None = None) -> int:
    """Return how many devices a CPU is to be, from what was asked for or a run on disk says."""
    asked = _of_run(run, "devices", 1) if devices is None else devices
    try:
        return max(1, int(asked))
    except ValueError:  # "auto" is one CPU; what is no number is refused by the code that reads all
        return 1


def _of_run(run: Path | None, name: str, otherwise: Any) -> Any:
    """Return what the config of a run on disk says, where there is one."""
    # One run's, or that of several seeds.
    configs = () if run is None else (run / "config.json", run / "seeds.json")
    for config in (path for path in configs if path.is_file()):
        # A broken file is reported by the code that reads all of it.
        with contextlib.suppress(ValueError, AttributeError):
            otherwise = json.loads(config.read_text()).get(name, otherwise)
    return otherwise
