"""A small server with SERL's routes and a kinematic arm, which can be told to misbehave."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from driver_conformance import forward

from robot_bridge.driver import Vector
from robot_bridge.safety.kinematics import Chain
from scenes.contract.robot import RobotSpec


class SerlServer:
    """An arm that is wherever it was last told to be; `misbehave` is None or one of ANSWERS.

    seen: every path posted, in order. poses: what /pose was given.
    """

    ANSWERS = ("hang", "garbage", "list", "nan", "infinite", "short", "long", "error", "drip")

    def __init__(self, robot: RobotSpec) -> None:
        self.robot, self.chain = robot, Chain(robot)
        self.q = np.array(robot.home)
        self.gripper = 1.0
        self.seen: list[str] = []
        self.poses: list[list[float]] = []
        self.misbehave: str | None = None
        self.params: list[dict] = []  # what /update_param was given
        self.slow = 0.0  # seconds that /pose takes
        self.lock = threading.Lock()

    def answer(self, path: str, body: dict) -> bytes:
        """What their server would say."""
        with self.lock:
            if path == "/getstate":
                return json.dumps(self.state()).encode()
            self.seen.append(path)
            if path == "/pose":
                self.poses.append(body["arr"])
                x, y, z, *quat = body["arr"]
                wxyz = np.array([quat[3], *quat[:3]])
                self.q = self.chain.solve(np.array([x, y, z]), wxyz, start=self.q).q
                return b"Moved"
            if path == "/update_param":
                self.params.append(body)
            if path in ("/open_gripper", "/close_gripper"):
                self.gripper = float(path == "/open_gripper")
            return b"ok"

    def state(self) -> dict:
        position, quat = forward(self.robot, self.q)
        zeros = [0.0] * 3
        return {
            "pose": [*position, *quat[1:], quat[0]],
            "vel": [0.0] * 6,
            "force": zeros,
            "torque": zeros,
            "q": self.q.tolist(),
            "dq": [0.0] * len(self.q),
            "jacobian": [[0.0] * len(self.q)] * 6,
            "gripper_pos": self.gripper,
        }


@contextlib.contextmanager
def serve_serl(robot: RobotSpec) -> Iterator[tuple[SerlServer, str]]:
    """The server and its url while the context lasts."""
    arm = SerlServer(robot)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(arm))
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield arm, f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def _handler(arm: SerlServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/pose":
                time.sleep(arm.slow)
            answer = arm.answer(self.path, json.loads(body or b"{}"))
            with contextlib.suppress(OSError):  # the client may have given up
                self._send(*_spoilt(arm, answer))

        def _send(self, status: int, answer: bytes, pause: float) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            for start in range(0, len(answer), 1 if pause else len(answer) or 1):
                self.wfile.write(answer[start : start + (1 if pause else len(answer))])
                time.sleep(pause)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    return Handler


def _spoilt(arm: SerlServer, answer: bytes) -> tuple[int, bytes, float]:
    """Status, bytes, and pause between them, as the server is told to misbehave."""
    spoil = {
        "garbage": lambda: (200, b"<html>Internal error</html>", 0.0),
        "list": lambda: (200, b"[1, 2, 3]", 0.0),
        "nan": lambda: (200, answer.replace(b'"dq": [0.0', b'"dq": [NaN'), 0.0),
        "infinite": lambda: (200, answer.replace(b'"dq": [0.0', b'"dq": [1e999'), 0.0),
        "short": lambda: (200, json.dumps(arm.state() | {"q": [0.0]}).encode(), 0.0),
        "long": lambda: (200, b" " * 10_000_000 + answer, 0.0),
        "error": lambda: (500, answer, 0.0),
        "drip": lambda: (200, answer, 0.1),
    }
    if arm.misbehave == "hang":
        time.sleep(3.0)
    return spoil[arm.misbehave]() if arm.misbehave in spoil else (200, answer, 0.0)


def pose_of(robot: RobotSpec, q: Vector) -> list[float]:
    """Their pose [7], xyzw, at joint positions [rad]."""
    position, quat = forward(robot, q)
    return [*position, *quat[1:], quat[0]]
