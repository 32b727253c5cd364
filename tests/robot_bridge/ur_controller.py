"""A UR controller on this machine that speaks the real protocols, and runs the program it is sent.

RTDE (30004), the script interface (30002), the dashboard (29999) and Robotiq's URCap (63352), on a
loopback address of its own. The URScript is not imitated but run: its few words are Python's, and
each that takes time turns the controller by cycles of 2 ms. It enforces what the arm would: a
target too far away, a joint beyond its range or a program that asks for it is a protective stop.
"""

import contextlib
import itertools
import math
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from driver_conformance import forward

from robot_bridge.safety.kinematics import quat_to_vector
from scenes.robots.ur5e import ur5e_2f85

CYCLE = 0.002  # [s]
SAFETY = {"protective": 2, "safeguard": 4, "emergency": 6, "fault": 9}  # bits by name
UNLOCK_AFTER = 0.3  # [s] a protective stop may be released; 5 on a real one, which tests wait for
RTDE, SCRIPT, DASHBOARD, GRIPPER = 30004, 30002, 29999, 63352
_NUMBERS = itertools.count()
_CODES = {"DOUBLE": "d", "VECTOR6D": "6d", "INT32": "i", "UINT32": "I", "UINT8": "B"}
_TYPES = {
    **dict.fromkeys(("actual_q", "actual_qd", "actual_TCP_pose", "actual_TCP_speed"), "VECTOR6D"),
    **dict.fromkeys(("joint_temperatures", "actual_current"), "VECTOR6D"),
    **dict.fromkeys(("robot_status_bits", "safety_status_bits", "runtime_state"), "UINT32"),
    **{f"{way}_int_register_{i}": "INT32" for way in ("input", "output") for i in range(48)},
    **{f"{way}_double_register_{i}": "DOUBLE" for way in ("input", "output") for i in range(48)},
    "timestamp": "DOUBLE",
    "robot_mode": "INT32",
}


class _EndedError(Exception):
    """The program is taken off the controller."""


class UrController:
    """The arm and its controller; `with` serves it.

    host: where. remote: takes programs. robot_mode, freedrive, stops (names of SAFETY), version:
    what it says of itself. frozen: sends the same state again and again. silent: sends none. tool:
    from our tool centre to the one of its installation [m]. active: whether the gripper is. grips:
    its POS open and closed, or on what it holds; position, wanted: where it is and was told to be.
    late: its next answer [s]. registers, scripts, said: what was written, sent and told.
    """

    def __init__(self) -> None:
        number = os.getpid() * 64 + next(_NUMBERS)
        mac = sys.platform == "darwin"  # which has no other loopback address
        self.host = "127.0.0.1" if mac else f"127.77.{number // 250 % 250}.{number % 250 + 1}"
        self.robot = ur5e_2f85()
        self.q, self.qd = list(self.robot.home), [0.0] * 6
        self.remote, self.freedrive, self.active = True, False, True
        self.robot_mode, self.version = 7, (5, 12, 4, 1101319)
        self.stops: set[str] = set()
        self.frozen = self.silent = False
        self.position, self.wanted, self.grips = 3.0, 3.0, [3, 230]
        self.tool = (0.0, 0.0, 0.0)
        self.late = 0.0
        self.registers: dict[str, float] = {}
        self.writers: dict[str, object] = {}
        self.program: Callable[..., object] | None = None
        self.pending: str | None = None
        self.scripts: list[str] = []
        self.said: list[str] = []
        self.cycles, self.stopped_at = 0, -1e9
        self.lock = threading.RLock()
        self.clients: list[Rtde] = []
        self._closing = threading.Event()
        self._due = time.monotonic()

    def __enter__(self) -> "UrController":
        services = {
            RTDE: self._serve_rtde,
            SCRIPT: self._serve_script,
            DASHBOARD: self._serve_dashboard,
            GRIPPER: self._serve_gripper,
        }
        self._servers = [socket.create_server((self.host, port)) for port in services]
        for server, serve in zip(self._servers, services.values(), strict=True):
            threading.Thread(target=self._accept, args=(server, serve), daemon=True).start()
        self._arm = threading.Thread(target=self._run, daemon=True)
        self._arm.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._closing.set()
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        self._arm.join()

    @property
    def running(self) -> bool:
        """Whether a program runs."""
        return self.program is not None

    def stop(self, name: str) -> None:
        """Stop for safety's sake, as `name` of SAFETY says; the program ends."""
        with self.lock:
            self.stops.add(name)
            self.stopped_at = time.monotonic()
            self.program = None

    def hang_up(self) -> None:
        """Cut every RTDE connection."""
        with self.lock:
            clients, self.clients = self.clients, []
        for client in clients:
            client.hang_up()

    # -- the arm ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            with self.lock:
                source, self.pending = self.pending, None
                self.program = compiled(source, self._words()) if source else None
            if self.program is None:
                self._cycle()
                continue
            with contextlib.suppress(_EndedError):
                self.program()
            with self.lock:
                self.program = None

    def _cycle(self, target: list[float] | None = None, lag: float = 1.0) -> None:
        """One cycle of 2 ms: towards joints [rad], `lag` [s] behind them, or at rest."""
        self._due = max(self._due + CYCLE, time.monotonic() - CYCLE)
        time.sleep(max(0.0, self._due - time.monotonic()))
        with self.lock:
            mine = self.program
            speed = [0.0] * 6
            if target is not None and not self.stops:
                speed = [(t - q) / lag for t, q in zip(target, self.q, strict=True)]
            self._check(speed)
            self.qd = [0.0] * 6 if self.stops else speed
            self.q = [q + v * CYCLE for q, v in zip(self.q, self.qd, strict=True)]
            step = 255 / 0.57 * CYCLE * 0.85  # 150 mm/s
            aim = min(max(self.wanted, self.grips[0]), self.grips[1])
            self.position += min(max(aim - self.position, -step), step)
            self.cycles += 1
            clients = list(self.clients)
        if self.cycles % 4 == 0 and not self.silent:
            for client in clients:
                client.publish()
            for client in clients:
                client.wait()
        ended = self.stops or self.pending or mine is not self.program or self._closing.is_set()
        if target is not None and ended:
            raise _EndedError

    def _check(self, speed: list[float]) -> None:
        robot = self.robot
        for v, most, q, low, high in zip(
            speed, robot.dq_max, self.q, robot.q_min, robot.q_max, strict=True
        ):
            if abs(v) > most or not low <= q + v * CYCLE <= high:
                self.stop("protective")

    def _words(self) -> dict[str, Any]:
        """URScript's, as far as our program speaks it."""

        def servoj(q, a, v, t, lookahead_time, gain) -> None:
            assert 0.03 <= lookahead_time <= 0.2 and 100 <= gain <= 2000
            for _ in range(round(t / CYCLE)):
                self._cycle(list(q), lookahead_time)

        def stopj(a) -> None:
            for _ in range(math.ceil(max(map(abs, self.qd)) / a / CYCLE)):
                self._cycle(list(self.q), 1.0)

        def write(i, value) -> None:
            self.registers[f"output_int_register_{i}"] = value

        def protective_stop() -> None:
            self.stop("protective")
            raise _EndedError

        reads = lambda kind: lambda i: self.registers.get(f"input_{kind}_register_{i}", 0)  # noqa: E731
        return {
            "servoj": servoj,
            "stopj": stopj,
            "write_output_integer_register": write,
            "read_input_integer_register": reads("int"),
            "protective_stop": protective_stop,
            "read_input_float_register": reads("double"),
            "sync": lambda: self._cycle(list(self.q)),
        }

    def value(self, name: str) -> list[float]:
        """What an output of RTDE says now."""
        position, quat = forward(self.robot, np.array(self.q))
        pose = [*(position + np.array(self.tool)), *quat_to_vector(quat.tolist())]
        known = {
            "timestamp": [self.cycles * CYCLE],
            "actual_q": self.q,
            "actual_qd": self.qd,
            "actual_TCP_pose": pose,
            "actual_TCP_speed": [0.0] * 6,
            "joint_temperatures": [31.0, 32.0, 33.0, 34.0, 35.0, 36.0],
            "actual_current": [0.0, -2.5, 1.5, 0.1, 0.1, 0.1],
            "robot_mode": [self.robot_mode],
            "robot_status_bits": [1 | self.running << 1 | self.freedrive << 2],
            "safety_status_bits": [sum(1 << SAFETY[s] for s in self.stops) or 1],
            "runtime_state": [2 if self.running else 1],
        }
        return known[name] if name in known else [self.registers.get(name, 0)]

    # -- its services ----------------------------------------------------------------------------

    def _accept(self, server: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        def guarded(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                serve(client)

        while not self._closing.is_set():
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                threading.Thread(target=guarded, args=(client,), daemon=True).start()

    def _serve_rtde(self, client: socket.socket) -> None:
        session = Rtde(self, client)
        try:
            session.serve()
        finally:
            with self.lock:
                self.clients = [c for c in self.clients if c is not session]
                self.writers = {k: w for k, w in self.writers.items() if w is not session}

    def _serve_script(self, client: socket.socket) -> None:
        source = ""
        while not source.endswith("\nend\n"):
            received = client.recv(4096)
            if not received:
                return
            source += received.decode()
        self.scripts.append(source)
        if self.remote and self.robot_mode == 7 and not self.stops:
            with self.lock:
                self.pending = source
        client.recv(1)  # until the other side lets go

    def _serve_dashboard(self, client: socket.socket) -> None:
        client.sendall(b"Connected: Universal Robots Dashboard Server\n")
        with client.makefile("r") as lines:
            for line in lines:
                self.said.append(line.strip())
                client.sendall(self._answer(line.strip()).encode() + b"\n")

    def _answer(self, command: str) -> str:
        if command == "get serial number":
            return "20235500042"
        if command == "PolyscopeVersion":
            return "URSoftware {}.{}.{}.{} (Nov 22 2022)".format(*self.version)
        if command == "unlock protective stop":
            if time.monotonic() - self.stopped_at < UNLOCK_AFTER:
                return (
                    "Cannot unlock protective stop until 5s after occurrence. "
                    "Always inspect cause of protective stop before unlocking"
                )
            self.stops.discard("protective")
            return "Protective stop releasing"
        return f"could not understand: '{command}'"

    def _serve_gripper(self, client: socket.socket) -> None:
        with client.makefile("r") as lines:
            for line in lines:
                words = line.split()
                time.sleep(self.late)
                self.late = 0.0
                if words[0] == "SET":
                    self.said.append(line.strip())
                    self.wanted = float(dict(zip(words[1::2], words[2::2], strict=True))["POS"])
                    client.sendall(b"ack")
                else:
                    known = {"POS": round(self.position), "STA": 3 if self.active else 0}
                    client.sendall(f"{words[1]} {known[words[1]]}".encode())


class Rtde:
    """One RTDE client of the controller."""

    def __init__(self, controller: UrController, client: socket.socket) -> None:
        self._controller, self._client = controller, client
        self._outputs: list[str] = []
        self._recipes: list[list[str]] = []
        self._every = self._count = 0
        self._last = b""
        self._answered = threading.Event()

    def serve(self) -> None:
        """Answer until the client goes."""
        with self._client.makefile("rb") as stream:
            while len(head := stream.read(3)) == 3:
                size, kind = struct.unpack(">Hc", head)
                answer = self._answer(kind, stream.read(size - 3))
                if answer is not None:
                    self._send(kind, answer)
                if kind == b"S":
                    with self._controller.lock:
                        self._controller.clients.append(self)

    def publish(self) -> None:
        """Send the state, whatever becomes of it."""
        controller = self._controller
        self._answered.clear()
        if not (controller.frozen and self._last):
            with controller.lock:
                rows = [v for name in self._outputs for v in controller.value(name)]
            self._last = struct.pack(">B" + self._layout(self._outputs), 1, *rows)
        with contextlib.suppress(OSError):
            self._send(b"U", self._last)

    def wait(self) -> None:
        """Let one that writes answer: a busy machine is not an arm that is left alone."""
        if self._recipes:
            self._answered.wait(0.25)

    def hang_up(self) -> None:
        """Cut the connection."""
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def _answer(self, kind: bytes, payload: bytes) -> bytes | None:
        if kind == b"V":
            return b"\x01" if payload == b"\x00\x02" else b"\x00"
        if kind == b"v":
            return struct.pack(">4I", *self._controller.version)
        if kind == b"O":
            # ur-rtde ends its list with a comma, which a controller does not mind.
            self._outputs = payload[8:].decode().strip(",").split(",")
            return b"\x01" + self._types(self._outputs)
        if kind == b"I":
            return self._inputs(payload.decode().strip(",").split(","))
        if kind == b"U":
            names = self._recipes[payload[0] - 1]
            rows = struct.unpack(">x" + self._layout(names), payload)
            with self._controller.lock:
                self._controller.registers.update(zip(names, rows, strict=True))
            self._answered.set()
            return None
        return b"\x01"

    def _inputs(self, names: list[str]) -> bytes:
        """Each input has one writer at a time."""
        used = self._used(names)
        for _ in range(40):  # one that has just gone may not be noticed yet
            if not any(used):
                break
            time.sleep(0.01)
            used = self._used(names)
        if any(used):
            types = ("IN_USE" if u else _TYPES[n] for u, n in zip(used, names, strict=True))
            return b"\x00" + ",".join(types).encode()
        self._controller.writers.update(dict.fromkeys(names, self))
        self._recipes.append(names)
        return bytes([len(self._recipes)]) + self._types(names)

    def _used(self, names: list[str]) -> list[bool]:
        return [self._controller.writers.get(name, self) is not self for name in names]

    def _types(self, names: list[str]) -> bytes:
        return ",".join(_TYPES.get(name, "NOT_FOUND") for name in names).encode()

    def _layout(self, names: list[str]) -> str:
        return "".join(_CODES[_TYPES[name]] for name in names)

    def _send(self, kind: bytes, payload: bytes) -> None:
        self._client.sendall(struct.pack(">Hc", 3 + len(payload), kind) + payload)


def compiled(source: str, words: dict[str, Any]) -> Callable[..., object]:
    """A URScript program as a Python function: blocks end with `end` there, all else is alike."""
    lines = [line for line in source.splitlines() if line.strip() != "end"]
    name = re.match(r"def (\w+)\(\):", lines[0])[1]
    exec("\n".join(lines), words)
    return words[name]


def served() -> Iterator[UrController]:
    """For a fixture."""
    with UrController() as controller:
        yield controller
