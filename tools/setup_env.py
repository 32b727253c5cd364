"""Make the virtual environment the Makefile's targets run in; instant when it is up to date.

Standard library only, and readable by old interpreters, so that a machine whose python3 is too
old is told so in one line. What is installed comes from the hashed locks in `requirements/`.

    python3 tools/setup_env.py --group core|dev [--venv .venv] [--accel auto|cpu|cuda|cuda12]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
FLOOR = (3, 11)
# Tested interpreters first, then a newer one the locks still resolve for.
CANDIDATES = ("python3", "python3.12", "python3.11", "python3.13", "python")
# Oldest Linux driver that runs each CUDA generation, from NVIDIA's compatibility table.
DRIVER_FLOORS = (("cuda", 580), ("cuda12", 525))
# The oldest C library that warp-lang 1.18's wheel for aarch64 runs on.
WARP_GLIBC = (2, 34)
PROC_DRIVER = Path("/proc/driver/nvidia/version")
LOCKS = {"cpu": "cpu.txt", "cuda": "cuda13.txt", "cuda12": "cuda12.txt"}


class SetupError(Exception):
    """Something the user has to know; its text is one line."""


def say(text: str) -> None:
    """Print one progress line at once, also when stdout is a pipe."""
    print(f"setup: {text}", flush=True)


def answer(command: list[str]) -> str:
    """Return what a command prints, or an empty string when it fails or is not there."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()


def succeeds(command: list[str], extra_env: dict[str, str] | None = None) -> bool:
    """Run a command with its errors shown and say whether it worked."""
    try:
        return subprocess.call(command, cwd=ROOT, env={**os.environ, **(extra_env or {})}) == 0
    except OSError:
        return False


# Which interpreter -------------------------------------------------------------------------


def version_of(python: str) -> tuple[int, int] | None:
    """Return (major, minor) of an interpreter, or None when it does not run."""
    text = answer([python, "-c", "import sys; print('%d %d' % sys.version_info[:2])"])
    return tuple(map(int, text.split())) if text else None  # type: ignore[return-value]


def candidates() -> Iterator[str]:
    """Yield interpreters worth asking, in order of preference."""
    for name in CANDIDATES:
        found = shutil.which(name)
        if found:
            yield found
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for pattern in ("3.12*", "3.11*", "3.13*"):
        for path in sorted(versions.glob(pattern + "/bin/python"), reverse=True):
            yield str(path)


def find_python(asked: str) -> str:
    """Return an interpreter that is new enough; raises SetupError naming what was found."""
    if asked:
        version = version_of(asked)
        if version is None:
            raise SetupError(f"PYTHON={asked} does not run.")
        if version < FLOOR:
            raise SetupError(f"PYTHON={asked} is {dotted(version)}; {dotted(FLOOR)} is needed.")
        return asked
    seen = {path: version_of(path) for path in candidates()}
    for path, version in seen.items():
        if version is not None and version >= FLOOR:
            return path
    return managed_python(seen)


def managed_python(seen: dict[str, tuple[int, int] | None]) -> str:
    """Let uv fetch an interpreter; raises SetupError where that is not possible either."""
    best = max((v for v in seen.values() if v is not None), default=None)
    had = f"the newest here is {dotted(best)}" if best else "there is none here"
    say(f"no Python {dotted(FLOOR)} or newer ({had}); asking uv for one")
    boot = next((path for path, version in seen.items() if version is not None), sys.executable)
    uv = find_uv(None) or install_uv(boot)
    if uv and succeeds([uv, "python", "install", "3.12"]):
        found = answer([uv, "python", "find", "3.12"])
        if found:
            return found
    raise SetupError(
        f"Python {dotted(FLOOR)} or newer is needed, {had}. "
        "Install one (Debian: apt install python3 python3-venv) or pass PYTHON=/path/to/python."
    )


def dotted(version: tuple[int, int]) -> str:
    """Write a version tuple as 3.11."""
    return f"{version[0]}.{version[1]}"


# Which accelerator -------------------------------------------------------------------------


def gpu_nodes() -> list[str]:
    """Return the device nodes of NVIDIA GPUs; a driver without one computes nothing."""
    return [path.name for path in Path("/dev").glob("nvidia[0-9]*")]


def driver_major() -> int | None:
    """Return the NVIDIA driver's major version; None where there is no driver or no GPU."""
    with contextlib.suppress(OSError):  # the kernel answers at once, nvidia-smi takes a second
        match = re.search(r"(?<![\d.])(\d{3})\.\d+", PROC_DRIVER.read_text())
        if match and gpu_nodes():
            return int(match.group(1))
    if not shutil.which("nvidia-smi"):
        return None
    text = answer(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return int(text.split(".")[0]) if text[:1].isdigit() else None


def choose_accel(asked: str) -> tuple[str, str]:
    """Return (accelerator, reason): what was asked for, else what the machine has."""
    if asked != "auto":
        return asked, f"ACCEL={asked}"
    driver = driver_major()
    if driver is None:
        return "cpu", "no NVIDIA GPU found"
    for accel, floor in DRIVER_FLOORS:
        if driver >= floor:
            return accel, f"NVIDIA driver {driver}"
    return "cpu", f"NVIDIA driver {driver} is older than {DRIVER_FLOORS[-1][1]}"


# What is there already ---------------------------------------------------------------------


def refuse_platform(accel: str, group: str) -> None:
    """Raise SetupError where a package that the locks name has no wheel for this machine."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Darwin", "x86_64"):
        raise SetupError(
            "jax and mujoco 3.17 have no wheels for Intel Macs. Hint: Apple silicon, or Linux"
        )
    libc, version = platform.libc_ver()
    old = libc == "glibc" and tuple(map(int, version.split(".")[:2])) < WARP_GLIBC
    if machine == "aarch64" and old and (group == "dev" or accel != "cpu"):
        raise SetupError(
            f"warp-lang 1.18 has wheels for aarch64 from glibc {dotted(WARP_GLIBC)} on, this is "
            f"{version}. Hint: a newer system, or make train ACCEL=cpu, which does without warp"
        )


def lock_files(accel: str, group: str) -> list[Path]:
    """Return the locks to install, in order; `dev` holds all of the CPU core at the same pins."""
    names = [LOCKS[accel]] if group == "core" or accel != "cpu" else []
    return [ROOT / "requirements" / name for name in names + ["dev.txt"] * (group == "dev")]


def key_of(accel: str) -> str:
    """Hash what decides an environment: its locks and the project's own metadata."""
    digest = hashlib.sha256()
    for path in (ROOT / "requirements" / LOCKS[accel], ROOT / "requirements" / "dev.txt"):
        digest.update(path.read_bytes())
    # Editing a linter's table must not trigger an installation.
    digest.update((ROOT / "pyproject.toml").read_text().split("\n[tool.")[0].encode())
    return digest.hexdigest()[:16]


def read_stamp(venv: Path) -> dict[str, Any]:
    """Return what the last finished installation wrote, or an empty dict."""
    try:
        return json.loads((venv / "install.json").read_text())
    except (OSError, ValueError):
        return {}


def is_ready(stamp: dict[str, Any], accel: str, group: str) -> bool:
    """Say whether an environment already holds what is asked for."""
    if not stamp or group not in stamp["groups"]:
        return False
    # An environment with CUDA also runs on the CPU (the Makefile sets JAX_PLATFORMS).
    had = stamp["accel"] if accel == "cpu" else accel
    return stamp["accel"] == had and stamp["key"] == key_of(had)


def refuse_other_python(venv: Path, asked: str) -> None:
    """Raise SetupError when an environment exists and is of another version than asked for."""
    have = version_of(str(venv / "bin" / "python")) if asked else None
    want = version_of(asked) if asked else None
    if have is not None and want is not None and have != want:
        raise SetupError(
            f"{venv} is Python {dotted(have)} but PYTHON={asked} is {dotted(want)}: "
            "name another environment with VENV=, or `make clean`."
        )


# Making it ---------------------------------------------------------------------------------


def make_venv(venv: Path, asked: str) -> Path:
    """Return the environment's interpreter, creating the environment where there is none."""
    python = venv / "bin" / "python"
    have = version_of(str(python)) if python.exists() else None
    if have is not None and have >= FLOOR:
        return python
    if (venv / "pyvenv.cfg").exists():
        say(f"{venv} does not run any more; making it again")
        shutil.rmtree(venv)
    base = find_python(asked)
    say(f"Python {dotted(version_of(base) or FLOOR)} ({base}) -> {venv}")
    if not create(venv, base):
        raise SetupError(
            f"{base} can make no environment: it has neither venv with ensurepip nor pip. "
            "Debian: apt install python3-venv."
        )
    return python


def create(venv: Path, base: str) -> bool:
    """Make an empty environment: with uv where it is, with venv, else with uv through pip."""
    uv = find_uv(None)
    if uv and succeeds([uv, "venv", "-q", "--seed", "--python", base, str(venv)]):
        return True
    if answer([base, "-c", "import ensurepip, venv; print(1)"]) and succeeds(
        [base, "-m", "venv", str(venv)]
    ):
        return True
    shutil.rmtree(venv, ignore_errors=True)  # what a venv without ensurepip leaves behind
    uv = install_uv(base)
    return bool(uv) and succeeds([str(uv), "venv", "-q", "--python", base, str(venv)])


def find_uv(venv: Path | None) -> str | None:
    """Return a uv that runs: the user's, the one set up before, the environment's."""
    places = [shutil.which("uv"), TOOLS / "bin" / "uv", venv / "bin" / "uv" if venv else None]
    return next((str(place) for place in places if place and answer([str(place), "-V"])), None)


def install_uv(python: str) -> str | None:
    """Put the pinned uv under .tools with the pip of `python`; None where that fails.

    A target install touches no system folder, so Debian's externally-managed mark allows it.
    """
    if not answer([python, "-m", "pip", "--version"]):
        return None
    lock = ROOT / "requirements" / "uv.txt"
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--upgrade", "--require-hashes", "--target", str(TOOLS), "-r", str(lock)]
    return find_uv(None) if succeeds(command) else None


def install(python: Path, locks: list[Path]) -> str:
    """Install the locks and the project into an environment; return the installer's name."""
    uv = find_uv(python.parent.parent) or install_uv(str(python))
    for installer in installers(str(python), uv):
        say(f"installing {', '.join(lock.name for lock in locks)} with {installer[0]}")
        hashed = [["--require-hashes", "-r", str(lock)] for lock in locks]
        project = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
        if all(succeeds([*installer[1], *arguments]) for arguments in [*hashed, project]):
            return installer[0]
        say(f"{installer[0]} did not manage")
    raise SetupError(
        "the packages could not be installed (the installer's own words are above). "
        "Is a package index reachable?"
    )


def build_kernels(python: Path) -> None:
    """Compile the CPU kernels now, so that the first run does not wait for them."""
    say("compiling the CPU kernels")
    # Says in one line why not where there is no compiler; everything runs without them, slower.
    packages = ("mjx_serl.envs.physics.native_ffi", "splat_render.backends.native")
    commands = [[str(python), "-m", package] for package in packages]
    with ThreadPoolExecutor() as side_by_side:
        list(side_by_side.map(succeeds, commands))


def installers(python: str, uv: str | None) -> Iterator[tuple[str, list[str]]]:
    """Yield (name, command) of the ways to install, fastest first."""
    if uv:
        yield "uv", [uv, "pip", "install", "-q", "--python", python]
    if answer([python, "-m", "pip", "--version"]):
        yield "pip", [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Make a second `make` wait, instead of installing into the same folder."""
    import fcntl

    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "setup.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def set_up(venv: Path, *, group: str, accel: str, python: str) -> None:
    """Bring `venv` to the asked state and write its install.json."""
    refuse_other_python(venv, python)
    accel, reason = choose_accel(accel)
    stamp = read_stamp(venv)
    if is_ready(stamp, accel, group):
        return
    refuse_platform(accel, group)
    started = time.monotonic()
    say(f"{group} packages for {accel} ({reason})")
    interpreter = make_venv(venv, python)
    installer = install(interpreter, lock_files(accel, group))
    build_kernels(interpreter)
    seconds = time.monotonic() - started
    same = stamp.get("key") == key_of(accel)
    record = {
        "key": key_of(accel),
        "accel": accel,
        "groups": ["core", "dev"] if group == "dev" else ["core"],
        # Adding the dev group later adds its seconds; a new lock starts from zero.
        "install_seconds": round(seconds + (stamp["install_seconds"] if same else 0.0), 2),
        "installer": installer,
        "python": dotted(version_of(str(interpreter)) or FLOOR),
    }
    part = venv / "install.json.part"
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(venv / "install.json")
    say(f"ready in {seconds:.1f} s")


def main() -> int:
    """Parse the command line; returns 0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(description="make the project's virtual environment")
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--group", choices=["core", "dev"], default="core")
    parser.add_argument("--accel", choices=["auto", *LOCKS], default="auto")
    parser.add_argument("--python", default="", help="interpreter to build on")
    options = parser.parse_args()
    try:
        with one_at_a_time():
            # Not resolved: a venv's python is a link, and its folder is what counts.
            venv = Path(os.path.abspath(ROOT / options.venv))
            set_up(venv, group=options.group, accel=options.accel, python=options.python)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
