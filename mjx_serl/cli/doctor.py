"""Print what this machine offers to mjx_serl: versions, devices, threads, memory, disk, drawing.

`make doctor` or `mjx-serl doctor`; exits 0 unless a package of the core does not import.
"""

import ctypes.util
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mjx_serl.cli.start import NO_INTEL_MAC
from mjx_serl.platform import program_cache
from scenes.contract.files import checkout, user_cache

CORE = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "mujoco", "mujoco-mjx")
CORE += ("orbax-checkpoint", "tyro", "jaxtyping", "rich", "tensorboardX", "matplotlib")
OPTIONAL = ("warp-lang", "mujoco-warp", "gymnasium", "brax", "torch", "gsplat", "viser")
OPTIONAL += ("tensorboard",)
# Distributions whose module has another name.
MODULES = {
    "mujoco-mjx": "mujoco.mjx",
    "orbax-checkpoint": "orbax.checkpoint",
    "warp-lang": "warp",
    "mujoco-warp": "mujoco_warp",
}
DRAW = (
    "import mujoco\n"
    "model = mujoco.MjModel.from_xml_string('<mujoco/>')\n"
    "mujoco.Renderer(model, 16, 16).close()\n"
)
DRIVER = Path("/proc/driver/nvidia/version")
WARP_GLIBC = (2, 34)  # of warp-lang 1.18's wheel for aarch64
GIB = 2**30


def first_line(path: Path) -> str:
    """Return the first line of a file, or an empty string where there is none."""
    try:
        return path.read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return ""


def version(name: str) -> str:
    """Return an installed distribution's version, or `-`."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def trouble(name: str) -> str:
    """Import a distribution's module; return why it failed, or an empty string."""
    try:
        importlib.import_module(MODULES.get(name, name))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def packages() -> tuple[list[tuple[str, str]], list[str]]:
    """Return the rows of the package table and the core packages that do not import."""
    rows, broken = [], []
    for name in CORE:
        why = trouble(name)
        broken += [name] if why else []
        rows.append((name, f"{version(name)}  BROKEN: {why}" if why else version(name)))
    rows += [(name, version(name)) for name in OPTIONAL if version(name) != "-"]
    absent = [name for name in OPTIONAL if version(name) == "-"]
    return [*rows, ("not installed", ", ".join(absent) or "nothing")], broken


def devices() -> list[tuple[str, str]]:
    """Return what jax computes on, with the time of one small compiled function."""
    import jax
    import jax.numpy as jnp

    started = time.perf_counter()
    jax.jit(lambda x: x @ x)(jnp.ones((8, 8))).block_until_ready()
    compile_ms = 1e3 * (time.perf_counter() - started)
    return [
        ("jax backend", f"{jax.default_backend()}, first jitted call {compile_ms:.0f} ms"),
        *((f"device {d.id}", f"{d.platform} {d.device_kind}") for d in jax.devices()),
        ("NVIDIA driver", first_line(DRIVER) or "none"),
        ("JAX_PLATFORMS", os.environ.get("JAX_PLATFORMS", "not set")),
        ("XLA_FLAGS", os.environ.get("XLA_FLAGS", "not set")),
    ]


def cameras() -> list[tuple[str, str]]:
    """Return what can draw splats or meshes here, or why not."""
    from splat_render import backend as renderer
    from splat_render import mesh_renderer as mjwarp_backend

    reasons = renderer.availability() | {"mjwarp (meshes)": mjwarp_backend.unavailable()}
    chosen = renderer.choose_backend("auto").name
    rows = [(name, "fine" if why is None else f"no: {why}") for name, why in reasons.items()]
    return [*rows, ("auto", chosen)]


def memory() -> str:
    """Return total and available memory from the kernel."""
    facts = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            facts[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return "unknown"
    return f"{facts['MemTotal'] / GIB:.1f} GiB, {facts['MemAvailable'] / GIB:.1f} GiB available"


def cpu_name() -> str:
    """Return the processor's name from the kernel, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def wheels() -> str:
    """Return which of what we need is not published for this kind of machine."""
    system, kind, (libc, version) = platform.system(), platform.machine(), platform.libc_ver()
    if system == "Darwin" and kind == "x86_64":
        return NO_INTEL_MAC
    old = libc == "glibc" and tuple(map(int, version.split(".")[:2])) < WARP_GLIBC
    if system == "Linux" and kind == "aarch64" and old:
        return f"those of warp-lang (extra warp) need glibc 2.34, this is {version}"
    return "there are of all that we need"


def machine() -> list[tuple[str, str]]:
    """Return the rows about processor, memory and disk."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [
        ("system", f"{platform.system()} {platform.release()}, {'-'.join(platform.libc_ver())}"),
        ("wheels", wheels()),
        ("processor", cpu_name()),
        ("threads", f"{threads} usable of {os.cpu_count()}"),
        ("memory", memory()),
    ]
    for name, place in (("disk here", Path.cwd()), ("disk temp", tempfile.gettempdir())):
        rows.append((name, f"{shutil.disk_usage(place).free / GIB:.1f} GiB free at {place}"))
    return rows


def draws(backend: str) -> str:
    """Try MuJoCo's off-screen renderer on a GL backend, in a process of its own: it may crash."""
    library = {"egl": "EGL", "osmesa": "OSMesa"}[backend]
    if not ctypes.util.find_library(library):
        return f"no lib{library} (only mujoco.Renderer needs it; training does not)"
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRAW], env=environment, capture_output=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode == 0:
        return "draws"
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"does not draw: {last[0] if last else f'exit code {done.returncode}'}"


def answer(command: list[str]) -> str:
    """Return the first line that a command prints, or an empty string where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.decode(errors="replace").splitlines() or [""])[0]


def tools() -> list[tuple[str, str]]:
    """Return the rows about compilers, drawing and caches."""
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    first = answer([compiler, "--version"]) if compiler else ""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(program_cache())
    size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    return [
        ("C++ compiler", first or "none (prebuilt paths only)"),
        ("CPU kernels", str(user_cache())),
        ("GL egl", draws("egl")),
        ("GL osmesa", draws("osmesa")),
        ("DISPLAY", os.environ.get("DISPLAY") or "not set"),
        ("jax cache", f"{cache} ({size / 2**20:.1f} MiB)"),
    ]


def environment() -> list[tuple[str, str]]:
    """Return the rows about the interpreter and how its packages got there."""
    try:
        stamp = json.loads((Path(sys.prefix) / "install.json").read_text())
    except (OSError, ValueError):
        stamp = {}
    how = {k: stamp[k] for k in ("accel", "groups", "install_seconds", "installer") if k in stamp}
    return [
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("set up", json.dumps(how) if how else "not by `make setup`"),
    ]


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print one table."""
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<18}{value}")


def run() -> int:
    """Print all tables; returns 1 when the core is broken."""
    rows, broken = packages()
    show("environment", environment())
    show("packages", rows)
    show("machine", machine())
    if not broken:
        show("devices", devices())
        show("cameras", cameras())
    show("tools", tools())
    anew = "`make clean setup`" if checkout() else "`pip install --force-reinstall mjx-serl`"
    verdict = f"broken: {', '.join(broken)}; {anew} makes it new" if broken else "fine"
    print(f"\ndoctor: {verdict}")
    return 1 if broken else 0
