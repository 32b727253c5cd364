"""What a SERL server's /getstate answers, checked number by number."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_bridge.driver import Vector
from robot_bridge.drivers.serl_http.json_server import HttpError


@dataclass(frozen=True)
class SerlState:
    """A checked answer.

    Attributes:
        pose: of the tool [7]: position [m] and xyzw.
        twist: [6], linear [m/s] over angular [rad/s].
        q: joint positions [J] [rad].
        dq: joint velocities [J] [rad/s].
        gripper: opening in the server's own unit.
    """

    pose: Vector
    twist: Vector
    q: Vector
    dq: Vector
    gripper: float


def parse_state(answer: dict[str, Any], joints: int) -> SerlState:
    """Check an answer of /getstate; HttpError names the field that is not as it should be."""
    pose = _numbers(answer, "pose", 7)
    norm = float(np.linalg.norm(pose[3:]))
    if abs(norm - 1.0) > 0.01:
        raise HttpError(f"/getstate: the quaternion's norm is {norm:.3f}, allowed 1")
    pose[3:] /= norm
    gripper = _numbers({"gripper_pos": [answer.get("gripper_pos")]}, "gripper_pos", 1)
    return SerlState(
        pose=pose,
        twist=_numbers(answer, "vel", 6),
        q=_numbers(answer, "q", joints),
        dq=_numbers(answer, "dq", joints),
        gripper=float(gripper[0]),
    )


def _numbers(answer: dict[str, Any], name: str, count: int) -> Vector:
    row = answer.get(name)
    if not (isinstance(row, list) and len(row) == count and all(map(_is_number, row))):
        raise HttpError(f"/getstate: {name} is {str(row)[:40]}, allowed {count} finite numbers")
    return np.array(row, float)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6
