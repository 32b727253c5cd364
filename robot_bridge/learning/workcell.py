"""A task at a real arm as data: where its goal is, what counts as there, where episodes begin.

    {"target": [0.4906, 0.0777, 0.0938, 3.110, 0.0147, -0.0079],
     "threshold": [0.01, 0.01, 0.01, 0.2, 0.2, 0.2],
     "reset_offset": [0, 0, 0.1], "reset_range": [0.05, 0.05, 0.0], "reset_yaw": 0.52,
     "joint_reset_every": 200,
     "compliance": {"translational_stiffness": 2000, "translational_clip": [0.003, 0.003, 0.01],
                    "rotational_clip": [0.02, 0.02, 0.02]},
     "precision": {"translational_stiffness": 3000, "rotational_stiffness": 300,
                   "rotational_damping": 9},
     "cameras": {"wrist_1": {"source": "realsense:130322274175", "crop": [80, 0, 480, 480]}},
     "workspace_low": [0.44, 0.02, 0.09], "workspace_high": [0.55, 0.13, 0.2]}

is SERL's peg insertion (reference serl_family.md 2.2) a hand's breadth nearer to the arm. A pose is
x, y, z [m] and roll, pitch, yaw [rad] of the tool centre in the base frame, the angles about the
base's axes in that order.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robot_bridge.compliance import Compliance
from robot_bridge.messages import Ending, Tick
from robot_bridge.safety.kinematics import Chain, quat_to_vector, vector_to_quat
from robot_bridge.safety.limits import Limits
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.rotations import multiply_quats, quat_to_matrix
from scenes.contract.serialize import from_json

Vec3 = tuple[float, float, float]
Pose = tuple[float, float, float, float, float, float]
_MAX_BYTES = 1 << 20
# An arm's way to a start must end there: position [m] and rotation [rad] that its joints may miss.
_REACHED = (1e-3, 0.02)


@dataclass(frozen=True, kw_only=True)
class WorkcellCamera:
    """A camera of a workcell.

    Attributes:
        source: as of `deploy.py --cameras`, for example realsense:SERIAL or /dev/video0.
        crop: left and upper edge, width and height of what the policy sees [px]; None is the part
            that the policy's camera spans.
    """

    source: str
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class WorkcellConfig:
    """What a task is at one arm.

    Attributes:
        target: pose of the tool centre at the goal; None pays for nothing by itself.
        threshold: distance from it in x, y, z [m] and about these axes [rad] that counts as there.
        reset_offset: from the target to the middle of where episodes begin [m].
        reset_range: half the size of that region [m].
        reset_yaw: how far episodes may begin turned about the vertical, either way [rad]; for
            policies that turn the tool.
        joint_reset_every: episodes between two returns to the contract's home, which undo what
            redundant joints have drifted; 0 never but before the first.
        workspace_low, workspace_high: box for the tool centre [m], inside the arm's own.
        seed: of the starts.
        cameras: by the policy's names of them.
        compliance: of the arm in an episode; None leaves its own.
        precision: of the arm on its way to a start; None is the same as in an episode.
    """

    target: Pose | None = None
    threshold: Pose = (0.01, 0.01, 0.01, 0.2, 0.2, 0.2)
    reset_offset: Vec3 = (0.0, 0.0, 0.1)
    reset_range: Vec3 = (0.0, 0.0, 0.0)
    reset_yaw: float = ranged(0.0, least=0, most=math.pi)
    joint_reset_every: int = ranged(0, least=0)
    workspace_low: Vec3 | None = None
    workspace_high: Vec3 | None = None
    seed: int = 0
    cameras: Mapping[str, WorkcellCamera] = field(default_factory=dict)
    compliance: Compliance | None = None
    precision: Compliance | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        numbers = (*(self.target or ()), *self.threshold, *self.reset_offset, *self.reset_range)
        if not np.isfinite(numbers).all() or min((*self.threshold, *self.reset_range)) < 0:
            raise InputError("Workcell: thresholds and ranges must not be negative, all finite")
        if self.precision is not None and self.compliance is None:
            raise InputError("Workcell: precision is for resets; give the episodes' compliance too")

    def joints_due(self, episode: int) -> bool:
        """Whether joints go home before an episode, by its number."""
        every = self.joint_reset_every
        return episode == 0 or bool(every and episode % every == 0)

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


class Start(NamedTuple):
    """Where an episode begins.

    Attributes:
        way: joint positions to go to, one after the other [rad].
        quat: in which the tool is commanded to begin, wxyz; None is the contract's.
    """

    way: list[NDArray[np.float64]]
    quat: NDArray[np.float64] | None = None


@dataclass
class Workcell:
    """A workcell's goal and starts for one arm.

    Args:
        config: what it is.
        contract: of the policy, with the arm that is connected as its robot.
        limits: in force.

    Raises InputError where an episode could begin out of the arm's reach, or turned as the policy
    cannot turn.
    """

    config: WorkcellConfig
    contract: Contract
    limits: Limits
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        cfg = self.config
        self._chain, self._rng = Chain(self.contract.robot), np.random.default_rng(cfg.seed)
        if cfg.reset_yaw and not (cfg.target and self.contract.action.turns):
            lacks = "the policy's actions turn the tool" if cfg.target else "there is a target"
            raise InputError(f"Workcell: reset_yaw {cfg.reset_yaw:g}, allowed: 0 unless {lacks}")
        if cfg.target is not None:
            # The widest turns, with or without going to a corner.
            corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
            for corner in (np.zeros(4), *corners):
                self._joints(corner)

    def start(self, episode: int) -> Start:
        """Draw where an episode begins, by its number."""
        home = np.asarray(self.contract.home)
        joints = [home] if self.config.joints_due(episode) else []
        if self.config.target is None:
            return Start(joints or [home])
        share = self._rng.uniform(-1.0, 1.0, 4 if self.config.reset_yaw else 3)
        share = np.append(share, 0.0)[:4]
        turned = self._quat(share) if self.contract.action.turns else None
        return Start([*joints, self._joints(share)], turned)

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

    def _quat(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Orientation of a start, wxyz; `share` as of `_joints`."""
        assert self.config.target is not None
        yaw = vector_to_quat(np.array([0.0, 0.0, share[3] * self.config.reset_yaw]))
        return multiply_quats(yaw, _quat(self.config.target))

    def _joints(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joint positions of a start; `share` [4] is where in the region of position and yaw it is,
        each -1 to 1.
        """
        cfg = self.config
        assert cfg.target is not None
        middle = _position(cfg.target) + np.asarray(cfg.reset_offset)
        place, quat = middle + share[:3] * np.asarray(cfg.reset_range), self._quat(share)
        self._require_turn(quat)
        low, high = np.asarray(self.limits.workspace_low), np.asarray(self.limits.workspace_high)
        found = self._chain.solve(place, quat)
        out = (found.q < self.limits.q_low) | (found.q > self.limits.q_high)
        missed = found.position_error > _REACHED[0] or found.rotation_error > _REACHED[1]
        if missed or out.any() or (place < low).any() or (place > high).any():
            turned = f", turned by {share[3] * cfg.reset_yaw:.2f} rad" if cfg.reset_yaw else ""
            raise InputError(
                f"Workcell: an episode may begin at {np.round(place, 4).tolist()} m{turned}, which "
                "is out of the arm's reach or its workspace; make reset_range, reset_yaw or "
                "reset_offset smaller"
            )
        return found.q

    def _require_turn(self, quat: NDArray[np.float64]) -> None:
        """Raise InputError where the tool may not stay turned so once the episode has begun."""
        tilt = math.acos(np.clip(-quat_to_matrix(quat.tolist())[2, 2], -1.0, 1.0))
        if tilt > self.limits.orientation_cone:
            raise InputError(
                f"Workcell: target tilts the tool by {tilt:.2f} rad, allowed: up to "
                f"{self.limits.orientation_cone:.2f} rad (orientation_cone)"
            )
        action = self.contract.action
        if not action.turns or action.turn_limit is None:
            return
        away = multiply_quats(quat, _inverse(np.asarray(self.contract.orientation)))
        turn = float(np.linalg.norm(quat_to_vector(away.tolist())))
        if turn > action.turn_limit + _REACHED[1]:
            raise InputError(
                f"Workcell: an episode may begin turned by {turn:.2f} rad from where the policy's "
                f"begin, allowed: {action.turn_limit:g} rad; make reset_yaw smaller, or turn target"
            )


def _position(pose: Pose) -> NDArray[np.float64]:
    return np.asarray(pose[:3], np.float64)


def _quat(pose: Pose) -> NDArray[np.float64]:
    """Roll, pitch, yaw about the base's axes, one after the other, as scipy's "xyz"."""
    turns = [vector_to_quat(axis * angle) for axis, angle in zip(np.eye(3), pose[3:], strict=True)]
    roll, pitch, yaw = turns
    return multiply_quats(yaw, multiply_quats(pitch, roll))


def _inverse(quat: NDArray[np.float64]) -> NDArray[np.float64]:
    return quat * np.array([1.0, -1.0, -1.0, -1.0])
