"""Where the processes of a run are: on this machine, or on others through ssh."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mjx_serl.launch.one_rank import KILL, STOP
from mjx_serl.ranks import Ranks
from mjx_serl.run.processes import TRAIN
from scenes.contract.errors import InputError

_DEVICES = "CUDA_VISIBLE_DEVICES"
# Asks for no password, and notices a host that is gone within half a minute.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=2")


@dataclass(frozen=True)
class Place:
    """Where one process runs.

    Attributes:
        host: for ssh; "" is this machine.
        devices: its accelerators as the environment names them; "" leaves what is there.
        ssh: the words that reach a host.
    """

    host: str = ""
    devices: str = ""
    ssh: tuple[str, ...] = SSH

    @property
    def name(self) -> str:
        """For a person."""
        return self.host or "this machine"

    def start(self, ranks: Ranks, words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start train.py there with these words; what it prints goes to the end of a log.

        On a host, this folder and this interpreter must be where they are here.
        """
        variables = ranks.environ() | ({_DEVICES: self.devices} if self.devices else {})
        command = [
            *(sys.executable, "-m", "mjx_serl.launch.one_rank"),
            *(f"{name}={value}" for name, value in variables.items()),
            "--",
            *TRAIN,
            *words,
        ]
        if self.host:
            there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(command)}"
            command = [*self.ssh, self.host, there]
        with log.open("ab") as out:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def tell(process: subprocess.Popen[bytes], *, kill: bool = False) -> None:
    """Let a process save and end; with `kill` it ends now."""
    if process.stdin is None or process.stdin.closed:
        return
    try:
        process.stdin.write(f"{KILL if kill else STOP}\n".encode())
        process.stdin.flush()
    except BrokenPipeError:
        return  # it has ended


def local_places(count: int) -> list[Place]:
    """So many processes on this machine, which share the accelerators that are named.

    Raises InputError where there are fewer than processes.
    """
    named = [name for name in os.environ.get(_DEVICES, "").split(",") if name]
    if named and len(named) < count:
        raise InputError(
            f"--local {count} with {_DEVICES}={','.join(named)}, allowed: at most {len(named)}, "
            "one process for each"
        )
    shares = [named[len(named) * k // count : len(named) * (k + 1) // count] for k in range(count)]
    return [Place(devices=",".join(share)) for share in shares]
