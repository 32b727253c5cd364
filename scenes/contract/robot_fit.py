"""What system identification found of an arm: `robot_fit.json`, written by `mjx_serl.sysid`.

Tasks take its values as their robot's own (`fitted_robot`), and its intervals as what may vary
(`fit_ranges`). Stdlib only; no code is read from it, only numbers and text.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scenes.contract.errors import InputError
from scenes.contract.files import write_atomically
from scenes.contract.robot import RobotSpec
from scenes.contract.serialize import digest, from_json, to_json

SCHEMA = 1
MAX_BYTES = 1 << 20  # of the file; a robot takes about 10 kB
MAX_ITEMS = 1000  # of its lists
FILE = "robot_fit.json"

# Parameters that a RobotSpec has for every joint, and those of the whole arm.
PER_JOINT = ("kp", "kd", "armature", "damping", "friction_loss")
OF_THE_ARM = ("payload", "delay")
_NOT_ZERO = ("kp", "kd")


@dataclass(frozen=True, kw_only=True)
class FittedValue:
    """One parameter.

    Attributes:
        field: of RobotSpec, or "delay": from a command to the drives [s].
        joint: its name; "" for what the whole arm has.
        value: found; nominal where it is held [the field's unit].
        low: lower end of its 95 % interval; of one that is held, nominal minus what is assumed of
            its error.
        high: likewise, the upper end.
        nominal: in the RobotSpec before.
        held: why it was not fitted; "" where it was.
    """

    field: str
    joint: str = ""
    value: float
    low: float
    high: float
    nominal: float
    held: str = ""

    def __post_init__(self) -> None:
        owner = f"FittedValue '{self.field} {self.joint}'".rstrip()
        allowed = PER_JOINT if self.joint else OF_THE_ARM
        if self.field not in allowed:
            raise InputError(f"{owner}: allowed fields here are {', '.join(allowed)}")
        numbers = (self.low, self.value, self.high, self.nominal)
        if not all(map(math.isfinite, numbers)) or not self.low <= self.value <= self.high:
            raise InputError(f"{owner}: low, value, high are {numbers[:3]}, allowed: in order")
        if self.low < 0 or (self.field in _NOT_ZERO and self.value <= 0):
            raise InputError(f"{owner}: {self.value:g} of at least {self.low:g} is no such number")


@dataclass(frozen=True, kw_only=True)
class FitErrors:
    """Root mean squares of simulated minus measured, before and after the fit.

    Attributes:
        position_before: [rad].
        position_after: [rad].
        velocity_before: [rad/s].
        velocity_after: [rad/s].
        seconds: of motion they are of [s].
    """

    position_before: float
    position_after: float
    velocity_before: float
    velocity_after: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FittedRecording:
    """A recording that was used: its folder's name and the sha256 of its parts."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RobotFit:
    """What was found of an arm.

    Attributes:
        schema: of this format.
        robot: name of its RobotSpec.
        sim_dt: physics step that it was fitted at [s]; at another one values mean something else.
        values: all parameters.
        fitted: errors on the motions that were fitted.
        validation: errors on motions that were not.
        recordings: that were used.
        versions: of what fitted.
    """

    schema: int = SCHEMA
    robot: str
    sim_dt: float
    values: tuple[FittedValue, ...]
    fitted: FitErrors
    validation: FitErrors
    recordings: tuple[FittedRecording, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"RobotFit: schema {self.schema}, allowed: {SCHEMA}")
        if max(len(self.values), len(self.recordings), len(self.versions)) > MAX_ITEMS:
            raise InputError(f"RobotFit: a list has more than {MAX_ITEMS} entries")

    @property
    def delay(self) -> float:
        """From a command to the drives [s]; 0 where it was not fitted."""
        return sum(v.value for v in self.values if v.field == "delay" and not v.held)

    @property
    def digest(self) -> str:
        """Sha256 of all of it."""
        return digest(self)


@dataclass(frozen=True, kw_only=True)
class FitRange:
    """What randomisation may vary: a 95 % interval, absolute, uniform between its ends.

    Attributes:
        field: of RobotSpec, or "delay" [s].
        joints: names of the joints; empty for what the whole arm has.
        low: [the field's unit].
        high: likewise.
    """

    field: str
    joints: tuple[str, ...]
    low: float
    high: float


def fit_ranges(fit: RobotFit, *, held: bool = False) -> tuple[FitRange, ...]:
    """Intervals as ranges; with `held` also what is assumed of values that were not fitted."""
    return tuple(
        FitRange(field=v.field, joints=(v.joint,) if v.joint else (), low=v.low, high=v.high)
        for v in fit.values
        if held or not v.held
    )


def fitted_robot(robot: RobotSpec, fit: RobotFit, *, registered: RobotSpec) -> RobotSpec:
    """The robot with the values that were fitted.

    A field in which the robot differs from the registered one of its name, such as the soft gains
    of a task that inserts, stays as it is: it was set on purpose, and not what was measured.
    """
    if robot.name != fit.robot:
        raise InputError(f"The fit is of a '{fit.robot}', this robot is a '{robot.name}'")
    changes: dict[str, object] = {}
    for name in PER_JOINT:
        found = {v.joint: v.value for v in fit.values if v.field == name and not v.held}
        unknown = sorted(set(found) - set(robot.joint_names))
        if unknown:
            raise InputError(f"The fit has a joint '{unknown[0]}', which '{robot.name}' has not")
        before = getattr(robot, name)
        if found and before == getattr(registered, name):
            start = before or (0.0,) * robot.num_joints
            pairs = zip(robot.joint_names, start, strict=True)
            changes[name] = tuple(found.get(joint, value) for joint, value in pairs)
    payload = [v.value for v in fit.values if v.field == "payload" and not v.held]
    if payload and robot.payload == registered.payload:
        changes["payload"] = payload[0]
    return dataclasses.replace(robot, **changes)


def save_robot_fit(path: Path, fit: RobotFit) -> None:
    """Write the file; it appears whole or not at all."""
    write_atomically(path, json.dumps(to_json(fit), indent=1, allow_nan=False) + "\n")


def load_robot_fit(path: Path) -> RobotFit:
    """Read a file, or the one in a folder; InputError says in one line what is wrong with it."""
    path = path / FILE if path.is_dir() else path
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES} bytes: it is no {FILE}")
    try:
        return from_json(RobotFit, json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no {FILE}: {str(error).splitlines()[0]}") from None


def sha256_of(folder: Path) -> str:
    """Sha256 of the parts of a recording, in order."""
    total = hashlib.sha256()
    for part in sorted(folder.glob("part-*.rec")):
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()
