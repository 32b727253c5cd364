"""Set what must be set before jax starts, and say which tests this machine cannot run."""

import ctypes
import fcntl
import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from as_users import UNOPTIMISED
from keeping_time import play

from benchmarks.worker import resident_bytes
from mjx_serl.platform import prepare_platform

if TYPE_CHECKING:
    from mjx_serl.envs.env import Env, EnvState
    from scenes.build import Scene

# A runner in the background may ignore them, and what is started here would inherit that.
for ignored, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, usual)
KEPT = Path(__file__).resolve().parent.parent / ".cache"
# Compiled programs are kept between runs, workers and interpreters: most of a test's time is XLA.
CACHE = KEPT / "jax"
# So is bytecode, also where PYTHONDONTWRITEBYTECODE is set, as it is in many containers: every
# process that imports jax would parse it anew, which takes four seconds.
sys.dont_write_bytecode, sys.pycache_prefix = False, str(KEPT / "bytecode")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
# All of them: thousands take a few hundredths of a second each, again in every process.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# A worker that is larger than this lets go of what it compiled, which takes a second, and what
# later files share is compiled anew [bytes].
LARGE = 4 << 30
# Off-screen drawing of curve.png, whatever DISPLAY says.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {UNOPTIMISED}".strip()
# Where in Python an operation came from is read by nobody: a tenth of lowering and compiling.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# MJX is among what is tested, so its flag is set for the whole suite.
prepare_platform(mjx_on_cpu=True, cache_dir=CACHE)
# Tracing makes millions of objects that live: a fifth of its time went into looking for garbage
# among them at Python's usual thresholds.
gc.set_threshold(100_000, 20, 20)


def has_accelerator() -> bool:
    """Say whether jax sees anything but the CPU."""
    import jax

    return jax.default_backend() != "cpu"


def put_slow_files_first(items: list[pytest.Item]) -> None:
    """Sort files by how many of their tests are marked slow, so that no worker ends on a long one.

    Within a file, and between files that have as many, the order stays.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files for the workers; skip gpu tests, with the reason, where jax has only the CPU."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        put_slow_files_first(items)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not has_accelerator():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="jax sees no accelerator here"))


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run tests of what keeps time by their own protocol."""
    return play(item, nextitem) if item.get_closest_marker("keeps_time") else None


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Let go of what files compiled where it is much: a worker grew to 8 GB."""
    yield
    if "jax" in sys.modules and resident_bytes() > LARGE:
        give_back_freed()
        if resident_bytes() > LARGE:
            import jax

            jax.clear_caches()
            gc.collect()
            give_back_freed()


def give_back_freed() -> None:
    """Let the system have what was freed: half of what a worker that compiles holds is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session", autouse=True)
def short_programs() -> Iterator[None]:
    """Draw random numbers by a call, so that there is less to compile."""
    try:
        from short_programs import random_by_call
    except ImportError:  # a peer's environment, whose JAX is another inside
        yield
        return

    with random_by_call():
        yield


@pytest.fixture(scope="session", autouse=True)
def optimised_backgrounds() -> Iterator[None]:
    """Compile what draws a background as users do: unoptimised it takes seven seconds, not one."""
    import jax

    from splat_render.backends import xla

    plain = xla.draw_background
    optimised = jax.jit(
        plain.__wrapped__,
        static_argnames="config",
        compiler_options={"xla_backend_optimization_level": "2"},
    )

    def draw_background(splats: Any, poses: Any, cameras: Any, config: Any) -> Any:
        # Options are for a program, not for a part of one; small pictures do not repay compiling.
        part = isinstance(cameras.viewmats, jax.core.Tracer)
        chosen = plain if part or config.width < 128 else optimised
        return chosen(splats, poses, cameras, config)

    xla.draw_background = draw_background
    yield
    xla.draw_background = plain


# One compiled scene and one environment per task: compiling is the cost.


@pytest.fixture(scope="session")
def panda_scene() -> "Scene":
    """The sparse task's scene."""
    from scenes.build import build_scene
    from scenes.layouts import pick_cube

    return build_scene(pick_cube())


@pytest.fixture(scope="session")
def make_native() -> "Callable[[str], Env]":
    """A registered task on native physics, built once."""
    from mjx_serl.envs.env import make_env

    built: "dict[str, Env]" = {}

    def make(task: str) -> "Env":
        if task not in built:
            built[task] = make_env(task, physics="native")
        return built[task]

    return make


@pytest.fixture(scope="session")
def sparse(make_native: "Callable[[str], Env]") -> "Env":
    """franka/pick_cube on native physics."""
    return make_native("franka/pick_cube")


@pytest.fixture(scope="session")
def dense(make_native: "Callable[[str], Env]") -> "Env":
    """franka/pick_cube_dense on native physics."""
    return make_native("franka/pick_cube_dense")


@pytest.fixture(scope="session")
def mobile(make_native: "Callable[[str], Env]") -> "Env":
    """piper/mobile_pick on native physics."""
    return make_native("piper/mobile_pick")


@pytest.fixture(scope="session")
def mobile_start(mobile: "Env") -> "EnvState":
    """One of its starts, as numpy."""
    import jax

    return jax.device_get(jax.jit(mobile.reset)(jax.random.key(0)))


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle to read: the suite's first worker that wants it makes it for all."""
    from tiny_bundle import tiny_bundle

    mine = tmp_path_factory.getbasetemp()
    root = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    folder = root / "bundle"
    with (root / "bundle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            tiny_bundle(tmp_path_factory.mktemp("bundle")).rename(folder)
    return folder
