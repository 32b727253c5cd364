"""One run in several processes: python -m mjx_serl.launch --local 2 --preset laptop ..."""

import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import tyro

from mjx_serl.launch.launched_run import LaunchedRun
from mjx_serl.launch.places import SSH, Place, local_places
from mjx_serl.launch.supervisor import Coordinator, Supervisor
from mjx_serl.launch.templates import PORT, job_set, slurm_script
from mjx_serl.ranks import read_ranks
from mjx_serl.run.processes import TRAIN
from mjx_serl.run.signals import StopSignal
from scenes.contract.command_line import guarded, require_port
from scenes.contract.errors import InputError
from scenes.contract.ranges import require_number

LOOPBACK = "127.0.0.1"
UNFINISHED = 75  # status of a process that saved and has to go on (EX_TEMPFAIL)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Train one run in several processes, and start all again from a checkpoint where one fails.

    What is not listed here is for train.py, with the run's own options:

        python -m mjx_serl.launch --local 2 --preset laptop --run.name pair
        python -m mjx_serl.launch --hosts node1 node2 --interface 10.0.0.1 --devices auto
        python -m mjx_serl.launch --local 2 --resume runs/pair

    A host needs this folder and this python where they are here (a shared file system), and ssh
    that asks for no password. docs/scale.md has the rest.

    Attributes:
        local: processes on this machine.
        hosts: machines with one process each, reached by ssh; the first holds rank 0.
        slurm: print a script for sbatch in place of starting anything, for so many nodes.
        kubernetes: print a JobSet for kubectl in place of starting anything, for so many pods.
        join: be one of the processes, as the environment says (MJX_SERL_COORDINATOR, _RANKS and
            _RANK): what the script and the JobSet call.
        interface: address that rank 0 listens at and the others ask; by default loopback for
            --local, and the first of --hosts.
        port: there; by default a free one for --local, and 8476.
        restarts: at most, without a newer checkpoint in between.
        join_seconds: that the processes have to find each other [s].
        image: of the pods.
        gpus: of each pod.
    """

    local: int | None = None
    hosts: tuple[str, ...] = ()
    slurm: int | None = None
    kubernetes: int | None = None
    join: bool = False
    interface: str | None = None
    port: int | None = None
    restarts: int = 5
    join_seconds: int = 300
    image: str = "mjx-serl"
    gpus: int = 1

    def check(self) -> None:
        """Raise InputError for what does not go together."""
        ways = {
            "--local N": self.local is not None,
            "--hosts A B": bool(self.hosts),
            "--slurm N": self.slurm is not None,
            "--kubernetes N": self.kubernetes is not None,
            "--join": self.join,
        }
        if sum(ways.values()) != 1:
            said = " ".join(name for name, given in ways.items() if given) or "none of them"
            raise InputError(f"{said}, allowed: one of {', '.join(ways)}")
        for name in ("local", "slurm", "kubernetes"):
            if (count := getattr(self, name)) is not None:
                require_number(name, count, least=1, whole=True)
        require_number("restarts", self.restarts, least=0, whole=True)
        require_number("join_seconds", self.join_seconds, least=1, whole=True)
        if self.port is not None:
            require_port(self.port)
        if any(host.startswith("-") for host in self.hosts) or len(set(self.hosts)) < len(
            self.hosts
        ):
            raise InputError(f"--hosts {' '.join(self.hosts)}, allowed: names, each of them once")


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; returns the exit status."""
    options, words = tyro.cli(
        LaunchOptions,
        args=argv,
        return_unknown_args=True,
        prog="python -m mjx_serl.launch",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    options.check()
    run = LaunchedRun.of(words)
    if options.join:
        return _join(run)
    if options.slurm or options.kubernetes:
        sys.stdout.write(_template(options, run, words))
        return 0
    own = ("--local", str(options.local)) if options.local else ("--hosts", *options.hosts)
    supervisor = Supervisor(
        run,
        _places(options),
        _coordinator(options),
        go_on=f"python -m mjx_serl.launch {shlex.join(own)} --resume {run.folder.path}",
        restarts=options.restarts,
        join_s=options.join_seconds,
    )
    return supervisor.train()


def _places(options: LaunchOptions) -> list[Place]:
    if options.local is not None:
        return local_places(options.local)
    return [Place(host, ssh=SSH) for host in options.hosts]


def _coordinator(options: LaunchOptions) -> Coordinator:
    """Where the processes meet: a free port each time, or what was said."""
    interface = options.interface or (LOOPBACK if options.local else options.hosts[0])

    def fixed(starts: int, port: int) -> tuple[str, str]:
        del starts
        return f"{interface}:{port}", f"{interface}:{port}"

    def free(starts: int) -> tuple[str, str]:
        try:
            with socket.create_server((interface, 0)) as server:
                return fixed(starts, server.getsockname()[1])
        except OSError as error:
            raise InputError(
                f"--interface {interface}: {error.strerror}; allowed: an address of this machine"
            ) from error

    if options.port is None and options.local is not None:
        return free
    return partial(fixed, port=options.port or PORT)


def _template(options: LaunchOptions, run: LaunchedRun, words: Sequence[str]) -> str:
    # Words that begin or go on with the same run whenever they are read.
    words, path = run.begins or words, run.folder.path
    attempts, port = options.restarts + 1, options.port or PORT
    if options.slurm is not None:
        return slurm_script(path, words, count=options.slurm, attempts=attempts, port=port)
    return job_set(
        path,
        words,
        count=options.kubernetes or 1,
        attempts=attempts,
        image=options.image,
        gpus=options.gpus,
        port=port,
    )


def _join(run: LaunchedRun) -> int:
    """Train as one of the processes; returns a failure where the run is not finished."""
    if read_ranks() is None:
        raise InputError("--join without MJX_SERL_COORDINATOR, MJX_SERL_RANKS and MJX_SERL_RANK")
    # Before any of them has met the others nothing of the run is written, so all decide alike.
    process = subprocess.Popen([*TRAIN, *run.words()], start_new_session=True)
    with StopSignal(on_first=process.terminate, on_second=process.kill):
        status = process.wait()
    return UNFINISHED if status == 0 and not run.folder.is_finished else status


def run() -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(run())
