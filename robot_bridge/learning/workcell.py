"""A task at a real arm as data: where its goal is, what counts as there, where episodes begin.

    {"target": [0.4906, 0.0777, 0.0938, 3.110, 0.0147, -0.0079],
     "threshold": [0.01, 0.01, 0.01, 0.2, 0.2, 0.2],
     "reset_offset": [0, 0, 0.1], "reset_range": [0.05, 0.05, 0.0], "joint_reset_every": 200,
     "workspace_low": [0.44, 0.02, 0.09], "workspace_high": [0.55, 0.13, 0.2]}

is SERL's peg insertion (reference serl_family.md 2.2) a hand's breadth nearer to the arm. A pose is
x, y, z [m] and roll, pitch, yaw [rad] of the tool centre in the base frame, the angles about the
base's axes in that order.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.messages import Ending, Tick
from robot_bridge.safety.kinematics import Chain, quat_to_vector, vector_to_quat
from robot_bridge.safety.limits import Limits
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import multiply_quats
from scenes.contract.serialize import from_json

Vec3 = tuple[float, float, float]
Pose = tuple[float, float, float, float, float, float]
_MAX_BYTES = 1 << 20
# An arm's way to a start must end there: position [m] and rotation [rad] that its joints may miss.
_REACHED = (1e-3, 0.02)


@dataclass(frozen=True, kw_only=True)
class WorkcellConfig:
    """What a task is at one arm.

    Attributes:
        target: pose of the tool centre at the goal; None pays for nothing by itself.
        threshold: distance from it in x, y, z [m] and about these axes [rad] that counts as there.
        reset_offset: from the target to the middle of where episodes begin [m].
        reset_range: half the size of that region [m].
        joint_reset_every: episodes between two returns to the contract's home, which undo what
            redundant joints have drifted; 0 never but before the first.
        workspace_low, workspace_high: box for the tool centre [m], inside the arm's own.
        seed: of the starts.
    """

    target: Pose | None = None
    threshold: Pose = (0.01, 0.01, 0.01, 0.2, 0.2, 0.2)
    reset_offset: Vec3 = (0.0, 0.0, 0.1)
    reset_range: Vec3 = (0.0, 0.0, 0.0)
    joint_reset_every: int = ranged(0, least=0)
    workspace_low: Vec3 | None = None
    workspace_high: Vec3 | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        numbers = (*(self.target or ()), *self.threshold, *self.reset_offset, *self.reset_range)
        if not np.isfinite(numbers).all() or min((*self.threshold, *self.reset_range)) < 0:
            raise InputError("Workcell: thresholds and ranges must not be negative, all finite")

    @property
    def tightened(self) -> dict[str, Any]:
        """What it asks of the limits."""
        boxes = {"workspace_low": self.workspace_low, "workspace_high": self.workspace_high}
        return {name: box for name, box in boxes.items() if box is not None}


def read_workcell(path: Path) -> WorkcellConfig:
    """Read a file; InputError, in one line, for what is none."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"is larger than {_MAX_BYTES} bytes")
        return from_json(WorkcellConfig, json.loads(path.read_text()), allow_missing=True)
    except OSError as error:
        raise InputError(f"Workcell '{path}' cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"Workcell '{path}': {error}") from error


@dataclass
class Workcell:
    """A workcell's goal and starts for one arm.

    Args:
        config: what it is.
        robot: the arm.
        limits: in force.

    Raises InputError where an episode could begin out of the arm's reach.
    """

    config: WorkcellConfig
    robot: RobotSpec
    limits: Limits
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._chain, self._rng = Chain(self.robot), np.random.default_rng(self.config.seed)
        if self.config.target is not None:
            corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
            for corner in (np.zeros(3), *corners):
                self._joints(corner)

    def starts(self, episode: int, home: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Joint positions to go to before an episode, one after the other [rad].

        Args:
            episode: its number.
            home: the contract's [rad].
        """
        every = self.config.joint_reset_every
        joints = [home] if episode == 0 or (every and episode % every == 0) else []
        if self.config.target is None:
            return joints or [home]
        return [*joints, self._joints(self._rng.uniform(-1.0, 1.0, 3))]

    def judge(self, latest: Callable[[], Tick | None]) -> Callable[[], Ending | None]:
        """What says that the tool has arrived, of the newest tick; None goes on."""
        if self.config.target is None:
            return lambda: None
        target, quat = _position(self.config.target), _quat(self.config.target)
        threshold = np.asarray(self.config.threshold)

        def arrived() -> Ending | None:
            tick = latest()
            if tick is None:
                return None
            away = tick.state.position - target
            turn = quat_to_vector(multiply_quats(tick.state.quat, _inverse(quat)).tolist())
            there = np.abs(np.concatenate([away, turn])) <= threshold
            return "success" if there.all() else None

        return arrived

    def _joints(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joint positions of a start; `share` [3] is where in the region it is, each -1 to 1."""
        cfg = self.config
        assert cfg.target is not None
        middle = _position(cfg.target) + np.asarray(cfg.reset_offset)
        place = middle + share * np.asarray(cfg.reset_range)
        low, high = np.asarray(self.limits.workspace_low), np.asarray(self.limits.workspace_high)
        found = self._chain.solve(place, _quat(cfg.target))
        out = (found.q < self.limits.q_low) | (found.q > self.limits.q_high)
        missed = found.position_error > _REACHED[0] or found.rotation_error > _REACHED[1]
        if missed or out.any() or (place < low).any() or (place > high).any():
            raise InputError(
                f"Workcell: an episode may begin at {np.round(place, 4).tolist()} m, which is out "
                "of the arm's reach or its workspace; make reset_range or reset_offset smaller"
            )
        return found.q


def _position(pose: Pose) -> NDArray[np.float64]:
    return np.asarray(pose[:3], np.float64)


def _quat(pose: Pose) -> NDArray[np.float64]:
    """Roll, pitch, yaw about the base's axes, one after the other, as scipy's "xyz"."""
    turns = [vector_to_quat(axis * angle) for axis, angle in zip(np.eye(3), pose[3:], strict=True)]
    roll, pitch, yaw = turns
    return multiply_quats(yaw, multiply_quats(pitch, roll))


def _inverse(quat: NDArray[np.float64]) -> NDArray[np.float64]:
    return quat * np.array([1.0, -1.0, -1.0, -1.0])
