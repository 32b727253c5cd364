"""Interpreters that see our packages and, before them, a few that must not be installed with ours.

torch is large, splax needs a newer JAX and brings GPLv3 plyfile: each has a virtual environment
under `.cache/`, made on first use. Where that cannot be done the test is skipped with the reason.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.peers.environments import InstallError, environment

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PeerEnv:
    """What an environment holds.

    Attributes:
        name: of its folder.
        pins: installed with all they need.
        bare: installed without what they ask for.
        ours: whether it sees the packages of this interpreter as well.
    """

    name: str
    pins: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    ours: bool = True


# All that needs torch shares one: it is large. gsplat imports ninja to build its kernels, which a
# CPU never does.
TORCH = PeerEnv(
    "torch",
    pins=("torch==2.13.0",),
    bare=("gsplat==1.5.3", "ninja==1.13.0", "stable-baselines3==2.9.2"),
)

# What Gymnasium's RecordVideo writes with, of pure Python: the rest of what it needs is here.
MOVIEPY = PeerEnv(
    "moviepy",
    bare=("moviepy==2.2.1", "proglog==0.1.12", "decorator==5.3.1", "python-dotenv==1.2.4"),
    ours=False,
)


def check_in(env: PeerEnv, *checks: str, here: bool = False) -> None:
    """Run files of tests in an environment and fail with what it printed.

    Args:
        env: where.
        checks: files beside this one; not named test_*, so they are not collected by themselves.
        here: this interpreter has all that is needed, and maybe a GPU.
    """
    python = Path(sys.executable) if here else peer_python(env)
    done = subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *(Path("tests", "splat_render", name) for name in checks),
        ],
        cwd=ROOT,
        env=os.environ | ({} if here else {"JAX_PLATFORMS": "cpu"}),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert " passed" in done.stdout


def peer_python(env: PeerEnv) -> Path:
    """Interpreter of an environment, or a skipped test that says why there is none."""
    folder = ROOT / ".cache" / f"env-{env.name}"
    try:
        python = environment(folder, env.pins, env.bare)
    except InstallError as error:
        pytest.skip(f"cannot make the environment: {error}")
    link, ours = _packages(folder) / "ours.pth", sysconfig.get_path("purelib")
    if env.ours and not (link.exists() and link.read_text() == ours):
        link.write_text(ours)
    return python


def peer_packages(env: PeerEnv) -> Path:
    """Folder of an environment's packages, for those that do get on with ours."""
    return _packages(peer_python(env).parents[1])


def _packages(folder: Path) -> Path:
    return folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
